//! The state machine of an agent, as one pure function, and liveness, which is a second axis.
//!
//! `docs/state-machines.md` shows the same table; a test compares the two.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Where an agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Found, not yet admitted.
    Discovered,
    /// Admitted: it has an identity, and never had a session.
    Registered,
    /// Has a session, or had one that may still come back.
    Running,
    /// Said goodbye.
    Stopped,
    /// Its session was lost without a goodbye.
    Failed,
    /// Taken out of service for good. Final.
    Decommissioned,
}

/// What can happen to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentEvent {
    /// It was admitted.
    Register,
    /// It opened a session.
    Start,
    /// It said goodbye.
    Stop,
    /// Its session was lost.
    Fail,
    /// An operator took it out of service.
    Decommission,
}

/// The event cannot happen in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an agent that is {state:?} cannot {event:?}")]
pub struct IllegalAgentTransition {
    /// The state, which stays as it is.
    pub state: AgentState,
    /// The event that was refused.
    pub event: AgentEvent,
}

impl AgentState {
    /// All states, in the order of an agent's life.
    pub const ALL: [Self; 6] = [
        Self::Discovered,
        Self::Registered,
        Self::Running,
        Self::Stopped,
        Self::Failed,
        Self::Decommissioned,
    ];

    /// The state after the event.
    ///
    /// # Errors
    ///
    /// [`IllegalAgentTransition`] if the event cannot happen in this state.
    pub fn after(self, event: AgentEvent) -> Result<Self, IllegalAgentTransition> {
        match (self, event) {
            (Self::Discovered, AgentEvent::Register) => Ok(Self::Registered),
            // From `Running` too: a newer session of the same agent supersedes the older one.
            (Self::Registered | Self::Running | Self::Stopped | Self::Failed, AgentEvent::Start) => {
                Ok(Self::Running)
            }
            (Self::Running, AgentEvent::Stop) => Ok(Self::Stopped),
            (Self::Running, AgentEvent::Fail) => Ok(Self::Failed),
            (state, AgentEvent::Decommission) if state != Self::Decommissioned => Ok(Self::Decommissioned),
            (state, event) => Err(IllegalAgentTransition { state, event }),
        }
    }

    /// The stable name: in databases, frames and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discovered => "discovered",
            Self::Registered => "registered",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Decommissioned => "decommissioned",
        }
    }
}

impl std::fmt::Display for AgentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl AgentEvent {
    /// All events.
    pub const ALL: [Self; 5] = [Self::Register, Self::Start, Self::Stop, Self::Fail, Self::Decommission];
}

/// Whether an agent can be reached, apart from its [state](AgentState).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// Heard of within two thirds of its lease.
    Live,
    /// Not heard of for longer, or its link is cut: it gets no new work, and keeps what it has.
    Suspect,
    /// Its session expired: what it held is given to others.
    Lost,
}

impl Liveness {
    /// The liveness of a session that was heard of at `heard_at`, whose lease lasts `ttl`.
    ///
    /// Suspect after two thirds of the lease: by then two heartbeats are missing.
    pub fn of(heard_at: Timestamp, ttl: Duration, now: Timestamp) -> Self {
        let silence = now.since(heard_at);
        if silence >= ttl {
            Self::Lost
        } else if silence >= ttl.mul_f64(2.0 / 3.0) {
            Self::Suspect
        } else {
            Self::Live
        }
    }
}

/// The whole table in Markdown: a row a state, a column an event, `·` where the event is illegal.
pub fn table() -> String {
    crate::table::render("state", &AgentState::ALL, &AgentEvent::ALL, |state, event| state.after(event).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_the_one_in_the_docs() {
        let docs = include_str!("../../../docs/state-machines.md");
        assert!(docs.contains(&table()), "docs/state-machines.md lacks this table:\n{}", table());
    }

    #[test]
    fn a_decommissioned_agent_stays_so() {
        for event in AgentEvent::ALL {
            assert!(AgentState::Decommissioned.after(event).is_err());
        }
    }

    #[test]
    fn liveness_passes_through_suspect() {
        let ttl = Duration::from_secs(30);
        let after =
            |seconds| Liveness::of(Timestamp::EPOCH, ttl, Timestamp::EPOCH + Duration::from_secs(seconds));
        assert_eq!(after(19), Liveness::Live);
        assert_eq!(after(20), Liveness::Suspect);
        assert_eq!(after(29), Liveness::Suspect);
        assert_eq!(after(30), Liveness::Lost);
    }
}
