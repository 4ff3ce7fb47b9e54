//! Over which bus, and how much.

use clap::{Args, ValueEnum};

/// Measures links over a bus next to the broker's own client. The figures go to stdout.
///
/// Ends with 1 if a frame or a job was lost.
#[derive(Debug, Args)]
pub(crate) struct LinkArguments {
    /// The bus to measure.
    #[arg(long, value_enum, default_value_t = BusKind::Memory)]
    bus: BusKind,
    /// Where the broker is. Default: its usual port on this machine.
    #[arg(long)]
    url: Option<String>,
    /// How many frames of each size, 1000 to 10000000. Default: 50000, with --quick 5000.
    #[arg(long)]
    frames: Option<u64>,
    /// The sizes of frames in bytes, each 8 to 1048576.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 4096])]
    frame_bytes: Vec<usize>,
    /// How often each measure is taken; the figure is the median. Default: 5, with --quick 1.
    #[arg(long)]
    rounds: Option<u32>,
    /// How many jobs an orchestrator hands to an agent over the link, next to the transport inside the
    /// process; 0 for none. Default: 0.
    #[arg(long, default_value_t = 0)]
    jobs: u64,
    /// Small numbers for CI: checks that nothing is lost, and that the ratios are not absurd.
    #[arg(long)]
    quick: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// See [`LinkArguments`].
#[derive(Debug)]
pub(super) struct LinkSettings {
    pub(super) bus: BusKind,
    /// May hold a password: never printed.
    pub(super) url: String,
    pub(super) frames: u64,
    pub(super) frame_bytes: Vec<usize>,
    pub(super) rounds: u32,
    pub(super) jobs: u64,
    pub(super) is_quick: bool,
    pub(super) wants_json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BusKind {
    /// The bus inside the process.
    Memory,
    Nats,
    Redis,
    /// RabbitMQ.
    Amqp,
}

impl BusKind {
    const fn usual_url(self) -> &'static str {
        match self {
            Self::Memory => "memory:",
            Self::Nats => "nats://127.0.0.1:4222",
            Self::Redis => "redis://127.0.0.1:6379",
            Self::Amqp => "amqp://guest:guest@127.0.0.1:5672/%2f",
        }
    }

    /// What the baseline is, for people.
    pub(super) const fn raw(self) -> &'static str {
        match self {
            Self::Memory => "the bus inside the process alone",
            Self::Nats => "async-nats: publish, subscribe",
            Self::Redis => "redis: PUBLISH in pipelines, SUBSCRIBE",
            Self::Amqp => "lapin: confirmed publish to a queue, consumed without acknowledgements",
        }
    }
}

impl LinkSettings {
    pub(super) fn from_arguments(arguments: LinkArguments) -> anyhow::Result<Self> {
        let is_quick = arguments.quick;
        let frames = arguments.frames.unwrap_or(if is_quick { 5000 } else { 50_000 });
        anyhow::ensure!(
            (1000..=10_000_000).contains(&frames),
            "--frames is {frames}; choose a number from 1000 to 10000000"
        );
        for bytes in &arguments.frame_bytes {
            anyhow::ensure!(
                (8..=1024 * 1024).contains(bytes),
                "--frame-bytes has {bytes}; choose numbers from 8 to 1048576"
            );
        }
        let rounds = arguments.rounds.unwrap_or(if is_quick { 1 } else { 5 });
        anyhow::ensure!((1..=100).contains(&rounds), "--rounds is {rounds}; choose a number from 1 to 100");
        anyhow::ensure!(
            arguments.jobs <= 5_000_000,
            "--jobs is {}; choose a number up to 5000000",
            arguments.jobs
        );
        Ok(Self {
            bus: arguments.bus,
            url: arguments.url.unwrap_or_else(|| arguments.bus.usual_url().to_owned()),
            frames,
            frame_bytes: arguments.frame_bytes,
            rounds,
            jobs: arguments.jobs,
            is_quick,
            wants_json: arguments.json,
        })
    }
}
