//! Queues.

use std::collections::BTreeMap;

use mamos_core::store::QueueRecord;
use mamos_core::{JobState, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::millis;

/// A queue, counted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "queue": "mail", "paused": false, "counts": {"ready": 3, "running": 1}, "depth": 3,
    "oldest_ready_at": "2026-11-21T08:00:00.000000Z", "oldest_ready_ms": 1200
}))]
pub(crate) struct Queue {
    /// Its name.
    queue: String,
    /// Does it give out nothing?
    paused: bool,
    /// How many jobs are in each state.
    counts: BTreeMap<&'static str, u64>,
    /// How many jobs are ready.
    depth: u64,
    /// Since when its oldest ready job could run.
    #[schema(format = DateTime)]
    oldest_ready_at: Option<String>,
    /// For how long its oldest ready job could have run.
    oldest_ready_ms: Option<u64>,
}

impl Queue {
    pub(crate) fn new(queue: &QueueRecord, now: Timestamp) -> Self {
        Self {
            queue: queue.queue.to_string(),
            paused: queue.is_paused,
            counts: JobState::ALL.into_iter().map(|state| (state.as_str(), queue.count(state))).collect(),
            depth: queue.count(JobState::Ready),
            oldest_ready_at: queue.oldest_ready.map(|at| at.to_string()),
            oldest_ready_ms: queue.oldest_ready.map(|at| millis(now.since(at))),
        }
    }
}
