//! The clock of an orchestrator, aligned with that of its store.
//!
//! Orchestrators that share a store compare times that others wrote. So the time is that of the store's
//! server, and a machine's own clock only counts what passed since the server was last asked: by Tokio's
//! monotonic clock, which does not jump when somebody sets the time.
//!
//! # Source
//!
//! Cristian, "Probabilistic clock synchronization" (1989): the answer is of the middle of the question.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Engine;
use crate::Result;
use crate::clock::{Clock, Timestamp};
use crate::store::Store;

/// How often the server is asked. Good clocks drift apart by less than a millisecond meanwhile.
const ALIGN_EVERY: Duration = Duration::from_secs(5);
/// An answer that took longer says too little, unless nothing better is known.
const USEFUL_WITHIN: Duration = Duration::from_millis(500);
/// After so long without a useful answer any answer is better than none.
const STALE_AFTER: Duration = Duration::from_secs(60);
/// A difference that somebody should know of.
const WORTH_A_WARNING: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct AlignedClock {
    own: Arc<dyn Clock>,
    /// What the server's clock showed, and when; `None` while it is not known or there is none.
    anchor: RwLock<Option<(Timestamp, Instant)>>,
    /// It is known whether the store has a clock, and if so what it shows.
    is_settled: AtomicBool,
    has_warned: AtomicBool,
}

impl AlignedClock {
    pub(crate) fn new(own: Arc<dyn Clock>) -> Self {
        let (is_settled, has_warned) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { own, anchor: RwLock::new(None), is_settled, has_warned }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        match *self.anchor.read().unwrap_or_else(PoisonError::into_inner) {
            Some((at, asked)) => at + asked.elapsed(),
            None => self.own.now(),
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    /// Asks the store for its time. Gives whether it has one.
    pub(crate) async fn align(&self, store: &dyn Store) -> Result<bool> {
        let asked = Instant::now();
        let Some(shown) = store.time().await? else {
            self.is_settled.store(true, Ordering::Release);
            return Ok(false);
        };
        let took = asked.elapsed();
        let shown_at = asked + took / 2;
        {
            let mut anchor = self.anchor.write().unwrap_or_else(PoisonError::into_inner);
            let is_better = anchor.is_none_or(|(_, asked)| asked.elapsed() >= STALE_AFTER);
            if took <= USEFUL_WITHIN || is_better {
                *anchor = Some((shown, shown_at));
            }
        }
        self.is_settled.store(true, Ordering::Release);
        let (own, now) = (self.own.now(), self.now());
        let off = own.since(now).max(now.since(own));
        let is_off = off > WORTH_A_WARNING;
        if self.has_warned.swap(is_off, Ordering::Relaxed) != is_off && is_off {
            tracing::warn!(target: "mamos::clock", ?off, "the clock of this machine differs from that of the store, which counts; set it right");
        }
        Ok(true)
    }
}

/// Keeps the clock aligned until nobody needs the orchestrator any more; ends at once if the store has no
/// clock.
pub(crate) async fn keep(engine: Arc<Engine>) {
    let keeping = async {
        loop {
            // Failures show elsewhere; what was known goes on.
            if let Ok(false) = engine.clock.align(&*engine.store).await {
                return;
            }
            tokio::time::sleep(ALIGN_EVERY).await;
        }
    };
    let _ = engine.gone.run_until_cancelled(keeping).await;
}
