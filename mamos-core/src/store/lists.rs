//! Lists of jobs in pages, and queues counted.

use crate::clock::Timestamp;
use crate::id::{AgentId, JobKind, QueueName};
use crate::job::labels::Labels;
use crate::job::state::JobState;

/// Which jobs to list. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// In one of these states; empty means any.
    pub states: Vec<JobState>,
    /// In this queue.
    pub queue: Option<QueueName>,
    /// Of this kind.
    pub kind: Option<JobKind>,
    /// Last held by this agent.
    pub agent: Option<AgentId>,
    /// With at least these labels.
    pub labels: Labels,
}

/// Which part of a list to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// How many at most. 1 to 1000; others are brought within that.
    pub limit: u32,
    /// The [`Page::next`] of the page before.
    pub after: Option<Cursor>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: 50, after: None }
    }
}

impl PageRequest {
    /// The first page, of the given size.
    pub fn first(limit: u32) -> Self {
        Self { limit, after: None }
    }

    /// The limit within its bounds.
    pub fn bounded_limit(&self) -> u32 {
        self.limit.clamp(1, 1000)
    }
}

/// A place in a list. Only the store that made it can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The records.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// A queue, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRecord {
    /// Its name.
    pub queue: QueueName,
    /// Does it give out nothing?
    pub is_paused: bool,
    /// How many jobs are in each state, in the order of [`JobState::ALL`].
    pub counts: [u64; JobState::ALL.len()],
    /// Since when its oldest ready job could run.
    pub oldest_ready: Option<Timestamp>,
}

impl QueueRecord {
    /// How many of its jobs are in the state.
    pub fn count(&self, state: JobState) -> u64 {
        JobState::ALL.iter().position(|other| *other == state).map_or(0, |index| self.counts[index])
    }
}
