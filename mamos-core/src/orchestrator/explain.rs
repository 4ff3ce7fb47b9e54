//! Where a job is and what it waits for, as data.

use std::fmt;

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

/// The end of a sentence that begins with "it waits for".
impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing: it has ended"),
            Self::Approval => f.write_str("an approval"),
            Self::Time { until } => write!(f, "its time, {until}"),
            Self::Backoff { until, attempt, failure: None } => write!(f, "attempt {attempt} at {until}"),
            Self::Backoff { until, attempt, failure: Some(failure) } => {
                write!(f, "attempt {attempt} at {until}, after {failure}")
            }
            Self::PausedQueue(queue) => write!(f, "queue {queue} to go on; it is paused"),
            Self::AgentOfKind(kind) => write!(f, "an agent that can run {kind}; none is connected"),
            Self::MatchingAgent { unmet } => {
                f.write_str("an agent whose labels fit")?;
                each(f, unmet, "does not meet")
            }
            Self::FreeSlot { agents } => {
                f.write_str("a free slot")?;
                each(f, agents, "is")
            }
            Self::Dispatch => f.write_str("its turn, which comes at once"),
            Self::Start { agent } => write!(f, "{} to start it", named(agent)),
            Self::End { agent, since, is_cancel_requested } => {
                write!(f, "{} to end it", named(agent))?;
                if let Some(since) = since {
                    write!(f, "; it runs since {since}")?;
                }
                if *is_cancel_requested { f.write_str(", and was asked to stop") } else { Ok(()) }
            }
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Silent => "silent",
        })
    }
}

fn each<T: fmt::Display>(f: &mut fmt::Formatter<'_>, agents: &[(AgentId, T)], verb: &str) -> fmt::Result {
    agents.iter().enumerate().try_for_each(|(index, (agent, what))| {
        let separator = if index == 0 { ": " } else { ", " };
        write!(f, "{separator}{agent} {verb} {what}")
    })
}

fn named(agent: &Option<AgentId>) -> String {
    agent.as_ref().map_or_else(|| "its agent".to_owned(), |agent| format!("agent {agent}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AgentKind;

    #[test]
    fn reasons_read_as_the_end_of_a_sentence() {
        let agent = AgentId::from_parts(AgentKind::new("a").unwrap(), Timestamp::EPOCH, 1);
        let failure = Some("exit_code: exit code 1".to_owned());
        let cases = [
            (
                WaitsFor::Backoff { until: Timestamp::EPOCH, attempt: 2, failure },
                "attempt 2 at 1970-01-01T00:00:00.000000Z, after exit_code: exit code 1".to_owned(),
            ),
            (
                WaitsFor::MatchingAgent { unmet: vec![(agent.clone(), "zone=eu".to_owned())] },
                format!("an agent whose labels fit: {agent} does not meet zone=eu"),
            ),
            (
                WaitsFor::FreeSlot {
                    agents: vec![(agent.clone(), Busy::Full), (agent.clone(), Busy::Silent)],
                },
                format!("a free slot: {agent} is full, {agent} is silent"),
            ),
            (
                WaitsFor::End { agent: Some(agent.clone()), since: None, is_cancel_requested: true },
                format!("agent {agent} to end it, and was asked to stop"),
            ),
            (WaitsFor::Start { agent: None }, "its agent to start it".to_owned()),
        ];
        for (waits_for, text) in cases {
            assert_eq!(waits_for.to_string(), text);
        }
    }
}
