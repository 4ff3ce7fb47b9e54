//! `mamos-agent`: runs whitelisted commands on this machine for a MAMOS orchestrator.
//!
//! Everything it does is in `examples/src/agent_program/`; `docs/operating.md` describes the settings.

use std::process::ExitCode;

use clap::Parser;
use mamos_examples::agent_program::{Cli, main as obey};

#[tokio::main]
async fn main() -> ExitCode {
    obey(Cli::parse()).await
}
