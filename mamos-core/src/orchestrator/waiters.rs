//! Callers that wait for a job to end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::id::JobId;

/// Who waits for which job.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Read without the lock, so that settling costs nothing while nobody waits.
    count: AtomicUsize,
    by_job: Mutex<HashMap<JobId, (usize, Arc<Notify>)>>,
}

/// A place among the waiters; given up when dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    waiters: &'a Waiters,
    job: JobId,
    notify: Arc<Notify>,
}

impl Waiters {
    /// Begins to wait. Take the place first, look at the job second: then its end is not missed.
    pub(crate) fn wait(&self, job: JobId) -> Waiting<'_> {
        let mut by_job = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, notify) = by_job.entry(job).or_default();
        *count += 1;
        self.count.fetch_add(1, Ordering::SeqCst);
        Waiting { waiters: self, job, notify: Arc::clone(notify) }
    }

    /// Wakes those who wait for a job.
    pub(crate) fn ended(&self, job: JobId) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let by_job = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, notify)) = by_job.get(&job) {
            notify.notify_waiters();
        }
    }
}

impl Waiting<'_> {
    /// Gives what `ended` wakes. Make it before looking at the job.
    pub(crate) fn woken(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut by_job = self.waiters.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiters.count.fetch_sub(1, Ordering::SeqCst);
        if let Some((count, _)) = by_job.get_mut(&self.job) {
            *count -= 1;
            if *count == 0 {
                by_job.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_between_taking_the_place_and_awaiting_is_not_missed() {
        let waiters = Waiters::default();
        let job = JobId::from_key("a");
        let place = waiters.wait(job);
        let woken = place.woken();
        waiters.ended(job);
        woken.await;
        drop(place);
        assert!(waiters.by_job.lock().unwrap().is_empty());
    }
}
