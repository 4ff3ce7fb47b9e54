//! The whole tour, in order.

use std::time::{Duration, Instant};

use anyhow::Result;
use mamos_core::whitelist::CommandRequest;
use mamos_core::{CommandId, Orchestrator};

use super::agents::AgentProcess;
use super::batch::Batch;
use super::command::{self, Ran};
use super::ending::Ending;
use super::history::{self, History};
use super::measure::measure;
use super::place::{Place, absolute};
use super::report::Report;
use super::service::{LEASE, Service};
use super::voice::Voice;

/// Commands that run, and commands that must not.
const COMMANDS: [(&str, &[(&str, &str)]); 7] = [
    ("system-name", &[]),
    ("date", &[]),
    ("load", &[]),
    ("disk-usage", &[("path", "/")]),
    ("directory-size", &[("path", "/usr/bin")]),
    ("directory-size", &[("path", "/etc/shadow")]),
    ("disk-usage", &[("path", "--help")]),
];

/// What every part of the tour needs.
struct Tour<'a> {
    orchestrator: &'a Orchestrator,
    first: &'a AgentProcess,
    second: &'a AgentProcess,
    voice: &'a Voice,
}

/// Opens everything, takes the tour, and stops everything in order, also when interrupted.
pub(super) async fn run(place: &Place, jobs: u32, voice: &Voice) -> Result<Ending> {
    let began = Instant::now();
    let service = Service::start(place).await?;
    let orchestrator = &service.orchestrator;
    let database = absolute(&place.database()).display().to_string();
    voice.heading("An orchestrator, with everything in one file");
    voice.say(format_args!("  {database}"));
    let earlier = history::count(orchestrator).await?;
    tell_history(&earlier, voice);
    let first = AgentProcess::prepare("first", place, orchestrator).await?;
    let second = AgentProcess::prepare("second", place, orchestrator).await?;
    let tour = Tour { orchestrator, first: &first, second: &second, voice };
    let taken = tokio::select! {
        taken = tour.take(database, earlier, jobs) => Some(taken),
        _ = tokio::signal::ctrl_c() => None,
    };
    if taken.is_none() {
        voice.say("\ninterrupted: the agents finish what they run; what waits goes on in the next run");
    }
    let (one, other) = tokio::join!(first.stop(), second.stop());
    service.stop().await?;
    one.and(other)?;
    let Some(taken) = taken else { return Ok(Ending::Interrupted) };
    let mut report = taken?;
    report.elapsed_ms = millis(began.elapsed());
    tell_end(&report, voice)?;
    Ok(report.ending())
}

impl Tour<'_> {
    async fn take(&self, database: String, earlier: History, jobs: u32) -> Result<Report> {
        self.start_agents().await?;
        let commands = self.run_commands().await?;
        let voice = self.voice;
        voice.heading(format_args!("{jobs} typed jobs, and an agent that dies"));
        let began = Instant::now();
        let mut batch = Batch::enqueue(self.orchestrator, jobs).await?;
        voice.say(format_args!("  {} accepted, each with an id", batch.accepted.len()));
        let killed = batch.run_with_a_kill(self.orchestrator, self.first).await?;
        let took = began.elapsed();
        let measured = measure(self.orchestrator, &batch, &killed).await?;
        voice.say(format_args!(
            "  agent {} was killed with SIGKILL when {} were done\n  its lease of {LEASE:?} ran out, and the \
             {} jobs that it held went to agent {}\n  all ended after {took:.1?}",
            self.first.name(),
            killed.done,
            measured.rescued,
            self.second.name(),
        ));
        let back = self.first.start(self.orchestrator).await?;
        voice.say(format_args!("  started again, it is the same agent: {}", back.agent));
        Ok(Report {
            database,
            commands_succeeded: commands.succeeded,
            commands_failed: commands.failed,
            commands_refused: commands.refused,
            jobs_accepted: batch.accepted.len(),
            jobs_succeeded: measured.succeeded,
            jobs_lost: measured.lost,
            jobs_duplicated: measured.duplicated,
            jobs_per_second: batch.accepted.len() as u64 * 1000 / millis(took).max(1),
            rescued: measured.rescued,
            crashes: measured.crashes,
            elapsed_ms: 0,
            earlier,
        })
    }

    async fn start_agents(&self) -> Result<()> {
        self.voice.heading("Two agents, each a process of its own");
        let (first, second) =
            tokio::try_join!(self.first.start(self.orchestrator), self.second.start(self.orchestrator))?;
        for (process, live) in [(self.first, first), (self.second, second)] {
            let how = if process.is_new() {
                "registered with a one-time token"
            } else {
                "back from an earlier run"
            };
            let (name, agent, slots) = (process.name(), live.agent, live.slots);
            self.voice.say(format_args!("  {name}: {agent}, {slots} slots, {how}"));
        }
        Ok(())
    }

    async fn run_commands(&self) -> Result<Counts> {
        self.voice.heading("Whitelisted commands, without any shell");
        let mut counts = Counts::default();
        for (name, parameters) in COMMANDS {
            let mut request = CommandRequest::new(CommandId::new(name)?);
            let mut line = name.to_owned();
            for (parameter, value) in parameters {
                request = request.with(*parameter, *value);
                line.push_str(&format!(" {parameter}={value}"));
            }
            self.voice.say(format_args!("> {line}"));
            match command::show(self.orchestrator, request, self.voice).await? {
                Ran::Succeeded => counts.succeeded += 1,
                Ran::Failed(_, failure) => {
                    counts.failed += 1;
                    self.voice.say(format_args!("  failed: {failure}"));
                }
                Ran::Denied(why) => {
                    counts.refused += 1;
                    self.voice.say(format_args!("  refused: {why}"));
                }
            }
        }
        Ok(counts)
    }
}

#[derive(Default)]
struct Counts {
    succeeded: u32,
    failed: u32,
    refused: u32,
}

fn tell_history(earlier: &History, voice: &Voice) {
    if earlier.jobs == 0 {
        voice.say("  new, and empty");
        return;
    }
    let states: Vec<String> =
        earlier.by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    voice.say(format_args!("  it remembers {} jobs of earlier runs: {}", earlier.jobs, states.join(", ")));
}

fn tell_end(report: &Report, voice: &Voice) -> Result<()> {
    voice.heading("What the file says now");
    voice.say(report.table());
    voice.say(format_args!(
        "{:.1} s in all. Everything is in {}\nRun it again, and see that it remembers; or try\n  \
         cargo run --release --bin quickstart -- run disk-usage path=/\n  \
         cargo run --release --bin quickstart -- history",
        report.elapsed_ms as f64 / 1000.0,
        report.database,
    ));
    if voice.is_json() {
        voice.answer(serde_json::to_string(report)?);
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
