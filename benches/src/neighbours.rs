//! Two orchestrators on one store, and the agent at the second: how soon a job starts that was enqueued at
//! either of them, while nothing else happens.
//!
//! What was enqueued at the first has to be told to the second, by the hints that the store carries. Without
//! them it would wait for the next look at the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use mamos_core::{JobId, JobState, Orchestrator, Store};
use mamos_store::{MemoryStore, PostgresSettings, PostgresStore, RedisSettings, RedisStore};
use mamos_transport::memory::pair;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::agents::{Crew, Tally};
use crate::figures::{Figure, Rounds, Unit};
use crate::measures::enqueue::Nothing;
use crate::measures::latency::nanos;
use crate::output::{self, Progress};
use crate::raw::postgres::Schema;
use crate::raw::redis::Prefix;
use crate::running::Running;

/// Long enough that everything has gone to sleep again.
const PAUSE: Duration = Duration::from_millis(3);
/// A job that does not arrive within this time never will.
const PATIENCE: Duration = Duration::from_secs(10);
const SLOTS: u32 = 16;

/// Measures how soon jobs start that another orchestrator on the store has taken.
///
/// Ends with 1 if a job was lost or ran twice.
#[derive(Debug, Args)]
pub(crate) struct NeighboursArguments {
    /// The store that both share.
    #[arg(long, value_enum, default_value_t = SharedStore::Memory)]
    store: SharedStore,
    /// Where it is. Default: its usual port on this machine.
    #[arg(long)]
    url: Option<String>,
    /// How many jobs are measured at each orchestrator in a round, 10 to 100000. Default: 400, with --quick 50.
    #[arg(long)]
    samples: Option<u32>,
    /// How often each measure is taken; the figure is the median. Default: 5, with --quick 1.
    #[arg(long)]
    rounds: Option<u32>,
    /// Small numbers for CI.
    #[arg(long)]
    quick: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// A store that several orchestrators can share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SharedStore {
    /// In one process only.
    Memory,
    Postgres,
    Redis,
}

/// What was found out.
#[derive(Debug, Serialize)]
struct Report {
    store: String,
    figures: Vec<Figure>,
    lost: u64,
    duplicated: u64,
}

/// Takes the measure, and gives what is wrong with it.
pub(crate) async fn measure(arguments: NeighboursArguments) -> anyhow::Result<Vec<String>> {
    let samples = arguments.samples.unwrap_or(if arguments.quick { 50 } else { 400 });
    anyhow::ensure!(
        (10..=100_000).contains(&samples),
        "--samples is {samples}; choose a number from 10 to 100000"
    );
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 5 });
    anyhow::ensure!((1..=100).contains(&rounds), "--rounds is {rounds}; choose a number from 1 to 100");
    let progress = Progress::new();
    let (stores, place) = stores(&arguments).await?;
    let pair = Pair::start(stores).await?;
    let mut report = Report { store: pair.store.clone(), figures: Vec::new(), lost: 0, duplicated: 0 };
    let figure = |what| {
        let name = format!("submit to start, idle, enqueued at the other, {what}");
        Rounds::new(name, Unit::Micros, "enqueued at the agent's own")
    };
    let mut figures = [(0.5, figure("p50")), (0.99, figure("p99"))];
    let done = pair.run(samples, rounds, &progress, &mut figures, &mut report).await;
    place.remove().await?;
    done?;
    report.figures.extend(figures.into_iter().map(|(_, rounds)| rounds.figure()));
    progress.done();
    let headline = format!(
        "{}: two orchestrators, {samples} jobs at each, {rounds} rounds: median (min – max)",
        report.store
    );
    output::print_figures(arguments.json, &headline, &report.figures, &report);
    let mut complaints = Vec::new();
    if report.lost + report.duplicated > 0 {
        complaints.push(format!(
            "{} jobs were lost and {} ran more than once; look at their attempts",
            report.lost, report.duplicated
        ));
    }
    Ok(complaints)
}

/// Two orchestrators with stores of their own over the same data; the agent is at the second.
struct Pair {
    other: Running,
    own: Running,
    crew: Crew,
    arrived: mpsc::UnboundedReceiver<Instant>,
    store: String,
}

impl Pair {
    async fn start([one, two]: [Arc<dyn Store>; 2]) -> anyhow::Result<Self> {
        let store = one.describe();
        let (listener, connector) = pair();
        let other = Running::start(one, |builder| builder.name("other"))?;
        let own = Running::start(two, |builder| builder.name("own").listener(listener))?;
        let (arrivals, arrived) = mpsc::unbounded_channel();
        let crew = Crew::connect_to(&own.orchestrator, &connector, 1, SLOTS, Some(arrivals)).await?;
        Ok(Self { other, own, crew, arrived, store })
    }

    async fn run(
        mut self,
        samples: u32,
        rounds: u32,
        progress: &Progress,
        figures: &mut [(f64, Rounds)],
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut ids = Vec::new();
        // The first at each pays for what is made once, and is not counted.
        for _ in 0..2 {
            self.sample(true, &mut ids).await?;
            self.sample(false, &mut ids).await?;
        }
        for round in 1..=rounds {
            progress.say(format!("round {round}"));
            let (mut other, mut own) = (Histogram::new(3)?, Histogram::new(3)?);
            // In turn, so that both meet the same machine.
            for _ in 0..samples {
                own.record(nanos(self.sample(false, &mut ids).await?))?;
                other.record(nanos(self.sample(true, &mut ids).await?))?;
            }
            for (quantile, figure) in figures.iter_mut() {
                let at = |histogram: &Histogram<u64>| histogram.value_at_quantile(*quantile) as f64 / 1000.0;
                figure.add(at(&other), at(&own));
            }
        }
        check(&self.other.orchestrator, &ids, &self.crew.tally, report).await?;
        self.crew.leave().await?;
        self.own.stop().await?;
        self.other.stop().await
    }

    /// From submit to start of one job.
    async fn sample(&mut self, at_other: bool, ids: &mut Vec<JobId>) -> anyhow::Result<Duration> {
        let taker = if at_other { &self.other } else { &self.own };
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        ids.push(taker.orchestrator.enqueue(Nothing(String::new())).await?.id());
        let started = tokio::time::timeout(PATIENCE, self.arrived.recv())
            .await
            .context("a job was enqueued and did not arrive at the agent within 10 s")?
            .context("the agent has gone away")?;
        self.crew.reached(ids.len() as u64).await?;
        Ok(started.saturating_duration_since(begun))
    }
}

/// One store for each orchestrator, as in two programs; inside a process there is only the one.
async fn stores(arguments: &NeighboursArguments) -> anyhow::Result<([Arc<dyn Store>; 2], Place)> {
    let url = arguments.url.as_deref();
    Ok(match arguments.store {
        SharedStore::Memory => {
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
            ([Arc::clone(&store), store], Place::Memory)
        }
        SharedStore::Postgres => {
            let schema = Schema::unique(url);
            let wanted = PostgresSettings::new(&schema.url).schema(&schema.name);
            let one = PostgresStore::open(wanted.clone()).await?;
            ([Arc::new(one), Arc::new(PostgresStore::open(wanted).await?)], Place::Schema(schema))
        }
        SharedStore::Redis => {
            let prefix = Prefix::at(url);
            let wanted = RedisSettings::new(prefix.url()).prefix(prefix.name());
            let one = RedisStore::open(wanted.clone()).await?;
            ([Arc::new(one), Arc::new(RedisStore::open(wanted).await?)], Place::Prefix(prefix))
        }
    })
}

/// What is removed from the server afterwards.
enum Place {
    Memory,
    Schema(Schema),
    Prefix(Prefix),
}

impl Place {
    async fn remove(self) -> anyhow::Result<()> {
        match self {
            Self::Memory => Ok(()),
            Self::Schema(schema) => schema.remove().await,
            Self::Prefix(prefix) => prefix.remove().await,
        }
    }
}

/// Looks at each job.
async fn check(
    orchestrator: &Orchestrator,
    ids: &[JobId],
    tally: &Tally,
    report: &mut Report,
) -> anyhow::Result<()> {
    for id in ids {
        let job = orchestrator.job(*id).await?;
        report.lost += u64::from(job.state != JobState::Succeeded);
        report.duplicated += u64::from(job.epoch.number() > 1);
    }
    report.duplicated += tally.dispatched().saturating_sub(ids.len() as u64) + tally.exceptions();
    Ok(())
}
