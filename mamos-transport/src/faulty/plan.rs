//! Which faults, how often, and how many there were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// What may go wrong. Chances are from 0 (never) to 1 (always) and hold for each frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// The chance that a frame never arrives.
    pub lose: f64,
    /// The chance that a frame arrives twice.
    pub duplicate: f64,
    /// The chance that a frame is overtaken by those of the next 50 ms.
    pub reorder: f64,
    /// The longest time on the way. Each frame takes a random part of it, and order is kept.
    pub delay: Duration,
    /// The chance that the connection is cut, at both ends, instead of sending a frame.
    pub cut: f64,
    /// What agents send is accepted and never arrives. With `mute_orchestrators` the connection is half
    /// open: both ends think that it lives, and nothing arrives.
    pub mute_agents: bool,
    /// What orchestrators send is accepted and never arrives.
    pub mute_orchestrators: bool,
    /// New connections are refused.
    pub refuse_connections: bool,
}

impl Faults {
    /// No faults.
    pub const fn none() -> Self {
        Self {
            lose: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            delay: Duration::ZERO,
            cut: 0.0,
            mute_agents: false,
            mute_orchestrators: false,
            refuse_connections: false,
        }
    }

    /// A bad network: one frame in ten is lost, one in ten comes twice, one in five is overtaken, and all
    /// take up to 40 ms.
    pub const fn bad() -> Self {
        Self { lose: 0.1, duplicate: 0.1, reorder: 0.2, delay: Duration::from_millis(40), ..Self::none() }
    }

    pub(super) fn mutes(&self, side: Side) -> bool {
        match side {
            Side::Agent => self.mute_agents,
            Side::Orchestrator => self.mute_orchestrators,
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

/// Who holds an end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The side that connected.
    Agent,
    /// The side that accepted.
    Orchestrator,
}

/// How many faults there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames that were lost, also because a side was muted.
    pub lost: u64,
    /// Frames that arrived twice.
    pub duplicated: u64,
    /// Frames that others could overtake.
    pub reordered: u64,
    /// Connections that were cut.
    pub cut: u64,
}

/// The faults of some connections, now. Clones are the same plan.
#[derive(Debug, Clone)]
pub struct FaultPlan(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    seed: u64,
    connections: AtomicU64,
    faults: Mutex<Faults>,
    counts: Mutex<FaultCounts>,
    /// Fires when all connections of now are cut; then another takes its place.
    cut: Mutex<CancellationToken>,
}

impl FaultPlan {
    /// A plan without faults yet.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            seed,
            connections: AtomicU64::new(0),
            faults: Mutex::default(),
            counts: Mutex::default(),
            cut: Mutex::default(),
        }))
    }

    /// The faults from now on, for connections that exist as well.
    pub fn set(&self, faults: Faults) {
        *lock(&self.0.faults) = faults;
    }

    /// The faults now.
    pub fn faults(&self) -> Faults {
        *lock(&self.0.faults)
    }

    /// How many faults there were.
    pub fn counts(&self) -> FaultCounts {
        *lock(&self.0.counts)
    }

    /// Cuts every connection that exists.
    pub fn cut_all(&self) {
        let cut = std::mem::take(&mut *lock(&self.0.cut));
        cut.cancel();
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut FaultCounts)) {
        add(&mut lock(&self.0.counts));
    }

    /// Random numbers of its own for each new end of a connection.
    pub(super) fn random(&self) -> fastrand::Rng {
        let number = self.0.connections.fetch_add(1, Ordering::Relaxed);
        fastrand::Rng::with_seed(self.0.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Fires when a connection that begins now is cut.
    pub(super) fn cut(&self) -> CancellationToken {
        lock(&self.0.cut).child_token()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state is consistent between statements, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
