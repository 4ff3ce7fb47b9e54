//! What happens, for whoever wants to watch.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::entropy::Entropy;
use crate::clock::Timestamp;
use crate::event::{Event, What};
use crate::job::lane::Lane;

/// How many events are kept for watchers that are slow or come back.
const MAX_EVENTS: usize = 8192;
/// How much text is kept in them, in bytes: mostly what runs print.
const MAX_TEXT_BYTES: usize = 8 * 1024 * 1024;
/// How many events a watcher takes at once.
const BATCH: usize = 256;

/// Numbers events and keeps the last of them for all watchers. Costs next to nothing while nobody watches.
///
/// One ring for all: a watcher is a number, and the engine never waits for one.
#[derive(Debug)]
pub(crate) struct EventHub {
    shared: Arc<Shared>,
    series: String,
}

#[derive(Debug, Default)]
struct Shared {
    watchers: AtomicUsize,
    /// Are events kept even while nobody watches?
    is_kept: AtomicBool,
    /// The number of the last event.
    last: AtomicU64,
    ring: Mutex<Ring>,
    arrived: Notify,
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    text_bytes: usize,
}

impl Ring {
    fn push(&mut self, event: Arc<Event>) {
        self.text_bytes += text_bytes(&event);
        self.events.push_back(event);
        while self.events.len() > MAX_EVENTS || self.text_bytes > MAX_TEXT_BYTES {
            let Some(oldest) = self.events.pop_front() else { return };
            self.text_bytes -= text_bytes(&oldest);
        }
    }
}

/// The part of an event that has no fixed size: what a run printed, or why something happened.
fn text_bytes(event: &Event) -> usize {
    match &event.what {
        What::JobLog { piece, .. } => piece.bytes.len(),
        What::JobProgress { progress, .. } => progress.note.len(),
        What::AgentRefused { reason, peer } => reason.len() + peer.len(),
        What::AgentDisconnected { reason, .. } | What::AgentRevoked { reason, .. } => reason.len(),
        _ => 0,
    }
}

impl Default for EventHub {
    fn default() -> Self {
        // Never from the seed of a simulation: two lives of one orchestrator must differ.
        Self { shared: Arc::default(), series: format!("{:016x}", Entropy::from_os().id() as u64) }
    }
}

impl EventHub {
    /// Names this numbering.
    pub(crate) fn series(&self) -> &str {
        &self.series
    }

    /// Does anybody watch? Ask before building many events.
    pub(crate) fn is_watched(&self) -> bool {
        self.shared.is_kept.load(Ordering::Relaxed) || self.shared.watchers.load(Ordering::Relaxed) > 0
    }

    /// Keeps events from now on, whether somebody watches or not.
    pub(crate) fn keep(&self) {
        self.shared.is_kept.store(true, Ordering::Relaxed);
    }

    /// Tells the watchers.
    pub(crate) fn tell(&self, at: Timestamp, what: What) {
        self.tell_of(at, None, what);
    }

    /// Tells the watchers of a job whose lane is known.
    pub(crate) fn tell_of(&self, at: Timestamp, lane: Option<Arc<Lane>>, what: What) {
        let shared = &self.shared;
        if !self.is_watched() {
            shared.last.fetch_add(1, Ordering::Relaxed);
            return;
        }
        {
            let mut ring = shared.lock();
            // Numbered under the lock, so that the ring is in order.
            let seq = shared.last.fetch_add(1, Ordering::Relaxed) + 1;
            ring.push(Arc::new(Event { seq, at, lane, what }));
        }
        shared.arrived.notify_waiters();
    }

    pub(crate) fn watch(&self) -> EventStream {
        let shared = Arc::clone(&self.shared);
        shared.watchers.fetch_add(1, Ordering::Relaxed);
        let seen = {
            let _ring = shared.lock();
            shared.last.load(Ordering::Relaxed)
        };
        EventStream { shared, seen, batch: VecDeque::new() }
    }

    pub(crate) fn watch_after(&self, seq: u64) -> EventStream {
        let mut stream = self.watch();
        // A number that was not given out yet is somebody's mistake: nothing is missed by going on here.
        stream.seen = stream.seen.min(seq);
        stream
    }
}

impl Drop for EventHub {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.arrived.notify_waiters();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events from the moment of subscribing on.
///
/// A watcher that falls more than 8192 events behind, or more than 8 MiB of logs, misses the oldest, and is
/// told how many: the engine never waits for a watcher.
#[derive(Debug)]
pub struct EventStream {
    shared: Arc<Shared>,
    /// The number of the last event that was taken or missed.
    seen: u64,
    batch: VecDeque<Arc<Event>>,
}

/// An event, or how many were missed.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// The next event.
    Event(Arc<Event>),
    /// The watcher was too slow, or came back too late: this many events are gone.
    Missed(u64),
}

impl EventStream {
    /// Waits for the next event. `None` once the orchestrator is gone. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some(seen) = self.try_next() {
                return Some(seen);
            }
            let shared = Arc::clone(&self.shared);
            let arrived = shared.arrived.notified();
            tokio::pin!(arrived);
            // Registered before looking once more, so that an event in between is not missed.
            arrived.as_mut().enable();
            if let Some(seen) = self.try_next() {
                return Some(seen);
            }
            if shared.is_closed.load(Ordering::SeqCst) {
                return None;
            }
            arrived.await;
        }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Seen> {
        if self.batch.is_empty()
            && let Some(missed) = self.refill()
        {
            return Some(Seen::Missed(missed));
        }
        let event = self.batch.pop_front()?;
        Some(Seen::Event(event))
    }

    /// The number of the last event that was given or missed: where [`Orchestrator::events_after`] goes on.
    ///
    /// [`Orchestrator::events_after`]: super::Orchestrator::events_after
    pub fn seq(&self) -> u64 {
        self.batch.front().map_or(self.seen, |next| next.seq - 1)
    }

    /// Takes a batch from the ring. Gives how many events before it are gone, if any.
    fn refill(&mut self) -> Option<u64> {
        let ring = self.shared.lock();
        let last = self.shared.last.load(Ordering::Relaxed);
        let next = self.seen + 1;
        // What was told while nobody watched and nothing was kept is numbered but not in the ring.
        let start = ring.events.partition_point(|event| event.seq < next);
        let Some(first) = ring.events.get(start).map(|event| event.seq) else {
            let missed = last.saturating_sub(self.seen);
            self.seen = last;
            return (missed > 0).then_some(missed);
        };
        // A batch ends where numbers jump: what was told while nobody watched is missed, not passed over.
        let follows = ring.events.range(start..).zip(first..).take_while(|(event, seq)| event.seq == *seq);
        self.batch.extend(follows.take(BATCH).map(|(event, _)| Arc::clone(event)));
        let missed = first - next;
        self.seen = self.batch.back().map_or(self.seen, |event| event.seq);
        (missed > 0).then_some(missed)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.shared.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::agent::LogStream;
    use crate::id::JobId;
    use crate::job::state::JobState;
    use crate::lease::{Epoch, RunRef};
    use crate::store::LogPiece;

    fn changed() -> What {
        What::JobChanged { job: JobId::from_key("a"), state: JobState::Ready }
    }

    fn seq(seen: Option<Seen>) -> u64 {
        let Some(Seen::Event(event)) = seen else { panic!("{seen:?}") };
        event.seq
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_missed() {
        let hub = EventHub::default();
        let mut stream = hub.watch();
        for _ in 0..MAX_EVENTS + 3 {
            hub.tell(Timestamp::EPOCH, changed());
        }
        assert_eq!(stream.next().await, Some(Seen::Missed(3)));
        assert_eq!(seq(stream.next().await), 4);
        assert_eq!(stream.seq(), 4);
    }

    #[tokio::test]
    async fn a_watcher_that_comes_back_goes_on_where_it_was() {
        let hub = EventHub::default();
        hub.keep();
        for _ in 0..10 {
            hub.tell(Timestamp::EPOCH, changed());
        }
        let mut stream = hub.watch_after(7);
        assert_eq!(
            [seq(stream.next().await), seq(stream.next().await), seq(stream.next().await)],
            [8, 9, 10]
        );
        assert_eq!(stream.try_next(), None);
        assert_eq!(hub.watch_after(99).try_next(), None);
    }

    #[tokio::test]
    async fn what_was_told_while_nobody_watched_is_missed_and_not_passed_over() {
        let hub = EventHub::default();
        hub.tell(Timestamp::EPOCH, changed());
        hub.tell(Timestamp::EPOCH, changed());
        let mut stream = hub.watch_after(0);
        assert_eq!(stream.try_next(), Some(Seen::Missed(2)));
        hub.tell(Timestamp::EPOCH, changed());
        assert_eq!(seq(stream.try_next()), 3);
    }

    #[tokio::test]
    async fn a_hole_in_the_middle_is_missed_too() {
        let hub = EventHub::default();
        let early = hub.watch();
        hub.tell(Timestamp::EPOCH, changed());
        drop(early);
        hub.tell(Timestamp::EPOCH, changed());
        let _late = hub.watch();
        hub.tell(Timestamp::EPOCH, changed());
        let mut stream = hub.watch_after(0);
        assert_eq!(seq(stream.try_next()), 1);
        assert_eq!(stream.try_next(), Some(Seen::Missed(1)));
        assert_eq!(seq(stream.try_next()), 3);
    }

    #[tokio::test]
    async fn logs_are_kept_within_their_bytes() {
        let hub = EventHub::default();
        let mut stream = hub.watch();
        let run = RunRef { job: JobId::from_key("a"), epoch: Epoch::from_number(1) };
        let bytes = Bytes::from(vec![0; MAX_TEXT_BYTES / 4]);
        for offset in 0..6 {
            let piece = LogPiece { offset, stream: LogStream::Stdout, bytes: bytes.clone() };
            hub.tell(Timestamp::EPOCH, What::JobLog { run, piece });
        }
        assert_eq!(stream.try_next(), Some(Seen::Missed(2)));
        assert_eq!(seq(stream.try_next()), 3);
    }

    #[tokio::test]
    async fn a_waiting_watcher_is_woken_by_an_event_and_by_the_end() {
        let hub = EventHub::default();
        let mut stream = hub.watch();
        let waiting = tokio::spawn(async move {
            let first = seq(stream.next().await);
            (first, stream.next().await)
        });
        tokio::task::yield_now().await;
        hub.tell(Timestamp::EPOCH, changed());
        tokio::task::yield_now().await;
        drop(hub);
        assert_eq!(waiting.await.unwrap(), (1, None));
    }
}
