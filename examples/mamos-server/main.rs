//! `mamos-server`: an orchestrator with its HTTP API and the agents' WebSocket.
//!
//! Everything it does is in `examples/src/server_program/`; `docs/operating.md` describes the settings.

use std::process::ExitCode;

use clap::Parser;
use mamos_examples::server_program::{Cli, main as obey};

#[tokio::main]
async fn main() -> ExitCode {
    obey(Cli::parse()).await
}
