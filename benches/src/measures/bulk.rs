//! Storing many jobs that are known at once.

use mamos_core::JobId;

use super::{BULK, jobs, rate, store_all};
use crate::audit;
use crate::bed::Bed;
use crate::figures::{Findings, Rounds, Unit};
use crate::output::Progress;
use crate::raw;
use crate::settings::{Settings, StoreKind};

pub(crate) async fn measure(
    settings: &Settings,
    progress: &Progress,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let count = settings.jobs;
    let against = match settings.store {
        StoreKind::Memory => format!("push {BULK} at once to a locked VecDeque"),
        StoreKind::Sqlite => format!("multi-row INSERT, {BULK} a transaction"),
        StoreKind::Postgres => format!("INSERT from arrays, {BULK} a commit"),
        StoreKind::Redis => format!("XADD, {BULK} a pipeline"),
    };
    let mut rounds = Rounds::new(format!("enqueue {BULK} a call"), Unit::JobsPerSecond, against);
    for round in 1..=settings.rounds {
        progress.say(format!("bulk: round {round}, baseline"));
        let raw = match settings.store {
            StoreKind::Memory => raw::memory::bulk(count, settings.payload_bytes),
            StoreKind::Sqlite => raw::sqlite::bulk(settings, count).await?,
            StoreKind::Postgres => raw::postgres::bulk(settings, count).await?,
            StoreKind::Redis => raw::redis::bulk(settings, count).await?,
        };
        progress.say(format!("bulk: round {round}"));
        let bed = Bed::make(settings).await?;
        let jobs = jobs(count, settings.payload_bytes)?;
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let took = store_all(&bed.orchestrator, jobs).await?;
        audit::check(&bed.orchestrator, &ids, None, findings).await?;
        bed.clear().await?;
        rounds.add(rate(count, took), rate(count, raw));
    }
    findings.figures.push(rounds.figure());
    Ok(())
}
