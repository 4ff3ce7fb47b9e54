//! An agent that writes down what it does, over any link.

use std::path::PathBuf;

use clap::Args;

use super::Link;
use crate::crash::{self, Files};

/// What an agent is told.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Where all files are.
    #[arg(long)]
    pub directory: PathBuf,
    /// Which agent it is.
    #[arg(long)]
    pub number: usize,
    /// Which of its lives.
    #[arg(long)]
    pub life: u64,
    /// The ways to orchestrators.
    #[arg(long)]
    pub link: Vec<Link>,
}

/// Serves until the process is killed.
///
/// # Errors
///
/// Those of the file system, and if it is refused for good.
pub async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let connector = Link::connector(&arguments.link, arguments.number).await?;
    crash::serve(Files::new(&arguments.directory), arguments.number, arguments.life, connector).await
}
