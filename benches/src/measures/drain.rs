//! Emptying a backlog with agents that answer at once: the cost of the scheduler alone.

use std::time::{Duration, Instant};

use mamos_core::JobId;

use super::{jobs, rate, store_all};
use crate::agents::Crew;
use crate::audit;
use crate::bed::Bed;
use crate::figures::{Findings, Rounds, Unit};
use crate::output::Progress;
use crate::raw;
use crate::raw::sqlite::Finished;
use crate::settings::{Settings, StoreKind};

pub(crate) async fn measure(
    settings: &Settings,
    progress: &Progress,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let count = settings.jobs;
    let baselines: &[(&str, Option<Finished>)] = match settings.store {
        StoreKind::Memory => &[("channel, received and counted", None)],
        StoreKind::Postgres => &[
            ("claim 500, finish 500, 8 connections", Some(Finished::Kept)),
            ("the same, finished rows deleted", Some(Finished::Deleted)),
        ],
        StoreKind::Sqlite => &[
            ("claim 500, finish 500 in two transactions", Some(Finished::Kept)),
            ("the same, finished rows deleted", Some(Finished::Deleted)),
        ],
        StoreKind::Redis => &[("XREADGROUP 500, XACK and XDEL, four connections", None)],
    };
    let mut figures: Vec<Rounds> = baselines
        .iter()
        .map(|(against, _)| Rounds::new("drain a backlog", Unit::JobsPerSecond, *against))
        .collect();
    for round in 1..=settings.rounds {
        let mut raws = Vec::new();
        for (against, finished) in baselines {
            progress.say(format!("drain: round {round}, baseline: {against}"));
            raws.push(match finished {
                None if settings.store == StoreKind::Redis => raw::redis::drain(settings, count).await?,
                None => raw::memory::drain(count, settings.payload_bytes).await?,
                Some(finished) if settings.store == StoreKind::Postgres => {
                    raw::postgres::drain(settings, count, *finished).await?
                }
                Some(finished) => raw::sqlite::drain(settings, count, *finished).await?,
            });
        }
        progress.say(format!("drain: round {round}"));
        let took = drain(settings, count, findings).await?;
        for (figure, raw) in figures.iter_mut().zip(raws) {
            figure.add(rate(count, took), rate(count, raw));
        }
    }
    findings.figures.extend(figures.into_iter().map(Rounds::figure));
    Ok(())
}

async fn drain(settings: &Settings, count: u64, findings: &mut Findings) -> anyhow::Result<Duration> {
    let bed = Bed::make(settings).await?;
    let jobs = jobs(count, settings.payload_bytes)?;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    store_all(&bed.orchestrator, jobs).await?;
    let begun = Instant::now();
    let mut crew = Crew::connect(&bed, settings.agents, settings.slots, None).await?;
    // Counted when the orchestrator has acknowledged the ends, which it does once they are on record.
    let ended = crew.reached(count).await?;
    audit::check(&bed.orchestrator, &ids, Some(&crew.tally), findings).await?;
    crew.leave().await?;
    bed.clear().await?;
    Ok(ended - begun)
}
