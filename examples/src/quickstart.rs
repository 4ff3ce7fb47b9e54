//! The quickstart: an orchestrator and two agents on this machine.
//!
//! Read the files as a tour, in this order:
//!
//! 1. `service.rs`: a program becomes an orchestrator: a store, a listener, a whitelist.
//! 2. `numbers.rs`: a typed job and its handler.
//! 3. `agent.rs`: a process becomes an agent. `agents.rs`: how that process is started and killed.
//! 4. `command.rs`: a whitelisted command runs, or is refused. `policy.rs` loads `whitelist.toml`.
//! 5. `batch.rs`: ten thousand jobs, one agent killed mid-way. `measure.rs`: what the store says of it.
//! 6. `tour.rs`: all of that in order.
//!
//! The rest is the program around it: `cli.rs`, `place.rs`, `voice.rs`, `report.rs`, `history.rs`.

mod agent;
mod agents;
mod batch;
mod cli;
mod command;
mod ending;
mod history;
mod measure;
mod numbers;
mod place;
mod policy;
mod report;
mod service;
mod tour;
mod voice;
mod why;

use std::process::ExitCode;

pub use self::cli::Cli;
use self::cli::Order;
use self::ending::Ending;
use self::place::Place;
use self::voice::Voice;

/// Does what the command line says, and gives the exit code: see [`Cli`].
pub async fn run(cli: Cli) -> ExitCode {
    voice::show_traces();
    let voice = Voice::new(cli.json);
    let place = Place::new(cli.data);
    let result = match cli.order {
        None => tour::run(&place, cli.jobs, &voice).await,
        Some(Order::Run { command, parameters }) => command::run(&place, &command, parameters, &voice).await,
        Some(Order::Why { job }) => why::run(&place, job, &voice).await,
        Some(Order::History) => history::run(&place, &voice).await,
        Some(Order::Agent(options)) => agent::run(options).await,
    };
    let ending = result.unwrap_or_else(|error| {
        voice.complain(format_args!("{error:#}"));
        Ending::Failed
    });
    ending.into()
}
