//! From submit to the start of the handler, one job at a time, while nothing else happens.

use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use super::enqueue::Nothing;
use crate::agents::Crew;
use crate::bed::Bed;
use crate::figures::{Findings, Rounds, Unit};
use crate::output::Progress;
use crate::raw;
use crate::settings::{Settings, StoreKind};

/// Long enough that everything has gone to sleep again.
const PAUSE: Duration = Duration::from_millis(3);
/// A job that does not arrive within this time never will.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn measure(
    settings: &Settings,
    progress: &Progress,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let samples = if settings.is_quick { 50 } else { 400 };
    let against = match settings.store {
        StoreKind::Memory => "send to a task that waits",
        StoreKind::Sqlite | StoreKind::Postgres => "INSERT and commit, claim one and commit",
        StoreKind::Redis => "XADD to a waiting XREADGROUP",
    };
    let mut halves = Rounds::new("submit to start, idle, p50", Unit::Micros, against);
    let mut tails = Rounds::new("submit to start, idle, p99", Unit::Micros, against);
    for round in 1..=settings.rounds {
        progress.say(format!("latency: round {round}, baseline"));
        let raw = match settings.store {
            StoreKind::Memory => raw::memory::latency(samples, PAUSE).await?,
            StoreKind::Sqlite => raw::sqlite::latency(settings, samples, PAUSE).await?,
            StoreKind::Postgres => raw::postgres::latency(settings, samples, PAUSE).await?,
            StoreKind::Redis => raw::redis::latency(settings, samples, PAUSE).await?,
        };
        progress.say(format!("latency: round {round}"));
        let ours = submit_to_start(settings, samples, findings).await?;
        halves.add(at(&ours, 0.5), at(&raw, 0.5));
        tails.add(at(&ours, 0.99), at(&raw, 0.99));
    }
    findings.figures.extend([halves.figure(), tails.figure()]);
    Ok(())
}

async fn submit_to_start(
    settings: &Settings,
    samples: u64,
    findings: &mut Findings,
) -> anyhow::Result<Histogram<u64>> {
    let bed = Bed::make(settings).await?;
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let mut crew = Crew::connect(&bed, 1, 16, Some(arrivals)).await?;
    let text = "x".repeat(settings.payload_bytes.saturating_sub(2));
    let mut histogram = Histogram::new(3)?;
    let mut ids = Vec::new();
    // The first one pays for what is made once, and is not counted.
    for sample in 0..=samples {
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        ids.push(bed.orchestrator.enqueue(Nothing(text.clone())).await?.id());
        let started: Instant = tokio::time::timeout(PATIENCE, arrived.recv())
            .await
            .context("a job was enqueued and did not arrive at the agent within 10 s")?
            .context("the agent has gone away")?;
        if sample > 0 {
            histogram.record(nanos(started - begun))?;
        }
        crew.reached(sample + 1).await?;
    }
    crate::audit::check(&bed.orchestrator, &ids, Some(&crew.tally), findings).await?;
    crew.leave().await?;
    bed.clear().await?;
    Ok(histogram)
}

/// In whole nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}
