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

mod authenticator;
mod builder;
mod dispatch;
mod engine;
mod enqueue;
mod entropy;
mod events;
mod explain;
mod operate;
mod outbox;
mod registry;
mod session;
mod settings;
mod settle;
mod upkeep;
mod waiters;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

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
pub use self::operate::LiveAgent;
use self::session::Inlets;
use crate::store::Store;
use crate::transport::Listener;
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
        started.unwrap_or(Ok(()))
    }

    /// Watches what happens from now on.
    pub fn events(&self) -> EventStream {
        self.engine.events.watch()
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
            upkeep::adopt(engine).await?;
            upkeep::learn_lanes(engine).await
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
