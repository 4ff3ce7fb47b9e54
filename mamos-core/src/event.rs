//! Everything observable, as one enum.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::{AgentId, JobId, QueueName, SessionId};
use crate::job::lane::Lane;
use crate::job::state::JobState;
use crate::job::{Counters, Progress};
use crate::lease::RunRef;
use crate::store::LogPiece;

/// Something that happened, numbered in the order in which this orchestrator saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Grows by one with each event of this orchestrator since it was built.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// The lane of the job that it is about, if it is about one and this orchestrator knows.
    pub lane: Option<Arc<Lane>>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// A job was stored.
    JobEnqueued {
        /// The job.
        job: JobId,
        /// What it is.
        lane: Arc<Lane>,
        /// The state it is in.
        state: JobState,
    },
    /// A job was handed to an agent.
    JobDispatched {
        /// The run.
        run: RunRef,
        /// The agent.
        agent: AgentId,
        /// How often it was tried.
        counters: Counters,
    },
    /// The agent said that it started.
    JobStarted {
        /// The run.
        run: RunRef,
        /// The agent.
        agent: AgentId,
    },
    /// The agent said how far it is.
    JobProgress {
        /// The run.
        run: RunRef,
        /// How far.
        progress: Progress,
    },
    /// The run printed something.
    JobLog {
        /// The run.
        run: RunRef,
        /// What.
        piece: LogPiece,
    },
    /// A run ended.
    JobSettled {
        /// The run.
        run: RunRef,
        /// The agent.
        agent: AgentId,
        /// The state of the job afterwards.
        state: JobState,
    },
    /// A run was given back, or taken back from a lost agent.
    JobRescued {
        /// The run.
        run: RunRef,
        /// The state of the job afterwards.
        state: JobState,
    },
    /// A job was cancelled, redriven, approved, or buried because of its deadline.
    JobChanged {
        /// The job.
        job: JobId,
        /// The state it is in now.
        state: JobState,
    },
    /// Someone asked to cancel a job that an agent holds.
    CancelRequested {
        /// The run.
        run: RunRef,
    },
    /// A write of a run that was no longer current was refused.
    StaleWrite {
        /// The run.
        run: RunRef,
        /// Who tried.
        agent: AgentId,
    },
    /// An agent was admitted for the first time.
    AgentRegistered {
        /// The agent.
        agent: AgentId,
    },
    /// An agent has a link.
    AgentConnected {
        /// The agent.
        agent: AgentId,
        /// Its session.
        session: SessionId,
        /// Is it the session that it had before?
        is_resumed: bool,
    },
    /// An agent's link is gone. Its session goes on until it expires.
    AgentDisconnected {
        /// The agent.
        agent: AgentId,
        /// Its session.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// An agent said goodbye.
    AgentStopped {
        /// The agent.
        agent: AgentId,
    },
    /// An agent's session expired.
    AgentLost {
        /// The agent.
        agent: AgentId,
        /// The session.
        session: SessionId,
    },
    /// An agent may not connect any more, until it is reinstated.
    AgentRevoked {
        /// The agent.
        agent: AgentId,
        /// Why.
        reason: String,
    },
    /// Two programs proved themselves with one identity, and neither descends from the other: it was
    /// copied. The agent is revoked.
    IdentityCopied {
        /// The agent.
        agent: AgentId,
    },
    /// A revoked agent may connect again.
    AgentReinstated {
        /// The agent.
        agent: AgentId,
    },
    /// An agent was drained or goes on, was labelled, or was decommissioned.
    AgentChanged {
        /// The agent.
        agent: AgentId,
    },
    /// Someone who wanted to connect was refused.
    AgentRefused {
        /// Who, as the transport names it.
        peer: String,
        /// Why.
        reason: String,
    },
    /// A queue was paused or goes on.
    QueuePaused {
        /// The queue.
        queue: QueueName,
        /// Is it paused now?
        is_paused: bool,
    },
}
