//! How large the fleet is, and what it does.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::settings::{Durability, StoreKind};

/// Holds many agents over real WebSockets, from another process than the orchestrator's.
#[derive(Debug, Args)]
pub(crate) struct FleetArguments {
    /// How many agents are connected, 1 to 25000.
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// The store of the orchestrator. Only agents of one that is on disk can come back after a restart.
    #[arg(long, value_enum, default_value_t = StoreKind::Memory)]
    store: StoreKind,
    /// What an answer of the SQLite store survives.
    #[arg(long, value_enum, default_value_t = Durability::Normal)]
    durability: Durability,
    /// For how many seconds the agents do nothing but beat, and jobs come at an even pace.
    #[arg(long, default_value_t = 20)]
    hold_seconds: u64,
    /// How many jobs go from end to end in a round; 0 for none.
    #[arg(long, default_value_t = 200_000)]
    jobs: u64,
    /// How often that is measured; the figure is the median.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How many agents do that work, and how many attempts each runs at once.
    #[arg(long, default_value_t = 4)]
    workers: u32,
    #[arg(long, default_value_t = 1024)]
    slots: u32,
    /// How many jobs a second are submitted one by one to see how soon they start.
    #[arg(long, default_value_t = 2000)]
    pace: u32,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// The directory for SQLite's files. Default: the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// See [`FleetArguments`].
#[derive(Debug)]
pub(crate) struct FleetSettings {
    pub(crate) count: u32,
    pub(crate) store: StoreKind,
    pub(crate) durability: Durability,
    pub(crate) hold: Duration,
    pub(crate) jobs: u64,
    pub(crate) rounds: u32,
    pub(crate) workers: u32,
    pub(crate) slots: u32,
    pub(crate) pace: u32,
    pub(crate) wants_json: bool,
    pub(crate) directory: tempfile::TempDir,
    /// How long anything may take before it counts as hanging.
    pub(crate) patience: Duration,
}

impl FleetSettings {
    pub(crate) fn from_arguments(arguments: FleetArguments) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=25_000).contains(&arguments.count),
            "--count is {}; choose a number from 1 to 25000, the ports of one machine allow no more",
            arguments.count
        );
        anyhow::ensure!((1..=1000).contains(&arguments.workers), "--workers takes 1 to 1000");
        anyhow::ensure!((1..=100).contains(&arguments.rounds), "--rounds takes 1 to 100");
        let parent = arguments.dir.unwrap_or_else(std::env::temp_dir);
        Ok(Self {
            count: arguments.count,
            store: arguments.store,
            durability: arguments.durability,
            hold: Duration::from_secs(arguments.hold_seconds.max(1)),
            jobs: arguments.jobs,
            rounds: arguments.rounds,
            workers: arguments.workers,
            slots: arguments.slots,
            pace: arguments.pace.max(1),
            wants_json: arguments.json,
            directory: tempfile::Builder::new().prefix("mamos-fleet-").tempdir_in(parent)?,
            patience: Duration::from_secs(120),
        })
    }

    /// Only what is on disk is there after a kill.
    pub(crate) fn restarts(&self) -> bool {
        self.store == StoreKind::Sqlite
    }
}

/// The orchestrator of a fleet: started by the program itself.
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    #[arg(long, value_enum)]
    pub(crate) store: StoreKind,
    #[arg(long, value_enum)]
    pub(crate) durability: Durability,
    /// The SQLite file.
    #[arg(long)]
    pub(crate) file: PathBuf,
    #[arg(long)]
    pub(crate) listen: std::net::SocketAddr,
    /// How many agents its registration token admits.
    #[arg(long)]
    pub(crate) agents: u32,
}
