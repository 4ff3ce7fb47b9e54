//! `mamosctl`: looks after a MAMOS orchestrator over its API.
//!
//! Everything it does is in `examples/src/ctl/`; `docs/mamosctl.md` is the reference.

use std::process::ExitCode;

use clap::Parser;
use mamos_examples::ctl::{Cli, main as obey};

#[tokio::main]
async fn main() -> ExitCode {
    obey(Cli::parse()).await
}
