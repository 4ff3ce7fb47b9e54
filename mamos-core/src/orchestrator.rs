//! The engine: the handle that an embedder holds, and the tasks behind it.
//!
//! ```text
//! enqueue ─► enqueue.rs ─► store                    dispatch.rs ─► outbox.rs ─► agent
//!                 └─ a lane has jobs ─► registry.rs ─► plan ─┘                     │
//! store ◄─ settle.rs ◄──────────────── session.rs ◄──────────────── reports ◄──────┘
//! upkeep.rs: promotes, rescues, buries, renews, prunes, rebalances
//! ```
//!
//! Each file is a thin loop around plain functions. The registry is the only shared state in memory;
//! it can be lost at any time, because the store is the truth.

mod agents;
mod aligned;
mod authenticator;
mod builder;
mod dispatch;
mod engine;
mod enqueue;
mod entropy;
mod events;
mod explain;
mod follow;
mod look;
mod neighbours;
mod operate;
mod outbox;
mod registry;
mod session;
mod settings;
mod settle;
mod stats;
mod throttle;
mod upkeep;
mod waiters;

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

pub use self::agents::LiveAgent;
pub use self::agents::TokenScope;
pub use self::authenticator::StoreAuthenticator;
pub use self::builder::Builder;
use self::engine::Engine;
pub use self::enqueue::Enqueue;
pub use self::enqueue::JobHandle;
pub use self::enqueue::WaitError;
pub use self::events::EventStream;
pub use self::events::Seen;
pub use self::explain::Busy;
pub use self::explain::WaitsFor;
pub use self::explain::Why;
pub use self::follow::Followed;
pub use self::follow::LogFollower;
pub use self::look::AgentFilter;
pub use self::look::LogTail;
pub(crate) use self::neighbours::hint_of_lanes;
use self::registry::LaneNews;
use self::session::Inlets;
pub use self::stats::JobStats;
pub use self::stats::OperationStats;
pub use self::stats::Spread;
pub use self::stats::Stats;
use crate::audit::AuditLog;
use crate::auth::SigningKeys;
use crate::clock::Timestamp;
use crate::store::Store;
use crate::transport::Listener;
use crate::whitelist::Whitelist;
use crate::{Error, ErrorKind, Result};

/// Keeps jobs and agents in a store and hands jobs to agents.
///
/// Cheap to clone: all clones are the same orchestrator. It takes jobs as soon as it is built and
/// serves agents while it [runs](Orchestrator::run). It can be dropped or killed at any time without
/// losing anything that was acknowledged.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    engine: Arc<Engine>,
    enqueues: mpsc::Sender<enqueue::Request>,
    not_yet_run: Arc<Mutex<Option<NotYetRun>>>,
    /// How many listeners it has.
    listeners: usize,
    /// Ends the tasks that only a handle needs, once the last one is dropped.
    #[expect(unused, reason = "held, not read")]
    handles: Arc<DropGuard>,
}

/// What an orchestrator needs to run, which it does once.
struct NotYetRun {
    inlets: Inlets,
    listeners: Vec<Arc<dyn Listener>>,
    settling: tokio::task::JoinHandle<Option<()>>,
}

/// Ends all tasks of an orchestrator together with the future that runs it.
struct EndOnDrop(Arc<Engine>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.stopping.cancel();
        self.0.ended.cancel();
    }
}

impl std::fmt::Debug for NotYetRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotYetRun").field("listeners", &self.listeners.len()).finish_non_exhaustive()
    }
}

impl Orchestrator {
    /// Begins an orchestrator over a store.
    pub fn builder(store: Arc<dyn Store>) -> Builder {
        Builder::new(store)
    }

    /// Serves agents until `shutdown` resolves, then stops in order: no new connections, no new claims,
    /// links closed, reports that had arrived put on record.
    ///
    /// Agents keep what they run: they come back to the next orchestrator on this store.
    ///
    /// Dropping this future instead is like killing the process: everything that it spawned ends where it
    /// stands, and nothing that was acknowledged is lost. Jobs can still be enqueued then, but nobody is
    /// left to hand them out.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: it has run before; build a new one.
    /// - The error of the store if it cannot be read at the start.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let not_yet_run = self.not_yet_run.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(NotYetRun { inlets, listeners, settling }) = not_yet_run else {
            let message = "this orchestrator has run before; build a new one";
            return Err(Error::new(ErrorKind::Conflict, "orchestrator.run", message));
        };
        let engine = &self.engine;
        let _end = EndOnDrop(Arc::clone(engine));
        tokio::pin!(shutdown);
        let started = tokio::select! {
            biased;
            () = &mut shutdown => None,
            started = start(engine) => Some(started),
        };
        if let Some(Ok(())) = started {
            engine.neighbours.set_running(true);
            let dispatching = engine.spawn(dispatch::run(Arc::clone(engine)));
            let sweeping = engine.spawn(upkeep::run(Arc::clone(engine)));
            for listener in listeners {
                let accepting = session::accept(Arc::clone(engine), listener, inlets.clone());
                engine.spawn(engine.tasks.track_future(accepting));
            }
            shutdown.await;
            engine.stopping.cancel();
            let _ = (dispatching.await, sweeping.await);
        }
        engine.stopping.cancel();
        engine.tasks.close();
        engine.tasks.wait().await;
        // All links are gone; once this inlet is too, the settling ends with the last report.
        drop(inlets);
        let _ = settling.await;
        // So that the agents' next jobs are left to the others at once.
        engine.neighbours.flushed().await;
        engine.neighbours.set_running(false);
        started.unwrap_or(Ok(()))
    }

    /// Watches what happens from now on.
    pub fn events(&self) -> EventStream {
        self.engine.events.watch()
    }

    /// Watches what happened after the event with that number, as far as it is [kept](Self::keep_events),
    /// and what happens from now on.
    pub fn events_after(&self, seq: u64) -> EventStream {
        self.engine.events.watch_after(seq)
    }

    /// Keeps the last 8192 events, or 8 MiB of logs in them, from now on, so that a watcher can come back.
    /// Costs some time for each event; without it they are kept only while somebody watches.
    pub fn keep_events(&self) {
        self.engine.events.keep();
    }

    /// Names the numbering of events of this orchestrator. Differs each time that one is built, so that a
    /// number from an earlier life is not taken for one of this.
    pub fn event_series(&self) -> &str {
        self.engine.events.series()
    }

    /// What it did since it was built.
    pub fn stats(&self) -> Stats {
        self.engine.tally.read()
    }

    /// How many agents have a link to it now.
    pub fn session_count(&self) -> usize {
        self.engine.registry().links().count()
    }

    /// The keys that sign the tokens of agents.
    pub fn signing_keys(&self) -> &Arc<SigningKeys> {
        &self.engine.keys
    }

    /// Who did what that needed a permission. The engine writes what it decides itself; whoever lets people
    /// act writes what they do.
    pub fn audit(&self) -> &AuditLog {
        &self.engine.audit
    }

    /// Which commands may run.
    pub fn whitelist(&self) -> &Arc<dyn Whitelist> {
        &self.engine.whitelist
    }

    /// Makes sure that the time is that of the store, if that has a clock. Awaited jobs do so themselves; await it
    /// once before [building](Enqueue::build) jobs with delays or deadlines by hand.
    ///
    /// # Errors
    ///
    /// The error of the store: the time may still be that of this machine.
    pub async fn align_clock(&self) -> Result<()> {
        if !self.engine.clock.is_settled() {
            self.engine.clock.align(&*self.engine.store).await?;
        }
        Ok(())
    }

    /// The time, as this orchestrator sees it.
    pub fn now(&self) -> Timestamp {
        self.engine.now()
    }

    /// The name of this orchestrator.
    pub fn name(&self) -> &str {
        &self.engine.settings.name
    }

    /// Has it begun to stop?
    pub fn is_stopping(&self) -> bool {
        self.engine.stopping.is_cancelled()
    }

    /// Waits until it begins to stop.
    pub async fn stopping(&self) {
        self.engine.stopping.cancelled().await;
    }

    /// Does it hand out nothing, because of [`Orchestrator::drain`]?
    pub fn is_draining(&self) -> bool {
        self.engine.is_draining.load(Ordering::SeqCst)
    }

    /// Does it run, with all of its listeners taking connections?
    pub fn is_serving(&self) -> bool {
        let has_begun = self.not_yet_run.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let accepting = self.engine.accepting.load(Ordering::SeqCst);
        has_begun && !self.is_stopping() && accepting == self.listeners
    }

    /// The store that everything is kept in.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.engine.store
    }
}

async fn start(engine: &Engine) -> Result<()> {
    let mut failures = 0;
    loop {
        let result = async {
            engine.clock.align(&*engine.store).await?;
            upkeep::adopt(engine, upkeep::Adopt::Own).await?;
            upkeep::learn_lanes(engine, LaneNews::Heard).await
        };
        match result.await {
            Err(error) if error.is_retryable() => {
                failures += 1;
                tracing::warn!(target: "mamos::orchestrator", %error, failures, "the store does not answer yet");
                engine.back_off(failures).await;
            }
            result => return result,
        }
    }
}
