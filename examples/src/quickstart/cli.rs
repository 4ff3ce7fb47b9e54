//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mamos_core::JobId;

/// MAMOS on this machine: an orchestrator, two agents, some commands, and ten thousand jobs of which
/// none is lost when an agent is killed.
///
/// Exit codes: 0 all went well; 1 it did not; 2 wrong usage; 5 the whitelist denies the command;
/// 7 the command ran and failed; 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "quickstart", version, max_term_width = 100)]
pub struct Cli {
    /// Where the database and the agents' identities are kept; made if it is missing
    #[arg(long, value_name = "DIR", default_value = "data", global = true)]
    pub(super) data: PathBuf,
    /// Print one JSON object on standard output at the end; all talk goes to standard error
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// How many typed jobs the tour runs, 1000 to 1000000
    #[arg(long, value_name = "COUNT", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    pub(super) jobs: u32,
    #[command(subcommand)]
    pub(super) order: Option<Order>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// Run one whitelisted command, and show its output as it comes
    Run {
        /// Its name, for example `disk-usage`
        command: String,
        /// Its parameters, for example `path=/`
        #[arg(value_name = "NAME=VALUE", value_parser = parameter)]
        parameters: Vec<(String, String)>,
    },
    /// Say where a job is and what it waits for
    Why {
        /// The id of the job
        job: JobId,
    },
    /// Count the jobs of all runs so far, by queue and state
    History,
    /// Be an agent; the quickstart starts itself anew with this
    #[command(hide = true)]
    Agent(AgentOptions),
}

/// What an agent's process must know. Its registration token comes in the environment, where other
/// users of the machine cannot see it.
#[derive(Debug, Args)]
pub(super) struct AgentOptions {
    #[arg(long)]
    pub(super) name: String,
    #[arg(long)]
    pub(super) socket: PathBuf,
    #[arg(long)]
    pub(super) state: PathBuf,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, for example path=/")?;
    Ok((name.to_owned(), value.to_owned()))
}
