//! Callers that wait for a job to end, or follow what it does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::neighbours::Neighbours;
use crate::id::JobId;

/// Who waits for which job.
#[derive(Debug)]
pub(crate) struct Waiters {
    ends: Places,
    changes: Places,
    /// Somebody may wait at another orchestrator.
    neighbours: Arc<Neighbours>,
}

/// Who waits for one sort of news.
#[derive(Debug, Default)]
struct Places {
    /// Read without the lock, so that settling costs nothing while nobody waits.
    count: AtomicUsize,
    by_job: Mutex<HashMap<JobId, (usize, Arc<Notify>)>>,
}

/// A place among the waiters; given up when dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    places: &'a Places,
    job: JobId,
    notify: Arc<Notify>,
}

impl Waiters {
    pub(crate) fn new(neighbours: Arc<Neighbours>) -> Self {
        Self { ends: Places::default(), changes: Places::default(), neighbours }
    }

    /// Begins to wait for the end of a job. Take the place first, look at the job second: then its end is
    /// not missed.
    pub(crate) fn wait(&self, job: JobId) -> Waiting<'_> {
        self.ends.wait(job)
    }

    /// Begins to wait for anything to happen to a job. Take the place first as well.
    pub(crate) fn follow(&self, job: JobId) -> Waiting<'_> {
        self.changes.wait(job)
    }

    /// Wakes those who wait for the end of these jobs, and those who follow them, here and elsewhere. What happened
    /// together is told together: the cost is that of a batch.
    pub(crate) fn ended(&self, jobs: impl Iterator<Item = JobId> + Clone) {
        self.wake(jobs.clone());
        self.neighbours.happened(jobs);
    }

    /// Wakes those who follow these jobs: they printed something, were handed to an agent, or given back.
    pub(crate) fn changed(&self, jobs: impl Iterator<Item = JobId> + Clone) {
        self.changes.wake(jobs.clone());
        self.neighbours.happened(jobs);
    }

    /// Wakes everybody here who waits for anything about these jobs.
    pub(crate) fn wake(&self, jobs: impl Iterator<Item = JobId> + Clone) {
        self.ends.wake(jobs.clone());
        self.changes.wake(jobs);
    }

    /// Wakes everybody here.
    pub(crate) fn wake_all(&self) {
        self.wake(self.jobs().into_iter());
    }

    /// The jobs for which somebody here waits.
    pub(crate) fn jobs(&self) -> Vec<JobId> {
        [self.ends.jobs(), self.changes.jobs()].concat()
    }
}

impl Places {
    fn wait(&self, job: JobId) -> Waiting<'_> {
        let mut by_job = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, notify) = by_job.entry(job).or_default();
        *count += 1;
        self.count.fetch_add(1, Ordering::SeqCst);
        Waiting { places: self, job, notify: Arc::clone(notify) }
    }

    fn jobs(&self) -> Vec<JobId> {
        self.by_job.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn wake(&self, jobs: impl Iterator<Item = JobId>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let by_job = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, notify) in jobs.filter_map(|job| by_job.get(&job)) {
            notify.notify_waiters();
        }
    }
}

impl Waiting<'_> {
    /// Gives what is woken. Make it before looking at the job.
    pub(crate) fn woken(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut by_job = self.places.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        self.places.count.fetch_sub(1, Ordering::SeqCst);
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
        let waiters = Waiters::new(Arc::new(Neighbours::new(None, 0)));
        let job = JobId::from_key("a");
        let place = waiters.wait(job);
        let woken = place.woken();
        waiters.ended([job].into_iter());
        woken.await;
        drop(place);
        assert!(waiters.ends.by_job.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_is_not_woken_by_a_change() {
        let waiters = Waiters::new(Arc::new(Neighbours::new(None, 0)));
        let job = JobId::from_key("a");
        let (end, change) = (waiters.wait(job), waiters.follow(job));
        let (ended, mut changed) = (end.woken(), Box::pin(change.woken()));
        tokio::pin!(ended);
        assert!(!ended.as_mut().enable() && !changed.as_mut().enable());
        waiters.changed([job].into_iter());
        changed.await;
        assert!(!ended.as_mut().enable(), "the job goes on");
        let mut again = Box::pin(change.woken());
        again.as_mut().enable();
        waiters.ended([job].into_iter());
        assert!(ended.as_mut().enable() && again.as_mut().enable());
    }
}
