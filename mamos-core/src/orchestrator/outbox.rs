//! What waits to be sent to one agent.
//!
//! Bounded by what it holds: dispatched jobs are limited by the agent's credit, and acknowledgements
//! are cumulative, so that a newer one replaces an older one. A slow agent costs no more memory.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::lease::{RunRef, Verdict};
use crate::protocol::{Dispatched, ToAgent};

/// The most exceptions that wait; an agent with more of them reads nothing and is cut off.
const MAX_EXCEPTIONS: usize = 100_000;
/// Dispatched jobs are cut into messages of about this many payload bytes, so that frames stay small.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// The queue, and what wakes its sender.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pending: Mutex<Pending>,
    wake: Notify,
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct Pending {
    first: Vec<ToAgent>,
    dispatches: Vec<Dispatched>,
    recorded: Option<u64>,
    last_recorded: u64,
    exceptions: Vec<(RunRef, Verdict)>,
    orders: Vec<ToAgent>,
    /// The last message has been queued: nothing follows it.
    is_closing: bool,
}

/// Messages for a frame or several, and whether the link ends with them.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) frames: Vec<Vec<ToAgent>>,
    pub(crate) is_last: bool,
}

impl Outbox {
    /// Puts a message before everything else.
    pub(crate) fn greet(&self, message: ToAgent) {
        self.change(|pending| pending.first.push(message));
    }

    /// Queues jobs to run.
    pub(crate) fn dispatch(&self, jobs: impl IntoIterator<Item = Dispatched>) {
        self.change(|pending| pending.dispatches.extend(jobs));
    }

    /// Queues the acknowledgement of reports.
    pub(crate) fn recorded(&self, through: u64, exceptions: Vec<(RunRef, Verdict)>) {
        let mut has_too_many = false;
        self.change(|pending| {
            pending.recorded = Some(through);
            pending.last_recorded = through;
            pending.exceptions.extend(exceptions);
            has_too_many = pending.exceptions.len() > MAX_EXCEPTIONS;
        });
        if has_too_many {
            self.close(None);
        }
    }

    /// Answers a heartbeat: says again what is on record, so that the agent knows that the link lives.
    pub(crate) fn echo(&self) {
        self.change(|pending| pending.recorded = Some(pending.last_recorded));
    }

    /// Asks the agent to stop a run.
    pub(crate) fn cancel(&self, run: RunRef, grace: Duration) {
        self.change(|pending| pending.orders.push(ToAgent::Cancel { run, grace }));
    }

    /// Queues any other message.
    pub(crate) fn order(&self, message: ToAgent) {
        self.change(|pending| pending.orders.push(message));
    }

    /// Queues a last message, if any, and ends the link after it.
    pub(crate) fn close(&self, last: Option<ToAgent>) {
        self.change(|pending| {
            pending.orders.extend(last);
            pending.is_closing = true;
        });
        self.closing.cancel();
    }

    /// Waits until the link is to end.
    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// Waits for something to send, and takes all of it. Safe to drop and call again.
    pub(crate) async fn next(&self) -> Batch {
        loop {
            let woken = self.wake.notified();
            if let Some(batch) = self.lock().take() {
                return batch;
            }
            woken.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.lock();
        // Nothing follows the last message, however slowly the agent reads it.
        if !pending.is_closing {
            change(&mut pending);
        }
        drop(pending);
        self.wake.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn take(&mut self) -> Option<Batch> {
        let taken = std::mem::take(self);
        (self.is_closing, self.last_recorded) = (taken.is_closing, taken.last_recorded);
        let mut messages = taken.first;
        if let Some(through) = taken.recorded {
            messages.push(ToAgent::Recorded { through, exceptions: taken.exceptions });
        }
        let mut frames = Vec::new();
        let mut part = Vec::new();
        let mut part_bytes = 0;
        let mut dispatches = taken.dispatches;
        if dispatches.iter().map(|job| job.payload.len()).sum::<usize>() <= MESSAGE_BYTES {
            part = std::mem::take(&mut dispatches);
        }
        for job in dispatches {
            if part_bytes > 0 && part_bytes + job.payload.len() > MESSAGE_BYTES {
                messages.push(ToAgent::Dispatch(std::mem::take(&mut part)));
                frames.push(std::mem::take(&mut messages));
                part_bytes = 0;
            }
            part_bytes += job.payload.len();
            part.push(job);
        }
        if !part.is_empty() {
            messages.push(ToAgent::Dispatch(part));
        }
        // After the dispatches: an order may be about one of them.
        messages.extend(taken.orders);
        if !messages.is_empty() {
            frames.push(messages);
        }
        let is_last = taken.is_closing;
        (is_last || !frames.is_empty()).then_some(Batch { frames, is_last })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::id::{JobId, JobKind};
    use crate::job::Counters;
    use crate::lease::Epoch;

    fn dispatched(n: u32, bytes: usize) -> Dispatched {
        Dispatched {
            run: RunRef { job: JobId::from_key(&n.to_string()), epoch: Epoch::from_number(1) },
            kind: JobKind::new("k").unwrap(),
            payload: Bytes::from(vec![0; bytes]),
            counters: Counters::default(),
            timeout: None,
            deadline_in: None,
            traceparent: None,
        }
    }

    #[tokio::test]
    async fn acknowledgements_replace_each_other() {
        let outbox = Outbox::default();
        (1..=1000).for_each(|through| outbox.recorded(through, Vec::new()));
        let batch = outbox.next().await;
        assert_eq!(batch.frames, [vec![ToAgent::Recorded { through: 1000, exceptions: vec![] }]]);
    }

    #[tokio::test]
    async fn large_dispatches_are_cut_into_frames_and_orders_follow_them() {
        let outbox = Outbox::default();
        outbox.order(ToAgent::Drain);
        outbox.dispatch((0..5).map(|n| dispatched(n, 600 * 1024)));
        let batch = outbox.next().await;
        assert_eq!(batch.frames.len(), 5);
        assert_eq!(batch.frames[4].last(), Some(&ToAgent::Drain));
        assert!(!batch.is_last);
    }

    #[tokio::test]
    async fn a_heartbeat_is_answered_with_what_is_on_record() {
        let outbox = Outbox::default();
        outbox.recorded(7, Vec::new());
        outbox.next().await;
        outbox.echo();
        let batch = outbox.next().await;
        assert_eq!(batch.frames, [vec![ToAgent::Recorded { through: 7, exceptions: vec![] }]]);
    }

    #[tokio::test]
    async fn an_agent_that_causes_exceptions_and_reads_nothing_is_cut_off() {
        let outbox = Outbox::default();
        let stale = (dispatched(1, 0).run, Verdict::Stale);
        for through in 0..1000 {
            outbox.recorded(through, vec![stale; 1000]);
        }
        outbox.closed().await;
        assert!(outbox.lock().exceptions.len() <= MAX_EXCEPTIONS + 1000);
    }

    #[tokio::test]
    async fn nothing_follows_the_last_message() {
        let outbox = Outbox::default();
        outbox.close(Some(ToAgent::Superseded));
        outbox.close(Some(ToAgent::Drain));
        let batch = outbox.next().await;
        assert_eq!(batch.frames, [vec![ToAgent::Superseded]]);
        assert!(batch.is_last);
        assert!(outbox.next().await.is_last);
    }
}
