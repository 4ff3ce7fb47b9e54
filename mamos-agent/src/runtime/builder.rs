//! The settings of a runtime, and how they are checked against each other.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::agent::Agent;
use mamos_core::auth::Secret;
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::transport::Connector;
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::watch;

use super::keeper::{self, IdentityFile, Keeper};
use super::{AgentHandle, AgentRuntime, AgentStatus, Setup, WhenCutOff};
use crate::identity::{Identity, fresh_life};
use crate::journal::Journal;
use crate::load::LoadSource;

/// Settings of an [`AgentRuntime`].
pub struct AgentRuntimeBuilder {
    setup: Setup,
    registration: Option<Secret>,
    identity: Option<Identity>,
    identity_file: Option<PathBuf>,
    journal: Option<Journal>,
    state_directory: Option<PathBuf>,
}

impl AgentRuntimeBuilder {
    pub(super) fn new(agent: Arc<dyn Agent>, connector: Arc<dyn Connector>) -> Self {
        Self {
            setup: Setup {
                agent,
                connector,
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
            registration: None,
            identity: None,
            identity_file: None,
            journal: None,
            state_directory: None,
        }
    }

    /// Registers the agent with this one-time token, unless its identity says that it is registered.
    ///
    /// The agent makes its key pair itself; with an identity file it is on disk before the public half is
    /// sent.
    #[must_use]
    pub fn registration(mut self, token: Secret) -> Self {
        self.registration = Some(token);
        self
    }

    /// Who the agent is, unless its identity file says so. Default: a new key pair.
    ///
    /// Without an identity file it is used as it is: call [`Identity::begin_life`] before, if it comes
    /// from an earlier runtime, and get it back with [`AgentHandle::identity`].
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Keeps the identity (`identity.json`) and the journal (`agent.journal`) in this directory, which
    /// is made if it is missing, for the owner only. An identity in there wins over all others; remove the
    /// file to register anew. One runtime at a time may use it. Default: nothing is kept.
    #[must_use]
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_directory = Some(directory.into());
        self
    }

    /// Keeps the identity in this file. Default: in the state directory, if there is one.
    #[must_use]
    pub fn identity_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.identity_file = Some(path.into());
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
    /// - [`ErrorKind::Config`]: the agent is not registered and has no registration token; a file or
    ///   directory cannot be used, or another program uses it.
    /// - [`ErrorKind::LimitExceeded`]: the profile breaks a bound.
    /// - As [`Journal::open`], [`Identity::load`] and [`Identity::save`].
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
        if let Some(directory) = &self.state_directory {
            keeper::make_directory(directory)?;
            self.identity_file.get_or_insert_with(|| directory.join("identity.json"));
        }
        // The lock of the identity comes first: whoever has it may open the rest.
        let file = self.identity_file.take().map(IdentityFile::open).transpose()?;
        let kept = file.as_ref().map(IdentityFile::load).transpose()?.flatten();
        let identity = match kept.or(self.identity) {
            Some(mut identity) => {
                if file.is_some() {
                    identity.begin_life(fresh_life());
                }
                identity
            }
            None => Identity::generate()?,
        };
        let registration = match self.registration {
            Some(token) => token,
            None if identity.is_registered() => Secret::new(""),
            None => {
                let message = "the agent is not registered; give it a registration token";
                return Err(invalid(message.to_owned()));
            }
        };
        if let (None, Some(directory)) = (&self.journal, &self.state_directory) {
            self.journal = Some(Journal::open(directory.join("agent.journal"))?);
        }
        let keeper = match file {
            Some(file) => Keeper::in_file(identity, file)?,
            None => Keeper::in_memory(identity),
        };
        let (status, receiver) = watch::channel(AgentStatus::default());
        let handle = AgentHandle { drain: Arc::default(), status: receiver, identity: keeper.subscribe() };
        Ok(AgentRuntime { setup: self.setup, journal: self.journal, keeper, registration, handle, status })
    }
}

impl fmt::Debug for AgentRuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connector = self.setup.connector.describe();
        f.debug_struct("AgentRuntimeBuilder").field("connector", &connector).finish_non_exhaustive()
    }
}
