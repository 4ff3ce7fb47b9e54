//! What all parts of a running orchestrator share.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::aligned::AlignedClock;
use super::entropy::Entropy;
use super::events::EventHub;
use super::neighbours::Neighbours;
use super::registry::Registry;
use super::settings::Settings;
use super::stats::{Call, Measured, Tally};
use super::throttle::Throttle;
use super::waiters::Waiters;
use crate::audit::AuditLog;
use crate::auth::{Authenticator, Nonce, SigningKeys};
use crate::clock::{Clock, Timestamp};
use crate::event::What;
use crate::hint::Hints;
use crate::id::{JobKind, QueueName};
use crate::job::labels::Selector;
use crate::job::lane::Lane;
use crate::store::Store;
use crate::whitelist::Whitelist;

/// How many lanes are remembered for enqueueing. Forgetting one costs a digest.
const MAX_CACHED_LANES: usize = 10_000;

/// Shared by all tasks of an orchestrator.
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: AlignedClock,
    pub(crate) whitelist: Arc<dyn Whitelist>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) keys: Arc<SigningKeys>,
    pub(crate) audit: AuditLog,
    pub(crate) settings: Settings,
    pub(crate) events: EventHub,
    pub(crate) waiters: Waiters,
    /// The other orchestrators on the store.
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) tasks: TaskTracker,
    /// Fires when the orchestrator stops: nothing new is begun.
    pub(crate) stopping: CancellationToken,
    /// Fires when nothing may go on any more: the future that runs the orchestrator is gone.
    pub(crate) ended: CancellationToken,
    /// Fires when nobody has a handle on the orchestrator any more.
    pub(crate) gone: CancellationToken,
    /// Work for the dispatcher: a lane may have jobs, or a link room.
    pub(crate) dispatch: Call,
    /// Held while a claim is made and handed over, so that whoever holds it sees no half of one.
    pub(crate) claiming: tokio::sync::Mutex<()>,
    /// Room for reports that wait for the store, in KiB.
    pub(crate) report_room: Arc<Semaphore>,
    /// Nothing new is claimed while this is set.
    pub(crate) is_draining: AtomicBool,
    /// How often refusals are told.
    pub(crate) refusals: Throttle,
    /// An agent holds one run less.
    pub(crate) given_up: Notify,
    /// Work for the sweep: something is due earlier than it thinks.
    pub(crate) due: Due,
    /// How many listeners take connections now.
    pub(crate) accepting: AtomicUsize,
    registry: Mutex<Registry>,
    lanes: Mutex<HashMap<(QueueName, JobKind, Selector), Arc<Lane>>>,
    entropy: Mutex<Entropy>,
}

/// What an engine is put together from.
pub(crate) struct Ports {
    pub(crate) store: Arc<Measured>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) whitelist: Arc<dyn Whitelist>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) keys: Arc<SigningKeys>,
    pub(crate) hints: Option<Arc<dyn Hints>>,
}

/// When the next sweep should look at the store.
#[derive(Debug)]
pub(crate) struct Due {
    at: Mutex<Timestamp>,
    pub(crate) earlier: Notify,
}

impl Engine {
    pub(crate) fn new(ports: Ports, settings: Settings, mut entropy: Entropy) -> Self {
        let Ports { store, clock, whitelist, authenticator, keys, hints } = ports;
        // With the name, so that a simulation may give several orchestrators one seed.
        let life = settings
            .name
            .bytes()
            .fold(entropy.id() as u64, |life, byte| life.rotate_left(8) ^ u64::from(byte));
        let neighbours = Arc::new(Neighbours::new(hints, life));
        let tally = Arc::clone(store.tally());
        let store: Arc<dyn Store> = store;
        Self {
            audit: AuditLog::new(Arc::clone(&store), settings.keep_audit),
            store,
            clock: AlignedClock::new(clock),
            whitelist,
            authenticator,
            keys,
            settings,
            events: EventHub::default(),
            waiters: Waiters::new(Arc::clone(&neighbours)),
            neighbours,
            tally,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            ended: CancellationToken::new(),
            gone: CancellationToken::new(),
            dispatch: Call::default(),
            claiming: tokio::sync::Mutex::default(),
            report_room: Arc::new(Semaphore::new(super::settle::ROOM_KIB as usize)),
            is_draining: AtomicBool::new(false),
            refusals: Throttle::default(),
            given_up: Notify::new(),
            due: Due { at: Mutex::new(Timestamp::EPOCH), earlier: Notify::new() },
            accepting: AtomicUsize::new(0),
            registry: Mutex::default(),
            lanes: Mutex::default(),
            entropy: Mutex::new(entropy),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Spawns a task that does not outlive the future that runs the orchestrator.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.ended.clone().run_until_cancelled_owned(task))
    }

    /// The registry, for a moment. Never held across an await.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        // Its methods leave it consistent between statements, whoever panicked.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of jobs with these properties. Its number is a digest, so lanes are made once.
    pub(crate) fn lane(&self, queue: QueueName, kind: JobKind, selector: Selector) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (queue, kind, selector);
        if let Some(lane) = lanes.get(&key) {
            return Arc::clone(lane);
        }
        if lanes.len() >= MAX_CACHED_LANES {
            lanes.clear();
        }
        let (queue, kind, selector) = key.clone();
        Arc::clone(lanes.entry(key).or_insert(Arc::new(Lane::new(queue, kind, selector))))
    }

    /// Random numbers, for a moment. Never held across an await.
    pub(crate) fn entropy(&self) -> MutexGuard<'_, Entropy> {
        self.entropy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bits of a new secret.
    pub(crate) fn secret_bits(&self) -> [u128; 2] {
        let mut entropy = self.entropy();
        [entropy.secret(), entropy.secret()]
    }

    /// What a new connection's agent must sign.
    pub(crate) fn nonce(&self) -> Nonce {
        let mut bytes = [0; 32];
        let [low, high] = self.secret_bits();
        bytes[..16].copy_from_slice(&low.to_be_bytes());
        bytes[16..].copy_from_slice(&high.to_be_bytes());
        Nonce::from_bytes(bytes)
    }

    /// Aligns the clock with that of the store, if that has one and it was not done yet. If the store does not
    /// answer, whatever comes next will say so.
    pub(crate) async fn aligned(&self) {
        if !self.clock.is_settled()
            && let Err(error) = self.clock.align(&*self.store).await
        {
            tracing::warn!(target: "mamos::clock", %error, "the clock of the store is not known yet");
        }
    }

    pub(crate) fn tell(&self, what: What) {
        self.events.tell(self.now(), what);
    }

    /// Waits after a failed operation, longer each time, at most until the orchestrator stops.
    pub(crate) async fn back_off(&self, failures: u32) {
        let delay = Duration::from_millis(10) * 2u32.saturating_pow(failures.min(8));
        let delay = delay.min(Duration::from_secs(1)).mul_f64(0.5 + self.entropy().fraction() / 2.0);
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
        }
    }
}

impl Due {
    /// Something is due at that time.
    pub(crate) fn no_later_than(&self, at: Timestamp) {
        let mut next = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at < *next {
            *next = at;
            self.earlier.notify_one();
        }
    }

    /// A sweep begins: whatever is said from now on counts for the next one.
    pub(crate) fn reset(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Timestamp::MAX;
    }

    pub(crate) fn at(&self) -> Timestamp {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("store", &self.store.describe())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
