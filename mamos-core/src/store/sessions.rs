//! What goes in and out when agents come, and sessions as they are kept.

use std::time::Duration;

use crate::agent::AgentProfile;
use crate::clock::Timestamp;
use crate::id::{AgentId, SessionId};
use crate::job::lane::LaneId;
use crate::job::state::JobState;
use crate::job::{CancelRequest, ClaimedJob};
use crate::lease::{RunRef, SessionRef};

/// An agent asks for a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Attach {
    /// The agent, known from the channel.
    pub agent: AgentId,
    /// What it says of itself.
    pub profile: AgentProfile,
    /// The session it had, if it wants to resume that.
    pub resume: Option<SessionId>,
    /// The id of the session if a new one is opened.
    pub fresh: SessionId,
    /// Every run that the agent still has: waiting, running, or ended but not yet acknowledged.
    pub known: Vec<RunRef>,
    /// Expires `now + ttl`.
    pub ttl: Duration,
    /// The name of the orchestrator that serves it.
    pub orchestrator: String,
}

/// An agent has a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// The session.
    pub session: SessionRef,
    /// Is it the one that the agent wanted to resume?
    pub is_resumed: bool,
    /// Other sessions of the agent that were open until now.
    pub superseded: Vec<SessionId>,
    /// What the session holds.
    pub held: Vec<HeldJob>,
    /// What was given back because the agent did not know it, and the state of the job afterwards.
    pub returned: Vec<(RunRef, LaneId, JobState)>,
    /// Runs that the agent has but does not hold: it must stop them.
    pub unknown: Vec<RunRef>,
}

/// A job that a session holds.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldJob {
    /// The job, as it was claimed.
    pub claimed: ClaimedJob,
    /// Did the agent say that it started?
    pub is_started: bool,
    /// Set once someone asked to cancel it.
    pub cancel: Option<CancelRequest>,
}

/// A session, as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The session and its current link.
    pub session: SessionRef,
    /// Whose it is.
    pub agent: AgentId,
    /// The name of the orchestrator that serves it.
    pub orchestrator: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it expires if it is not renewed.
    pub expires_at: Timestamp,
    /// How it ended; `None` while it is open.
    pub end: Option<SessionEnd>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// The agent said goodbye.
    Closed,
    /// The agent opened a newer one.
    Superseded,
    /// It expired.
    Lost,
}

impl SessionEnd {
    /// The stable name: in databases and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Superseded => "superseded",
            Self::Lost => "lost",
        }
    }
}
