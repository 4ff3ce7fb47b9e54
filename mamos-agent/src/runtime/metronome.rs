//! Wakes the loop from a thread of its own.
//!
//! Tokio's workers take turns at watching the timers. A handler that blocks the worker whose turn it is
//! stops every timer while the other workers sleep, and with them the heartbeats. A wake-up from outside
//! rouses another worker, which then watches the timers.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Notify;

/// It only waits, so it needs next to no stack.
const STACK_BYTES: usize = 64 * 1024;

/// Ticks until it is dropped.
#[derive(Debug)]
pub(super) struct Metronome {
    interval: Option<Sender<Duration>>,
    tick: Arc<Notify>,
}

impl Metronome {
    /// One that ticks once an interval was set. Never in a runtime with a single thread: there, a
    /// handler that blocks stops everything, and nothing can help.
    pub(super) fn start() -> Self {
        let tick = Arc::new(Notify::new());
        if Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
            return Self { interval: None, tick };
        }
        let (sender, receiver) = channel();
        let (ticking, mut interval) = (tick.clone(), Duration::from_secs(3600));
        let thread = std::thread::Builder::new().name("mamos-metronome".to_owned()).stack_size(STACK_BYTES);
        // It ends soon after the sender is dropped, and holds nothing else.
        let spawned = thread.spawn(move || {
            loop {
                match receiver.recv_timeout(interval) {
                    Ok(next) => interval = next,
                    Err(RecvTimeoutError::Timeout) => ticking.notify_one(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        if let Err(error) = &spawned {
            tracing::warn!(%error, "no thread for the metronome; a handler that blocks may stop heartbeats");
        }
        Self { interval: spawned.is_ok().then_some(sender), tick }
    }

    /// Ticks that often from now on.
    pub(super) fn set(&self, interval: Duration) {
        if let Some(sender) = &self.interval {
            // It cannot have ended before this is dropped.
            let _ = sender.send(interval);
        }
    }

    /// Waits for a tick. Safe to drop and call again.
    pub(super) async fn tick(&self) {
        self.tick.notified().await;
    }
}
