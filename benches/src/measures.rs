//! The questions, one a file.

pub(crate) mod backlog;
pub(crate) mod bulk;
pub(crate) mod drain;
pub(crate) mod enqueue;
pub(crate) mod latency;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::{JobId, JobKind, Orchestrator, QueueName, Timestamp};

use crate::agents::KIND;

/// Jobs a call when a backlog is stored.
pub(crate) const BULK: usize = 1000;

/// How many things a second were done.
pub(crate) fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Makes jobs that are alike, with ids in the order of their making.
pub(crate) fn jobs(count: u64, payload_bytes: usize) -> anyhow::Result<Vec<NewJob>> {
    let lane = Arc::new(Lane::new(QueueName::default_queue(), JobKind::new(KIND)?, Selector::any()));
    let payload = payload(payload_bytes);
    let now = SystemClock.now();
    let mut random = fastrand::Rng::new();
    Ok((0..count)
        .map(|n| {
            let at = Timestamp::from_micros(now.as_micros() + i64::try_from(n).unwrap_or(0));
            NewJob::new(JobId::from_parts(at, random.u128(..)), Arc::clone(&lane), payload.clone())
        })
        .collect())
}

/// A JSON string of so many bytes, quotes included.
pub(crate) fn payload(bytes: usize) -> Bytes {
    Bytes::from(format!("\"{}\"", "x".repeat(bytes.saturating_sub(2))))
}

/// Stores jobs in batches, and gives how long that took.
pub(crate) async fn store_all(orchestrator: &Orchestrator, jobs: Vec<NewJob>) -> anyhow::Result<Duration> {
    let mut batches: Vec<Vec<NewJob>> = Vec::with_capacity(jobs.len() / BULK + 1);
    let mut jobs = jobs.into_iter();
    loop {
        let batch: Vec<NewJob> = jobs.by_ref().take(BULK).collect();
        if batch.is_empty() {
            break;
        }
        batches.push(batch);
    }
    let begun = Instant::now();
    for batch in batches {
        orchestrator.enqueue_all(batch).await?;
    }
    Ok(begun.elapsed())
}
