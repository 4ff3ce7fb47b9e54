//! Messages that have come from a broker and wait for a subscription.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mamos_core::bus::{MAX_MESSAGE_BYTES, Message};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::Notify;

/// The most messages that wait for a transient subscription; as many as in the bus inside a process.
pub(super) const TRANSIENT_MESSAGES: usize = 1024;
/// The same in bytes: two messages of the largest size.
pub(super) const TRANSIENT_BYTES: usize = 2 * MAX_MESSAGE_BYTES;

/// Refuses a batch that has a message over the limit, before anything of it is taken.
pub(super) fn check_sizes(messages: &[Message]) -> Result<()> {
    match messages.iter().find(|message| message.payload.len() > MAX_MESSAGE_BYTES) {
        None => Ok(()),
        Some(large) => {
            let bytes = large.payload.len();
            let message = format!("a message of {bytes} bytes is over the limit of {MAX_MESSAGE_BYTES}");
            Err(Error::new(ErrorKind::LimitExceeded, "bus.publish", message))
        }
    }
}

/// A message in a [`Line`].
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) number: u64,
    pub(super) payload: Bytes,
    pub(super) is_redelivered: bool,
}

/// Messages that wait. One task pushes, one subscription pops.
pub(super) struct Line {
    state: Mutex<State>,
    arrived: Notify,
    /// Told when something was taken out: there is room again.
    pub(super) taken: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    last_number: u64,
    end: Option<End>,
}

enum End {
    Closed,
    Failed(Error),
}

impl Line {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), taken: Notify::new() }
    }

    /// Adds a message; the oldest are dropped for it when the line is full.
    pub(super) fn push_transient(&self, payload: Bytes) {
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.bytes += payload.len();
        state.waiting.push_back(Waiting { number, payload, is_redelivered: false });
        while state.waiting.len() > 1
            && (state.waiting.len() > TRANSIENT_MESSAGES || state.bytes > TRANSIENT_BYTES)
        {
            if let Some(oldest) = state.waiting.pop_front() {
                state.bytes -= oldest.payload.len();
            }
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Adds a message that must not be dropped: whoever pushes looks for room first.
    pub(super) fn push(&self, waiting: Waiting) {
        let mut state = self.lock();
        state.bytes += waiting.payload.len();
        state.waiting.push_back(waiting);
        drop(state);
        self.arrived.notify_one();
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// No more comes: `None` when the bus closed, or why it failed.
    pub(super) fn end(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.end.get_or_insert(error.map_or(End::Closed, End::Failed));
        drop(state);
        self.arrived.notify_one();
    }

    /// Waits for the next message; `None` once the line is at its end. Safe to drop and call again.
    pub(super) async fn next(&self) -> Result<Option<Waiting>> {
        loop {
            {
                let mut state = self.lock();
                if let Some(End::Closed) = state.end {
                    return Ok(None);
                }
                if let Some(next) = state.waiting.pop_front() {
                    state.bytes -= next.payload.len();
                    drop(state);
                    self.taken.notify_one();
                    return Ok(Some(next));
                }
                if let Some(End::Failed(error)) = &state.end {
                    return Err(error.duplicate());
                }
            }
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints no payload: messages may carry secrets.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_are_dropped_by_count_and_by_bytes() {
        let line = Line::new();
        for number in 0..TRANSIENT_MESSAGES + 5 {
            line.push_transient(Bytes::from(number.to_string()));
        }
        assert_eq!(line.len(), TRANSIENT_MESSAGES);
        assert_eq!(line.next().await.unwrap().unwrap().payload, "5");
        for _ in 0..3 {
            line.push_transient(Bytes::from(vec![0; MAX_MESSAGE_BYTES]));
        }
        assert_eq!(line.len(), 2);
    }

    #[tokio::test]
    async fn a_failure_comes_after_what_arrived_before_it() {
        let line = Line::new();
        line.push_transient(Bytes::from_static(b"a"));
        line.end(Some(Error::new(ErrorKind::Denied, "bus.receive", "no")));
        assert_eq!(line.next().await.unwrap().unwrap().payload, "a");
        assert_eq!(line.next().await.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(line.next().await.unwrap_err().kind(), ErrorKind::Denied);
    }
}
