//! An agent's link: what it holds, and how much more it may be sent.

use std::collections::HashMap;
use std::sync::Arc;

use super::loads::LoadHistory;
use super::matching::Line;
use crate::agent::AgentProfile;
use crate::clock::Timestamp;
use crate::id::{AgentId, InstanceId, JobId};
use crate::job::labels::Labels;
use crate::job::lane::LaneId;
use crate::lease::{Epoch, RunRef, SessionRef};
use crate::orchestrator::outbox::Outbox;
use crate::store::Taker;

/// The most jobs that one session gets from one claim, so that the next session is not kept waiting.
const MAX_JOBS: u32 = 256;
/// The most jobs that it gets while nobody knows yet how large they are.
pub(super) const FIRST_JOBS: u32 = 64;
/// A link that holds payloads of so many bytes gets no more until some of them have ended.
const MAX_HELD_BYTES: u64 = 32 * 1024 * 1024;

/// An agent's link, as the registry knows it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) session: SessionRef,
    pub(crate) agent: AgentId,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) profile: AgentProfile,
    pub(crate) labels: Labels,
    pub(crate) slots: u32,
    pub(crate) prefetch: u32,
    pub(crate) is_draining: bool,
    pub(crate) is_suspect: bool,
    /// Since when it is here.
    pub(crate) entered_at: Timestamp,
    pub(crate) heard_at: Timestamp,
    pub(crate) renewed_at: Timestamp,
    pub(crate) loads: LoadHistory,
    pub(crate) instance: InstanceId,
    pub(crate) hello_number: u64,
    /// When the agent's token should be renewed.
    pub(crate) renew_at: Option<Timestamp>,
    pub(super) runs: HashMap<JobId, Held, foldhash::fast::FixedState>,
    pub(super) held_bytes: u64,
    /// How large the payloads were that it got last, on average.
    pub(super) usual_bytes: Option<u64>,
    pub(super) is_uncertain: bool,
}

/// A run that a link holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    pub(crate) lane: LaneId,
    pub(crate) is_started: bool,
    /// When its agent said so, if that was to this link.
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) bytes: u32,
}

/// What a new link is made from.
#[derive(Debug)]
pub(crate) struct NewLink {
    pub(crate) session: SessionRef,
    pub(crate) agent: AgentId,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) profile: AgentProfile,
    pub(crate) labels: Labels,
    pub(crate) prefetch: u32,
    pub(crate) is_draining: bool,
    pub(crate) held: Vec<(RunRef, Held)>,
    pub(crate) instance: InstanceId,
    pub(crate) hello_number: u64,
    pub(crate) renew_at: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

impl Link {
    /// How many more jobs it may be sent.
    pub(super) fn credit(&self) -> u32 {
        let is_closed = self.is_draining || self.is_suspect || self.is_uncertain || self.slots == 0;
        if is_closed || self.held_bytes >= MAX_HELD_BYTES {
            return 0;
        }
        let held = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        self.slots.saturating_add(self.prefetch).saturating_sub(held)
    }

    /// How many attempts it could start right now.
    pub(crate) fn free_slots(&self) -> u32 {
        self.slots.saturating_sub(u32::try_from(self.runs.len()).unwrap_or(u32::MAX))
    }

    /// What it takes of the next claim.
    pub(super) fn taker(&self, line: Line) -> Taker {
        let room = match line {
            Line::Free => self.free_slots().min(self.credit()),
            Line::Roomy => self.credit(),
        };
        let within_bytes = match self.usual_bytes {
            Some(usual) => (MAX_HELD_BYTES - self.held_bytes.min(MAX_HELD_BYTES)) / usual.max(1),
            None => u64::from(FIRST_JOBS),
        };
        let within_bytes = u32::try_from(within_bytes).unwrap_or(u32::MAX).max(1);
        Taker { session: self.session, limit: room.min(MAX_JOBS).min(within_bytes) }
    }

    /// How many runs it holds.
    pub(crate) fn held_count(&self) -> usize {
        self.runs.len()
    }

    /// The run of a job that it holds.
    pub(crate) fn holds(&self, job: JobId) -> Option<Held> {
        self.runs.get(&job).copied()
    }

    /// Does it not hold this run yet, nor a later one of the job? An earlier one it may hold still: of one
    /// that has just ended the store may have said so to nobody.
    pub(crate) fn is_news(&self, run: RunRef) -> bool {
        self.runs.get(&run.job).is_none_or(|held| held.epoch < run.epoch)
    }

    /// Every run that it holds, sorted.
    pub(crate) fn runs(&self) -> Vec<RunRef> {
        let mut runs: Vec<RunRef> =
            self.runs.iter().map(|(job, held)| RunRef { job: *job, epoch: held.epoch }).collect();
        runs.sort_unstable();
        runs
    }
}
