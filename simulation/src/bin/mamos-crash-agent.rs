//! An agent with a journal, made to be killed. With `--mark` it is the program of the command instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use mamos_simulation::crash::{Files, mark, serve};
use mamos_transport::socket::UnixFrameConnector;

#[derive(Parser)]
struct Arguments {
    /// Leaves a mark in the first file for the second argument, and does nothing else.
    #[arg(long, num_args = 2)]
    mark: Option<Vec<String>>,
    /// Where all files are.
    #[arg(required_unless_present = "mark")]
    directory: Option<PathBuf>,
    /// Which life this is.
    #[arg(default_value_t = 0)]
    life: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some([file, job]) = arguments.mark.as_deref() {
        return Ok(mark(Path::new(file), job)?);
    }
    let files = Files::new(arguments.directory.unwrap_or_default());
    let connector = UnixFrameConnector::new(files.socket());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(files, 0, arguments.life, Arc::new(connector)))
}
