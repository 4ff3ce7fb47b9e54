//! Where a job is and what it waits for, as data.

use super::engine::Engine;
use super::registry::Link;
use crate::clock::Timestamp;
use crate::id::{AgentId, JobId, JobKind, QueueName};
use crate::job::JobRecord;
use crate::job::state::JobState;
use crate::{Error, ErrorKind, Result};

/// How many agents are named for one reason.
const MAX_NAMED: usize = 20;

/// Where a job is and what it waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    /// The job.
    pub job: JobId,
    /// Where it is in its life.
    pub state: JobState,
    /// What it waits for.
    pub waits_for: WaitsFor,
}

/// What a job waits for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Nothing: it has ended.
    Nothing,
    /// An approval.
    Approval,
    /// Its time: it was enqueued for later.
    Time {
        /// When it may run.
        until: Timestamp,
    },
    /// Its time, after an attempt that failed or was put off.
    Backoff {
        /// When it may run.
        until: Timestamp,
        /// The attempt that comes then.
        attempt: u32,
        /// Why the last one failed, unless it was only put off.
        failure: Option<String>,
    },
    /// Its queue to go on.
    PausedQueue(QueueName),
    /// An agent that can run jobs of its kind. None is connected here.
    AgentOfKind(JobKind),
    /// An agent whose labels fit. Agents that can run its kind are connected, but none of them fits.
    MatchingAgent {
        /// Agents, each with the first requirement that it does not meet. At most 20.
        unmet: Vec<(AgentId, String)>,
    },
    /// A free slot. Agents that fit are connected, but each is full, draining or silent.
    FreeSlot {
        /// Agents, each with what keeps it from taking more. At most 20.
        agents: Vec<(AgentId, Busy)>,
    },
    /// Its turn: agents that fit have room, and the dispatcher is about to look.
    Dispatch,
    /// The agent that has it to start it.
    Start {
        /// The agent.
        agent: Option<AgentId>,
    },
    /// The agent that runs it to end it.
    End {
        /// The agent.
        agent: Option<AgentId>,
        /// Since when it runs.
        since: Option<Timestamp>,
        /// Was it asked to stop?
        is_cancel_requested: bool,
    },
}

/// What keeps an agent from taking more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Busy {
    /// All its slots are taken.
    Full,
    /// It takes no new work.
    Draining,
    /// It has not been heard of for a while.
    Silent,
}

/// Explains a job.
pub(crate) async fn explain(engine: &Engine, id: JobId) -> Result<Why> {
    let record = engine.store.job(id).await?.ok_or_else(|| not_found(id))?;
    let paused = engine.store.paused_queues().await?;
    let registry = engine.registry();
    let waits_for = reason(&record, &paused, registry.links());
    Ok(Why { job: id, state: record.state, waits_for })
}

pub(crate) fn not_found(id: JobId) -> Error {
    Error::new(ErrorKind::NotFound, "job.get", format!("there is no job {id}; it may have been pruned"))
}

fn reason<'a>(record: &JobRecord, paused: &[QueueName], links: impl Iterator<Item = &'a Link>) -> WaitsFor {
    match record.state {
        JobState::Blocked => WaitsFor::Approval,
        JobState::Scheduled if record.epoch == crate::lease::Epoch::NEVER => {
            WaitsFor::Time { until: record.run_at }
        }
        JobState::Scheduled => WaitsFor::Backoff {
            until: record.run_at,
            attempt: record.counters.attempt,
            failure: record.failure.as_ref().map(ToString::to_string),
        },
        JobState::Ready if paused.contains(record.spec.lane.queue()) => {
            WaitsFor::PausedQueue(record.spec.lane.queue().clone())
        }
        JobState::Ready => unclaimed(record, links),
        JobState::Leased => WaitsFor::Start { agent: record.agent.clone() },
        JobState::Running => WaitsFor::End {
            agent: record.agent.clone(),
            since: record.started_at,
            is_cancel_requested: record.cancel.is_some(),
        },
        JobState::Succeeded | JobState::Dead | JobState::Cancelled => WaitsFor::Nothing,
    }
}

fn unclaimed<'a>(record: &JobRecord, links: impl Iterator<Item = &'a Link>) -> WaitsFor {
    let lane = &record.spec.lane;
    let able: Vec<&Link> = links.filter(|link| link.profile.kinds.contains(lane.kind())).collect();
    if able.is_empty() {
        return WaitsFor::AgentOfKind(lane.kind().clone());
    }
    let (fitting, others): (Vec<&Link>, Vec<&Link>) =
        able.into_iter().partition(|link| lane.selector().matches(&link.labels));
    if fitting.is_empty() {
        let unmet = others.into_iter().take(MAX_NAMED).filter_map(|link| {
            let requirement = lane.selector().first_unmet(&link.labels)?;
            Some((link.agent.clone(), requirement.to_string()))
        });
        return WaitsFor::MatchingAgent { unmet: unmet.collect() };
    }
    let busy: Vec<(AgentId, Busy)> =
        fitting.iter().filter_map(|link| Some((link.agent.clone(), busy(link)?))).collect();
    if busy.len() < fitting.len() {
        return WaitsFor::Dispatch;
    }
    WaitsFor::FreeSlot { agents: busy.into_iter().take(MAX_NAMED).collect() }
}

fn busy(link: &Link) -> Option<Busy> {
    if link.is_draining || link.slots == 0 {
        Some(Busy::Draining)
    } else if link.is_suspect {
        Some(Busy::Silent)
    } else if link.free_slots() == 0 {
        Some(Busy::Full)
    } else {
        None
    }
}
