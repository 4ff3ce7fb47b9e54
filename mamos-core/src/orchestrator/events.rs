//! What happens, for whoever wants to watch.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;

use crate::clock::Timestamp;
use crate::event::{Event, What};

/// How many events a slow watcher may be behind before it misses some.
const CAPACITY: usize = 8192;

/// Numbers events and hands them to all watchers. Costs nothing while nobody watches.
#[derive(Debug)]
pub(crate) struct EventHub {
    next: AtomicU64,
    sender: broadcast::Sender<Event>,
}

impl Default for EventHub {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), sender: broadcast::Sender::new(CAPACITY) }
    }
}

impl EventHub {
    /// Does anybody watch? Ask before building many events.
    pub(crate) fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells the watchers.
    pub(crate) fn tell(&self, at: Timestamp, what: What) {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        // Fails only when nobody watches.
        let _ = self.sender.send(Event { seq, at, what });
    }

    pub(crate) fn watch(&self) -> EventStream {
        EventStream { receiver: self.sender.subscribe() }
    }
}

/// Events from the moment of subscribing on.
///
/// A watcher that falls more than 8192 events behind misses the oldest, and is told how many: the
/// engine never waits for a watcher.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Event>,
}

/// An event, or how many were missed.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// The next event.
    Event(Event),
    /// The watcher was too slow: this many events are gone.
    Missed(u64),
}

impl EventStream {
    /// Waits for the next event. `None` once the orchestrator is gone. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<Seen> {
        match self.receiver.recv().await {
            Ok(event) => Some(Seen::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Seen::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::JobId;
    use crate::job::state::JobState;

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_missed() {
        let hub = EventHub::default();
        let mut stream = hub.watch();
        let what = What::JobChanged { job: JobId::from_key("a"), state: JobState::Ready };
        for _ in 0..CAPACITY + 3 {
            hub.tell(Timestamp::EPOCH, what.clone());
        }
        assert_eq!(stream.next().await, Some(Seen::Missed(3)));
        assert!(matches!(stream.next().await, Some(Seen::Event(Event { seq: 4, .. }))));
    }
}
