//! What is measured, and how much of it.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::fleet::{FleetArguments, ServerArguments};
use crate::link::LinkArguments;
use crate::neighbours::NeighboursArguments;
use crate::soak::SoakArguments;

/// Measures MAMOS next to raw baselines. The figures go to stdout, progress to stderr.
///
/// Ends with 1 if a job was lost or ran twice, or if nothing could be measured.
#[derive(Debug, Parser)]
#[command(name = "mamos-bench", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The store to measure.
    #[arg(long, value_enum, default_value_t = StoreKind::Memory)]
    store: StoreKind,
    /// How many jobs a measure moves, 1000 to 5000000. Default: 100000, with --quick 10000.
    #[arg(long)]
    jobs: Option<u64>,
    /// What an answer of the SQLite store survives.
    #[arg(long, value_enum, default_value_t = Durability::Full)]
    durability: Durability,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Takes only these measures, for example drain,latency.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Small numbers for CI: checks that nothing is lost, and that the ratios are not absurd.
    #[arg(long)]
    quick: bool,
    /// How often each measure is taken; the figure is the median. Default: 3, with --quick 1.
    #[arg(long)]
    rounds: Option<u32>,
    /// The bytes of a job's arguments, 2 to 1048576.
    #[arg(long, default_value_t = 64)]
    payload_bytes: usize,
    /// How many agents drain the backlog, 1 to 1000.
    #[arg(long, default_value_t = 4)]
    agents: u32,
    /// How many attempts each of these agents runs at once, 1 to 65536.
    #[arg(long, default_value_t = 1024)]
    slots: u32,
    /// How many jobs each of these agents is sent beyond its slots.
    #[arg(long, default_value_t = 1024)]
    prefetch: u32,
    /// The server, for --store postgres and redis. Each measure has a schema or prefix of its own there, which is
    /// removed afterwards. Default: the one on the usual port.
    #[arg(long)]
    url: Option<String>,
    /// The directory for SQLite's files. Default: the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Other measures than those of a store.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Holds many agents over real WebSockets, from another process than the orchestrator's.
    Agents(FleetArguments),
    /// Moves frames over a link over a bus, next to the broker's own client.
    Link(LinkArguments),
    /// Runs two orchestrators on one store, with the agent at the second.
    Neighbours(NeighboursArguments),
    /// Stores, runs and removes jobs for minutes, and watches how the tables grow.
    Soak(SoakArguments),
    /// The orchestrator of `agents`.
    #[command(hide = true)]
    FleetServer(ServerArguments),
}

/// See [`Arguments`].
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    pub(crate) store: StoreKind,
    pub(crate) durability: Durability,
    pub(crate) jobs: u64,
    pub(crate) rounds: u32,
    pub(crate) measures: Vec<Measure>,
    #[serde(rename = "quick")]
    pub(crate) is_quick: bool,
    #[serde(skip)]
    pub(crate) wants_json: bool,
    pub(crate) payload_bytes: usize,
    pub(crate) agents: u32,
    pub(crate) slots: u32,
    pub(crate) prefetch: u32,
    pub(crate) dir: PathBuf,
    /// It may hold a password.
    #[serde(skip)]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreKind {
    Memory,
    Sqlite,
    Postgres,
    Redis,
}

/// What an answer of the SQLite store survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Durability {
    /// A loss of power: every commit is synced.
    Full,
    /// A crash of the process; a loss of power may undo the last commits.
    Normal,
    /// A crash of the process; a loss of power may corrupt the file.
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Storing jobs one by one, by 32 callers.
    Enqueue,
    /// Storing jobs in batches.
    Bulk,
    /// Emptying a backlog with agents that answer at once.
    Drain,
    /// From submit to the start of the handler, while nothing else happens.
    Latency,
    /// Whether a job costs more when there are many.
    Backlog,
}

impl Settings {
    pub(crate) fn from_arguments(arguments: Arguments) -> anyhow::Result<Self> {
        let is_quick = arguments.quick;
        let jobs = arguments.jobs.unwrap_or(if is_quick { 10_000 } else { 100_000 });
        let within = |name: &str, value: u64, least: u64, most: u64| {
            anyhow::ensure!(
                (least..=most).contains(&value),
                "--{name} is {value}; choose a number from {least} to {most}"
            );
            Ok(())
        };
        within("jobs", jobs, 1000, 5_000_000)?;
        within("payload-bytes", arguments.payload_bytes as u64, 2, 1024 * 1024)?;
        within("agents", arguments.agents.into(), 1, 1000)?;
        within("slots", arguments.slots.into(), 1, mamos_core::agent::MAX_SLOTS.into())?;
        let rounds = arguments.rounds.unwrap_or(if is_quick { 1 } else { 3 });
        within("rounds", rounds.into(), 1, 100)?;
        let mut measures = arguments.only;
        if measures.is_empty() {
            measures = Measure::value_variants().to_vec();
        }
        measures.sort_unstable();
        measures.dedup();
        Ok(Self {
            store: arguments.store,
            durability: arguments.durability,
            jobs,
            rounds,
            measures,
            is_quick,
            wants_json: arguments.json,
            payload_bytes: arguments.payload_bytes,
            agents: arguments.agents,
            slots: arguments.slots,
            prefetch: arguments.prefetch,
            dir: arguments.dir.unwrap_or_else(std::env::temp_dir),
            url: arguments.url,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Settings> {
        Settings::from_arguments(Arguments::try_parse_from(line.split(' '))?)
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_the_range() {
        let error = parse("mamos-bench --jobs 10").unwrap_err().to_string();
        assert!(error.contains("--jobs is 10") && error.contains("1000 to 5000000"), "{error}");
    }

    #[test]
    fn without_a_choice_everything_is_measured_in_a_fixed_order() {
        let settings = parse("mamos-bench --quick").unwrap();
        assert_eq!(settings.measures.len(), 5);
        let settings = parse("mamos-bench --only latency,bulk,latency").unwrap();
        assert_eq!(settings.measures, [Measure::Bulk, Measure::Latency]);
    }
}
