//! Storing jobs one by one, by many callers at once: what a busy service does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mamos_core::{Job, JobId};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::rate;
use crate::agents::KIND;
use crate::audit;
use crate::bed::Bed;
use crate::figures::{Findings, Rounds, Unit};
use crate::output::Progress;
use crate::raw;
use crate::settings::{Settings, StoreKind};

/// How many callers wait for an answer each.
pub(crate) const CALLERS: u64 = 32;

/// A job whose arguments are a text, and that has nothing to do.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Nothing(pub(crate) String);

impl Job for Nothing {
    const KIND: &'static str = KIND;
    type Output = ();
}

pub(crate) async fn measure(
    settings: &Settings,
    progress: &Progress,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (ours, theirs, against) = match settings.store {
        StoreKind::Memory => (settings.jobs, settings.jobs, "push to a locked VecDeque"),
        StoreKind::Redis => (settings.jobs, settings.jobs, "XADD, one connection"),
        // A sync for each is slow enough that fewer are as exact.
        StoreKind::Sqlite => {
            (settings.jobs, (settings.jobs / 20).max(500), "INSERT, one commit each, one connection")
        }
        StoreKind::Postgres => {
            (settings.jobs, (settings.jobs / 4).max(500), "INSERT, one commit each, 8 connections")
        }
    };
    let mut rounds = Rounds::new(format!("enqueue by {CALLERS} callers"), Unit::JobsPerSecond, against);
    for round in 1..=settings.rounds {
        progress.say(format!("enqueue: round {round}, baseline"));
        let raw = match settings.store {
            StoreKind::Memory => raw::memory::enqueue(theirs, settings.payload_bytes).await?,
            StoreKind::Sqlite => raw::sqlite::enqueue(settings, theirs).await?,
            StoreKind::Postgres => raw::postgres::enqueue(settings, theirs).await?,
            StoreKind::Redis => raw::redis::enqueue(settings, theirs).await?,
        };
        progress.say(format!("enqueue: round {round}"));
        let bed = Bed::make(settings).await?;
        let (took, ids) = one_by_one(&bed, ours, settings.payload_bytes).await?;
        audit::check(&bed.orchestrator, &ids, None, findings).await?;
        bed.clear().await?;
        rounds.add(rate(ours, took), rate(theirs, raw));
    }
    findings.figures.push(rounds.figure());
    Ok(())
}

async fn one_by_one(bed: &Bed, count: u64, payload_bytes: usize) -> anyhow::Result<(Duration, Vec<JobId>)> {
    let left = Arc::new(AtomicU64::new(count));
    let text = "x".repeat(payload_bytes.saturating_sub(2));
    let mut callers: JoinSet<mamos_core::Result<Vec<JobId>>> = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CALLERS {
        let (orchestrator, left, text) = (bed.orchestrator.clone(), Arc::clone(&left), text.clone());
        callers.spawn(async move {
            let mut ids = Vec::new();
            while take_one(&left) {
                ids.push(orchestrator.enqueue(Nothing(text.clone())).await?.id());
            }
            Ok(ids)
        });
    }
    let mut ids = Vec::with_capacity(usize::try_from(count)?);
    while let Some(done) = callers.join_next().await {
        ids.extend(done??);
    }
    Ok((begun.elapsed(), ids))
}

/// Takes one of what is left, if there is any.
pub(crate) fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
}
