//! Measures MAMOS next to raw baselines, in one run, so that a figure means something on any machine.
//!
//! Every measure is taken twice in each round, once with MAMOS and once with the least code that does
//! the same on the same store, and given as a ratio. How to run it and what each measure is:
//! `docs/benchmarks.md`.

mod agents;
mod audit;
mod bed;
mod figures;
mod fleet;
mod link;
mod measures;
mod neighbours;
mod output;
mod raw;
mod running;
mod settings;
mod soak;

use std::process::ExitCode;

use clap::Parser;

use crate::figures::Findings;
use crate::output::Progress;
use crate::settings::{Arguments, Command, Measure, Settings};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output::failed(&anyhow::Error::new(error).context("no runtime could be started"));
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(complaints) => {
            output::complain(&complaints);
            if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => output::failed(&error),
    }
}

/// Measures what was asked for, and gives what is wrong with the figures.
async fn run(mut arguments: Arguments) -> anyhow::Result<Vec<String>> {
    match arguments.command.take() {
        Some(Command::Agents(arguments)) => fleet::measure(arguments).await,
        Some(Command::Soak(arguments)) => soak::measure(arguments).await.map(|()| Vec::new()),
        Some(Command::FleetServer(arguments)) => fleet::serve(arguments).await.map(|()| Vec::new()),
        Some(Command::Link(arguments)) => link::measure(arguments).await,
        Some(Command::Neighbours(arguments)) => neighbours::measure(arguments).await,
        None => {
            let settings = Settings::from_arguments(arguments)?;
            let findings = measure(&settings).await?;
            output::print(&settings, &findings);
            Ok(findings.complaints(&settings))
        }
    }
}

async fn measure(settings: &Settings) -> anyhow::Result<Findings> {
    let mut findings = Findings { store: bed::describe(settings).await?, ..Findings::default() };
    let progress = Progress::new();
    for measure in &settings.measures {
        match measure {
            Measure::Enqueue => measures::enqueue::measure(settings, &progress, &mut findings).await?,
            Measure::Bulk => measures::bulk::measure(settings, &progress, &mut findings).await?,
            Measure::Drain => measures::drain::measure(settings, &progress, &mut findings).await?,
            Measure::Latency => measures::latency::measure(settings, &progress, &mut findings).await?,
            Measure::Backlog => measures::backlog::measure(settings, &progress, &mut findings).await?,
        }
    }
    progress.done();
    Ok(findings)
}
