//! `cargo run --release --bin quickstart`: MAMOS on this machine, in a few seconds, with nothing to set up.
//!
//! Everything it does is in `examples/src/quickstart/`, one idea a file.

use std::process::ExitCode;

use clap::Parser;
use mamos_examples::quickstart::{Cli, run};

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
