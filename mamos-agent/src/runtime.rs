//! Gives any [`Agent`] a link to an orchestrator: heartbeats, reports that are sent until they are on
//! record, cancellation, drain, and reconnects.

mod backoff;
mod builder;
mod drive;
mod greeting;
mod keeper;
mod ledger;
mod mailbox;
mod metronome;
mod outbox;
mod writer;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::agent::Agent;
use mamos_core::auth::Secret;
use mamos_core::clock::Clock;
use mamos_core::transport::Connector;
use mamos_core::{AgentId, Result, SessionId};
use tokio::sync::{Notify, watch};

pub use self::builder::AgentRuntimeBuilder;
use self::drive::Driver;
use self::keeper::Keeper;
use crate::identity::Identity;
use crate::journal::Journal;
use crate::load::LoadSource;

/// Runs an agent: connects it, and keeps it connected, until it is told to stop.
///
/// - It runs at most as many attempts at once as the profile has slots, each on a Tokio task of its own,
///   and queues what the orchestrator sends beyond that.
/// - Attempts go on while the link is cut. What they say is kept, within bounds, and sent again after a
///   reconnect until the orchestrator has it on record.
/// - Heartbeats do not depend on handlers, as long as the Tokio runtime has a thread left that no handler
///   blocks: use a multi-threaded one, and `spawn_blocking` in handlers that block.
/// - An attempt holds its slot until its future is really gone, whatever was reported about it.
///
/// The runtime reads no environment, installs nothing, and spawns nothing that outlives
/// [`AgentRuntime::run`]: when that future is dropped, all attempts are aborted.
///
/// # Examples
///
/// ```no_run
/// # async fn example(
/// #     registry: mamos_agent::HandlerRegistry,
/// #     connector: std::sync::Arc<dyn mamos_core::transport::Connector>,
/// # ) -> mamos_core::Result<()> {
/// use std::sync::Arc;
///
/// use mamos_agent::AgentRuntime;
/// use mamos_core::auth::Secret;
///
/// let runtime = AgentRuntime::builder(Arc::new(registry), connector)
///     .registration(Secret::new("mamos_reg_…"))
///     .state_directory("/var/lib/my-agent")
///     .build()?;
/// let stopped = runtime.run(std::future::pending()).await?;
/// assert_eq!(stopped.unsent, 0);
/// # Ok(())
/// # }
/// ```
pub struct AgentRuntime {
    setup: Setup,
    journal: Option<Journal>,
    keeper: Keeper,
    registration: Secret,
    handle: AgentHandle,
    status: watch::Sender<AgentStatus>,
}

/// What the loop must know.
struct Setup {
    agent: Arc<dyn Agent>,
    connector: Arc<dyn Connector>,
    clock: Arc<dyn Clock>,
    seed: u64,
    load: Option<Arc<dyn LoadSource>>,
    load_every: u32,
    drain_timeout: Duration,
    cancel_grace: Duration,
    connect_timeout: Duration,
    stable_after: Duration,
    announce_after: Duration,
    when_cut_off: WhenCutOff,
    max_queued: usize,
    max_queued_bytes: usize,
    max_unsent_log_bytes: usize,
    max_output_bytes: usize,
}

/// What becomes of running attempts when the link has been down for so long that the orchestrator gives
/// their jobs to others.
///
/// The time counts from the moment the agent noticed the cut, and is the `lease_ttl` of the last
/// `Welcome`. The orchestrator may have noticed earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenCutOff {
    /// They go on. Their results are fenced: if the job was given to another agent, they are refused and
    /// change nothing. Right for work that may safely happen twice at once.
    #[default]
    KeepRunning,
    /// They are cancelled with the [cancel grace](AgentRuntimeBuilder::cancel_grace) and given back.
    /// Right for commands that must not run twice at once.
    Stop,
}

/// How a runtime ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Who asked for it.
    pub reason: StopReason,
    /// How many reports the orchestrator does not have. With a journal, results among them are sent
    /// after the next start; without one they are lost, and the jobs are rescued.
    pub unsent: usize,
}

/// Who asked a runtime to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The program that it is part of.
    Shutdown,
    /// The orchestrator, or [`AgentHandle::drain`].
    Drained,
}

/// What a runtime is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentStatus {
    /// Does it have a link on which it was welcomed?
    pub is_connected: bool,
    /// Is it taking no new work?
    pub is_draining: bool,
    /// Who it is, once that is known.
    pub agent: Option<AgentId>,
    /// Its session, once it had one.
    pub session: Option<SessionId>,
    /// Attempts that hold a slot.
    pub running: usize,
    /// Attempts that wait for one.
    pub queued: usize,
    /// Reports that the orchestrator does not have on record.
    pub unsent: usize,
}

/// Looks at a runtime from outside, and can drain it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentHandle {
    drain: Arc<Notify>,
    status: watch::Receiver<AgentStatus>,
    identity: watch::Receiver<Identity>,
}

impl AgentHandle {
    /// Who the agent is, as it knows now: what its identity file holds, or will in a moment.
    pub fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    /// What the runtime is doing now.
    pub fn status(&self) -> AgentStatus {
        self.status.borrow().clone()
    }

    /// Waits until the status is as wished. Gives the last status if the runtime ends before that.
    pub async fn wait_until(&self, is_wished: impl FnMut(&AgentStatus) -> bool) -> AgentStatus {
        let mut status = self.status.clone();
        let found = status.wait_for(is_wished).await.map(|status| status.clone());
        found.unwrap_or_else(|_| self.status())
    }

    /// Lets the runtime take no new work, give back what it has not started, finish what runs, however
    /// long that takes, and stop.
    pub fn drain(&self) {
        self.drain.notify_one();
    }
}

impl AgentRuntime {
    /// Begins the settings of a runtime for an agent, which reaches its orchestrator with `connector`.
    pub fn builder(agent: Arc<dyn Agent>, connector: Arc<dyn Connector>) -> AgentRuntimeBuilder {
        AgentRuntimeBuilder::new(agent, connector)
    }

    /// A handle to look at the runtime while it runs, and to drain it.
    pub fn handle(&self) -> AgentHandle {
        self.handle.clone()
    }

    /// Runs the agent until `shutdown` completes, the orchestrator drains it, or it cannot go on.
    ///
    /// At shutdown it takes no new work, gives back what it has not started, and lets the rest finish
    /// for the drain timeout. Then it cancels what still runs, gives that back, and says goodbye.
    /// Dropping the future instead stops everything at once: the orchestrator notices when the session
    /// expires.
    ///
    /// An agent that was welcomed once since it started is not ended by what lies between it and the
    /// orchestrator: a certificate that is not trusted any more, a proxy that answers in its place, another
    /// version. It says so as an error, lets its attempts go on, and tries again after up to 30 s.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Denied`](mamos_core::ErrorKind::Denied): the orchestrator refused the agent for good,
    ///   for example because its identity was copied. Register it anew.
    /// - [`ErrorKind::Stale`](mamos_core::ErrorKind::Stale): another program with the same identity took
    ///   over twice within a lease. Give each agent an identity of its own.
    /// - [`ErrorKind::Unsupported`](mamos_core::ErrorKind::Unsupported): the orchestrator speaks another
    ///   version of the protocol, and the agent was not welcomed yet.
    /// - [`ErrorKind::Config`](mamos_core::ErrorKind::Config): the connector says that it cannot work as it is
    ///   set up, and the agent was not welcomed yet.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Stopped> {
        let driver = Driver::new(
            self.setup,
            self.journal,
            self.keeper,
            self.registration,
            self.handle.drain,
            self.status,
        );
        driver.run(shutdown).await
    }
}

impl fmt::Debug for AgentRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connector = self.setup.connector.describe();
        f.debug_struct("AgentRuntime").field("connector", &connector).finish_non_exhaustive()
    }
}
