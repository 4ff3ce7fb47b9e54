//! Builds an orchestrator and checks its settings against each other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::authenticator::StoreAuthenticator;
use super::engine::{Engine, Ports};
use super::entropy::Entropy;
use super::session::Inlets;
use super::settings::Settings;
use super::stats::Measured;
use super::{NotYetRun, Orchestrator, aligned, enqueue, neighbours, settle, upkeep};
use crate::Result;
use crate::auth::{Authenticator, SigningKeys, TokenPolicy};
use crate::clock::{Clock, SystemClock};
use crate::hint::Hints;
use crate::store::Store;
use crate::transport::Listener;
use crate::whitelist::{DenyAll, Whitelist};

/// How many requests may wait for the store, of each sort, before callers wait.
const QUEUE: usize = 1024;

/// Settings of an [`Orchestrator`]. Every one but the store has a default.
#[must_use]
pub struct Builder {
    store: Arc<dyn Store>,
    listeners: Vec<Arc<dyn Listener>>,
    whitelist: Arc<dyn Whitelist>,
    authenticator: Option<Arc<dyn Authenticator>>,
    tokens: TokenPolicy,
    clock: Arc<dyn Clock>,
    hints: Option<Arc<dyn Hints>>,
    seed: Option<u64>,
    settings: Settings,
}

impl Builder {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            listeners: Vec::new(),
            whitelist: Arc::new(DenyAll),
            authenticator: None,
            tokens: TokenPolicy::default(),
            clock: Arc::new(SystemClock),
            hints: None,
            seed: None,
            settings: Settings::default(),
        }
    }

    /// Takes agents from this listener. May be called more than once. Default: none.
    pub fn listener(mut self, listener: impl Listener) -> Self {
        self.listeners.push(Arc::new(listener));
        self
    }

    /// Permits commands by this whitelist. Default: no command is permitted.
    pub fn whitelist(mut self, whitelist: Arc<dyn Whitelist>) -> Self {
        self.whitelist = whitelist;
        self
    }

    /// Admits agents by this authenticator. Default: [`StoreAuthenticator`] over the store.
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    /// How long the tokens of agents are good, and the keys that sign them. Default: see [`TokenPolicy`].
    pub fn agent_tokens(mut self, policy: TokenPolicy) -> Self {
        self.tokens = policy;
        self
    }

    /// For how long records of the [audit log](Orchestrator::audit) are kept; `None` keeps them for ever.
    /// Default: 400 days.
    pub fn keep_audit(mut self, keep_audit: Option<Duration>) -> Self {
        self.settings.keep_audit = keep_audit;
        self
    }

    /// Tells the other orchestrators on the store by these hints that there is something to do, and hears it
    /// from them; for example by [`BusHints`](crate::hint::BusHints). Default: those of the
    /// [store](crate::store::Store::hints), if it has any.
    pub fn hints(mut self, hints: Arc<dyn Hints>) -> Self {
        self.hints = Some(hints);
        self
    }

    /// Takes the time from this clock. Default: the wall clock.
    ///
    /// Over a store with [a clock of its own](crate::store::Store::time) it only counts what passes between
    /// two looks at that one: orchestrators on one store then agree on the time, however wrong the clocks of
    /// their machines are.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws ids, secrets and jitter from this seed, so that a simulation can be repeated. Never in
    /// production: secrets could be guessed. Default: seeded by the operating system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The name of this orchestrator, unique among those on one store. 1 to 128 bytes. Default: `main`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// After how long without a sign of an agent its jobs are given to others. Default: 30 s.
    pub fn lease_ttl(mut self, lease_ttl: Duration) -> Self {
        self.settings.lease_ttl = lease_ttl;
        self
    }

    /// How often agents must say something. Less than half of the lease. Default: 10 s.
    pub fn heartbeat_every(mut self, heartbeat_every: Duration) -> Self {
        self.settings.heartbeat_every = heartbeat_every;
        self
    }

    /// The longest time between two looks for due work. What is known to be due is done in time without
    /// it. Never longer than a quarter of the lease. Default: 1 s.
    pub fn sweep_every(mut self, sweep_every: Duration) -> Self {
        self.settings.sweep_every = sweep_every;
        self
    }

    /// How many jobs an agent is sent beyond its slots, so that it need not wait for the next; never
    /// more than it has slots, and at most 1024. They are taken back when another agent that fits has free
    /// slots. Default: 16.
    pub fn prefetch(mut self, prefetch: u32) -> Self {
        self.settings.prefetch = prefetch;
        self
    }

    /// The largest arguments and the largest output of a job, in bytes. 1 to 2 MiB. Default: 1 MiB.
    pub fn max_payload_bytes(mut self, max_payload_bytes: usize) -> Self {
        self.settings.max_payload_bytes = max_payload_bytes;
        self
    }

    /// How much of what a run prints is kept, in bytes. Default: 64 MiB.
    pub fn max_log_bytes(mut self, max_log_bytes: u64) -> Self {
        self.settings.max_log_bytes = max_log_bytes;
        self
    }

    /// For how long ended jobs are kept; `None` keeps them for ever. Default: 7 days.
    pub fn keep_ended(mut self, keep_ended: Option<Duration>) -> Self {
        self.settings.keep_ended = keep_ended;
        self
    }

    /// How many connections a listener serves at once, strangers included. Default: 20000.
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.settings.max_connections = max_connections.clamp(1, 1_000_000);
        self
    }

    /// Makes the orchestrator. It takes jobs at once, and agents when it [runs](Orchestrator::run).
    ///
    /// Must be called within a Tokio runtime: it spawns the tasks that write batches, which end when
    /// the orchestrator is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if settings contradict each other.
    pub fn build(self) -> Result<Orchestrator> {
        self.settings.check()?;
        let measured = Arc::new(Measured::new(self.store));
        let store: Arc<dyn Store> = Arc::clone(&measured) as Arc<dyn Store>;
        let hints = self.hints.or_else(|| store.hints());
        let keys = Arc::new(SigningKeys::new(Arc::clone(&store), self.tokens));
        let authenticator = self
            .authenticator
            .unwrap_or_else(|| Arc::new(StoreAuthenticator::new(Arc::clone(&store), Arc::clone(&keys))));
        let entropy = match self.seed {
            Some(seed) => Entropy::seeded(seed),
            None => Entropy::from_os(),
        };
        let (clock, whitelist) = (self.clock, self.whitelist);
        let ports = Ports { store: measured, clock, whitelist, authenticator, keys, hints };
        let engine = Arc::new(Engine::new(ports, self.settings, entropy));
        let (enqueues, enqueue_requests) = mpsc::channel(QUEUE);
        let (reports, report_requests) = mpsc::channel(QUEUE);
        let (renewals, renewal_requests) = mpsc::channel(QUEUE);
        // Each ends when nobody can send to it any more.
        tokio::spawn(enqueue::run(Arc::clone(&engine), enqueue_requests));
        let settling = engine.spawn(settle::run(Arc::clone(&engine), report_requests));
        engine.spawn(upkeep::renew(Arc::clone(&engine), renewal_requests));
        if engine.neighbours.can_be_told() {
            tokio::spawn(neighbours::tell(Arc::clone(&engine)));
            tokio::spawn(neighbours::listen(Arc::clone(&engine)));
        }
        tokio::spawn(aligned::keep(Arc::clone(&engine)));
        let inlets = Inlets { reports, renewals };
        let listeners = self.listeners.len();
        let not_yet_run = NotYetRun { inlets, listeners: self.listeners, settling };
        let not_yet_run = Arc::new(Mutex::new(Some(not_yet_run)));
        let handles = Arc::new(engine.gone.clone().drop_guard());
        Ok(Orchestrator { engine, enqueues, not_yet_run, listeners, handles })
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("store", &self.store.describe())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
