//! Gives any [`Agent`] a link to an orchestrator: heartbeats, reports that are sent until they are on
//! record, cancellation, drain, and reconnects.

mod backoff;
mod drive;
mod greeting;
mod ledger;
mod mailbox;
mod metronome;
mod outbox;
mod writer;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::agent::Agent;
use mamos_core::auth::{Credentials, Secret};
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::transport::Connector;
use mamos_core::{AgentId, Error, ErrorKind, Result, SessionId};
use tokio::sync::{Notify, watch};

use self::drive::Driver;
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
    handle: AgentHandle,
    status: watch::Sender<AgentStatus>,
}

/// Settings of an [`AgentRuntime`].
pub struct AgentRuntimeBuilder {
    setup: Setup,
    token: Option<Secret>,
    journal: Option<Journal>,
    state_directory: Option<PathBuf>,
}

/// What the loop must know.
struct Setup {
    agent: Arc<dyn Agent>,
    connector: Arc<dyn Connector>,
    credentials: Option<Credentials>,
    identity_file: Option<PathBuf>,
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
}

impl AgentHandle {
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
        AgentRuntimeBuilder {
            setup: Setup {
                agent,
                connector,
                credentials: None,
                identity_file: None,
                clock: Arc::new(SystemClock),
                seed: fastrand::u64(..),
                load: None,
                load_every: 1,
                drain_timeout: Duration::from_secs(30),
                cancel_grace: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(10),
                stable_after: Duration::from_secs(10),
                announce_after: Duration::from_millis(10),
                when_cut_off: WhenCutOff::default(),
                max_queued: 4096,
                max_queued_bytes: 64 * 1024 * 1024,
                max_unsent_log_bytes: 4 * 1024 * 1024,
                max_output_bytes: 1024 * 1024,
            },
            token: None,
            journal: None,
            state_directory: None,
        }
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
    /// # Errors
    ///
    /// - [`ErrorKind::Denied`]: the orchestrator refused the agent for good. Register it anew.
    /// - [`ErrorKind::Stale`]: another process with the same identity took over. Give each agent an
    ///   identity of its own.
    /// - [`ErrorKind::Unsupported`]: the orchestrator speaks another version of the protocol.
    /// - [`ErrorKind::Config`]: the connector's address can never work.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Stopped> {
        Driver::new(self.setup, self.journal, self.handle.drain, self.status).run(shutdown).await
    }
}

impl AgentRuntimeBuilder {
    /// Registers the agent with this one-time token, unless an identity file says who it is already.
    ///
    /// The agent makes its secret itself; with an identity file it is on disk before it is sent.
    #[must_use]
    pub fn registration(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// What the agent proves itself with, unless an identity file says who it is already.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.setup.credentials = Some(credentials);
        self
    }

    /// Keeps the identity (`identity.json`) and the journal (`agent.journal`) in this directory, which
    /// is made if it is missing. An identity in there wins over [credentials]; remove the file to
    /// register anew. Default: nothing is kept.
    ///
    /// [credentials]: AgentRuntimeBuilder::credentials
    #[must_use]
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_directory = Some(directory.into());
        self
    }

    /// Keeps the identity in this file. Default: in the state directory, if there is one.
    #[must_use]
    pub fn identity_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.setup.identity_file = Some(path.into());
        self
    }

    /// Uses this journal. Default: one in the state directory, if there is one; else results that were
    /// not sent are lost with the process.
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Where the time comes from. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.setup.clock = clock;
        self
    }

    /// What jitter is derived from. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.setup.seed = seed;
        self
    }

    /// Sends how busy the machine is, once in `every_beats` heartbeat intervals (at least 1). Default:
    /// never.
    #[must_use]
    pub fn load(mut self, source: Arc<dyn LoadSource>, every_beats: u32) -> Self {
        self.setup.load = Some(source);
        self.setup.load_every = every_beats;
        self
    }

    /// How long running attempts may go on after a shutdown. Default: 30 s.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.setup.drain_timeout = timeout;
        self
    }

    /// How long an attempt may take to stop when it is out of time or given back, and when the
    /// orchestrator names no grace. Default: 10 s.
    #[must_use]
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.setup.cancel_grace = grace;
        self
    }

    /// How long connecting may take, the orchestrator's welcome included. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.setup.connect_timeout = timeout;
        self
    }

    /// How long a link must live before the wait between reconnects (100 ms to 30 s, full jitter) begins
    /// anew. Default: 10 s.
    #[must_use]
    pub fn stable_after(mut self, stable_after: Duration) -> Self {
        self.setup.stable_after = stable_after;
        self
    }

    /// How long a typed job may run before it is reported as started. One that ends sooner costs the
    /// orchestrator one write instead of two; one that kills its agent sooner counts as undelivered and
    /// not as crashed. Commands are always reported at once. Default: 10 ms.
    #[must_use]
    pub fn announce_after(mut self, delay: Duration) -> Self {
        self.setup.announce_after = delay;
        self
    }

    /// What becomes of running attempts when the lease ran out. Default: they go on.
    #[must_use]
    pub fn when_cut_off(mut self, policy: WhenCutOff) -> Self {
        self.setup.when_cut_off = policy;
        self
    }

    /// How many attempts, with how many bytes of arguments, may wait for a slot; what comes beyond is
    /// given back. How much is sent in advance, the orchestrator decides. Default: 4096 and 64 MiB.
    #[must_use]
    pub fn max_queued(mut self, count: usize, bytes: usize) -> Self {
        self.setup.max_queued = count;
        self.setup.max_queued_bytes = bytes;
        self
    }

    /// How many bytes of logs are kept until they are on record; beyond that, `log()` waits. Default:
    /// 4 MiB; at least 64 KiB.
    #[must_use]
    pub fn max_unsent_log_bytes(mut self, bytes: usize) -> Self {
        self.setup.max_unsent_log_bytes = bytes;
        self
    }

    /// The largest output of an attempt; a larger one buries the job with the code `output_too_large`.
    /// Default: 1 MiB.
    #[must_use]
    pub fn max_output_bytes(mut self, bytes: usize) -> Self {
        self.setup.max_output_bytes = bytes;
        self
    }

    /// Checks the settings and opens the files. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: there are neither credentials nor an identity, or a file or directory
    ///   cannot be used.
    /// - [`ErrorKind::LimitExceeded`]: the profile breaks a bound.
    /// - As [`Journal::open`] and [`Identity::load`].
    pub fn build(mut self) -> Result<AgentRuntime> {
        let invalid = |message: String| Error::new(ErrorKind::Config, "agent.build", message);
        self.setup.agent.profile().check()?;
        if self.setup.max_unsent_log_bytes < 64 * 1024 {
            return Err(invalid("max_unsent_log_bytes must be at least 64 KiB".to_owned()));
        }
        if self.setup.load_every == 0 {
            return Err(invalid(
                "the load can be sent every heartbeat or less often, not every 0".to_owned(),
            ));
        }
        if let Some(directory) = self.state_directory {
            std::fs::create_dir_all(&directory).map_err(|error| {
                invalid(format!("the state directory {} cannot be made", directory.display()))
                    .with_source(error)
            })?;
            if self.journal.is_none() {
                self.journal = Some(Journal::open(directory.join("agent.journal"))?);
            }
            self.setup.identity_file.get_or_insert_with(|| directory.join("identity.json"));
        }
        let known = self.setup.identity_file.as_deref().map(Identity::load).transpose()?.flatten();
        if let Some(token) = &self.token
            && known.is_none()
        {
            let fresh = Identity::generate();
            if let Some(path) = &self.setup.identity_file {
                fresh.save(path)?;
            }
            self.setup.credentials = fresh.credentials(Some(token));
        } else if let Some(identity) = known {
            self.setup.credentials = identity.credentials(self.token.as_ref()).or(self.setup.credentials);
        }
        if self.setup.credentials.is_none() {
            let message = "the agent has neither credentials nor an identity; give it a registration token";
            return Err(invalid(message.to_owned()));
        }
        let (status, receiver) = watch::channel(AgentStatus::default());
        let handle = AgentHandle { drain: Arc::default(), status: receiver };
        Ok(AgentRuntime { setup: self.setup, journal: self.journal, handle, status })
    }
}

impl fmt::Debug for AgentRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connector = self.setup.connector.describe();
        f.debug_struct("AgentRuntime").field("connector", &connector).finish_non_exhaustive()
    }
}

impl fmt::Debug for AgentRuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connector = self.setup.connector.describe();
        f.debug_struct("AgentRuntimeBuilder").field("connector", &connector).finish_non_exhaustive()
    }
}
