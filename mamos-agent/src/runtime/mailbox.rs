//! What attempts say, on its way to the loop, which takes all of it at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::agent::{LogStream, ReportSink};
use mamos_core::job::{Outcome, Progress};
use mamos_core::lease::RunRef;
use tokio::sync::{Notify, Semaphore};

use super::outbox::weight_of;

/// Bounded: ends by the number of slots, progress by one for each of them, logs by a budget.
#[derive(Debug)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
    log_budget: Semaphore,
}

/// In the order in which the ledger must get it: what a run prints comes before its end.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) logs: Vec<LogPiece>,
    pub(super) progress: BTreeMap<RunRef, Progress>,
    pub(super) ended: Vec<(RunRef, Option<Outcome>)>,
}

#[derive(Debug)]
pub(super) struct LogPiece {
    pub(super) run: RunRef,
    pub(super) stream: LogStream,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

impl Mailbox {
    pub(super) fn new(log_budget: usize) -> Self {
        Self {
            mail: Mutex::default(),
            arrived: Notify::new(),
            log_budget: Semaphore::new(log_budget.min(Semaphore::MAX_PERMITS)),
        }
    }

    /// Waits for mail. Safe to drop and call again.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn ended(&self, run: RunRef, outcome: Option<Outcome>) {
        self.lock().ended.push((run, outcome));
        self.arrived.notify_one();
    }

    pub(super) fn free_log(&self, weight: usize) {
        self.log_budget.add_permits(weight);
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ReportSink for Mailbox {
    fn progress(&self, run: RunRef, progress: Progress) {
        self.lock().progress.insert(run, progress);
        self.arrived.notify_one();
    }

    async fn log(&self, run: RunRef, stream: LogStream, offset: u64, bytes: Bytes) {
        let Ok(permit) = self.log_budget.acquire_many(weight_of(bytes.len()) as u32).await else {
            return;
        };
        // Given back when the piece is on record.
        permit.forget();
        self.lock().logs.push(LogPiece { run, stream, offset, bytes });
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use mamos_core::JobId;
    use mamos_core::lease::Epoch;

    use super::*;

    #[test]
    fn logs_wait_when_the_budget_is_used_up_and_go_on_when_it_is_freed() {
        let mailbox = Mailbox::new(64 * 1024);
        let run = RunRef { job: JobId::from_key("a"), epoch: Epoch::from_number(1) };
        let piece = |length| Bytes::from(vec![b'x'; length]);
        assert!(mailbox.log(run, LogStream::Stdout, 0, piece(64 * 1024)).now_or_never().is_some());
        let mut log = mailbox.log(run, LogStream::Stdout, 64 * 1024, piece(10));
        assert!((&mut log).now_or_never().is_none());
        assert_eq!(mailbox.take().logs.len(), 1);
        mailbox.free_log(64 * 1024);
        assert!((&mut log).now_or_never().is_some());
        let rest = &mailbox.take().logs[0];
        assert_eq!((rest.offset, rest.bytes.len()), (64 * 1024, 10));
    }
}
