//! Measures MAMOS next to raw baselines, in one run, so that a figure means something on any machine.
//!
//! Every measure is taken twice in each round, once with MAMOS and once with the least code that does
//! the same on the same store, and given as a ratio. How to run it and what each measure is:
//! `docs/benchmarks.md`.

mod agents;
mod audit;
mod bed;
mod figures;
mod measures;
mod output;
mod raw;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use crate::figures::Findings;
use crate::output::Progress;
use crate::settings::{Arguments, Measure, Settings};

fn main() -> ExitCode {
    let settings = match Settings::from_arguments(Arguments::parse()) {
        Ok(settings) => settings,
        Err(error) => return output::failed(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output::failed(&anyhow::Error::new(error).context("no runtime could be started"));
        }
    };
    match runtime.block_on(measure(&settings)) {
        Ok(findings) => {
            output::print(&settings, &findings);
            let complaints = findings.complaints(&settings);
            output::complain(&complaints);
            if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => output::failed(&error),
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
