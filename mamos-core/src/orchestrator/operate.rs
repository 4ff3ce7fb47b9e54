//! What operators do with jobs and queues: cancel, redrive, approve, pause, drain.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Orchestrator;
use super::dispatch;
use super::enqueue::Enqueue;
use super::explain::{self, Why};
use super::registry::{LaneNews, Link};
use crate::auth::Principal;
use crate::event::What;
use crate::id::{JobId, JobKind, QueueName};
use crate::job::state::JobState;
use crate::job::{AttemptRecord, CancelRequest, JobPolicy, JobRecord};
use crate::lease::RunRef;
use crate::store::{CancelVerdict, ChangeVerdict, JobFilter, LogPiece, Page, PageRequest, QueueRecord};
use crate::whitelist::{CommandOrder, CommandOutput, CommandRequest};
use crate::{Error, ErrorKind, Result};

/// Jobs.
impl Orchestrator {
    /// Asks for a whitelisted command in the name of a principal. Await what it gives, or choose
    /// options first.
    ///
    /// The orchestrator's whitelist is asked now, the agent's own before it runs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] at once, with the rule that the request breaks; when awaited as
    /// [`Orchestrator::enqueue`].
    pub fn run_command(
        &self,
        request: CommandRequest,
        principal: &Principal,
    ) -> Result<Enqueue<'_, CommandOutput>> {
        let permit = self.engine.whitelist.permit(&request, principal)?;
        let kind = JobKind::of_command(&request.command);
        let order = CommandOrder {
            request,
            principal: principal.name.clone(),
            roles: principal.roles.iter().cloned().collect(),
            permit,
        };
        Ok(Enqueue::new(self, Ok(kind), order.encode(), JobPolicy::default()))
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn job(&self, id: JobId) -> Result<JobRecord> {
        self.engine.store.job(id).await?.ok_or_else(|| explain::not_found(id))
    }

    /// Jobs that fit the filter, newest first, a page at a time.
    ///
    /// # Errors
    ///
    /// The error of the store; [`ErrorKind::Invalid`] for a cursor that it did not make.
    pub async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        self.engine.store.jobs(filter, page).await
    }

    /// All runs of a job, in order.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        self.engine.store.attempts(id).await
    }

    /// What a run printed, from a byte on, at most so many bytes.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        self.engine.store.log(run, offset, max_bytes).await
    }

    /// Where a job is and what it waits for. Knows the agents that are connected to this orchestrator.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn why(&self, id: JobId) -> Result<Why> {
        explain::explain(&self.engine, id).await
    }

    /// Waits until a job has ended, and gives it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such job (any more), or the error of the store.
    pub async fn wait(&self, id: JobId) -> Result<JobRecord> {
        let place = self.engine.waiters.wait(id);
        let mut is_watched = false;
        loop {
            let woken = place.woken();
            tokio::pin!(woken);
            // Registered before looking, so that an end in between is not missed.
            woken.as_mut().enable();
            let record = self.job(id).await?;
            if record.state.is_final() {
                return Ok(record);
            }
            // It may end at another orchestrator. That one is asked to tell; what is told may be lost.
            if !std::mem::replace(&mut is_watched, true) {
                self.engine.neighbours.watch(vec![id]);
            }
            let _ = tokio::time::timeout(self.engine.settings.sweep_every, woken).await;
        }
    }

    /// Cancels a job: at once if nobody runs it, else its agent has `grace` to stop it.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn cancel(&self, id: JobId, reason: &str, grace: Duration) -> Result<CancelVerdict> {
        one(self.cancel_all(vec![id], reason, grace).await?)
    }

    /// Cancels jobs as [`Orchestrator::cancel`] does, and gives one verdict for each, in their order.
    ///
    /// # Errors
    ///
    /// The error of the store. Nothing was cancelled then.
    pub async fn cancel_all(
        &self,
        jobs: Vec<JobId>,
        reason: &str,
        grace: Duration,
    ) -> Result<Vec<CancelVerdict>> {
        let engine = &self.engine;
        let request = CancelRequest::new(reason, grace);
        let verdicts = engine.store.cancel(jobs.clone(), request, engine.now()).await?;
        let cancelled =
            jobs.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == CancelVerdict::Cancelled);
        engine.waiters.ended(cancelled.map(|(job, _)| *job));
        let mut is_elsewhere = false;
        for (job, verdict) in jobs.into_iter().zip(&verdicts) {
            match *verdict {
                CancelVerdict::Cancelled => {
                    engine.tell(What::JobChanged { job, state: JobState::Cancelled });
                }
                CancelVerdict::Requested { run, session } => {
                    is_elsewhere |= !dispatch::cancel(engine, session, run, grace);
                }
                CancelVerdict::AlreadyEnded(_) | CancelVerdict::Missing => {}
            }
        }
        if is_elsewhere {
            engine.neighbours.flushed().await;
        }
        Ok(verdicts)
    }

    /// Makes dead jobs ready again, with fresh counters.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn redrive(&self, jobs: Vec<JobId>) -> Result<Vec<ChangeVerdict>> {
        let verdicts = self.engine.store.redrive(jobs.clone(), self.engine.now()).await?;
        self.changed(&jobs, &verdicts).await?;
        Ok(verdicts)
    }

    /// Lets blocked jobs run.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn approve(&self, jobs: Vec<JobId>) -> Result<Vec<ChangeVerdict>> {
        let verdicts = self.engine.store.approve(jobs.clone(), self.engine.now()).await?;
        self.changed(&jobs, &verdicts).await?;
        Ok(verdicts)
    }

    async fn changed(&self, jobs: &[JobId], verdicts: &[ChangeVerdict]) -> Result<()> {
        let mut has_unknown_lane = false;
        for (job, verdict) in jobs.iter().zip(verdicts) {
            if let ChangeVerdict::Ready(lane) = verdict {
                has_unknown_lane |= !self.engine.registry().lane_ready_by_id(*lane);
                self.engine.tell(What::JobChanged { job: *job, state: JobState::Ready });
            }
        }
        if has_unknown_lane {
            super::upkeep::learn_lanes(&self.engine, LaneNews::Own).await?;
        }
        self.engine.dispatch.notify_one();
        Ok(())
    }
}

/// The whole orchestrator.
impl Orchestrator {
    /// Hands out nothing new, and waits until the agents that are connected here hold nothing any more,
    /// at most for `limit`. Gives how many runs they still hold then.
    ///
    /// For a planned stop: what goes on is not touched, and jobs are still taken. It stays so until
    /// [`Orchestrator::undrain`].
    pub async fn drain(&self, limit: Duration) -> usize {
        let engine = &self.engine;
        engine.is_draining.store(true, Ordering::SeqCst);
        // A claim that is under way still hands over what it got.
        drop(engine.claiming.lock().await);
        let held = || engine.registry().links().map(Link::held_count).sum::<usize>();
        let emptied = async {
            loop {
                let given_up = engine.given_up.notified();
                tokio::pin!(given_up);
                given_up.as_mut().enable();
                if held() == 0 {
                    return;
                }
                given_up.await;
            }
        };
        // Either way the count below says how it ended.
        let _ = tokio::time::timeout(limit, emptied).await;
        held()
    }

    /// Hands out jobs again after [`Orchestrator::drain`].
    pub fn undrain(&self) {
        self.engine.is_draining.store(false, Ordering::SeqCst);
        self.engine.dispatch.notify_one();
    }
}

/// Queues.
impl Orchestrator {
    /// Every queue, counted. For people: it costs more the more jobs there are.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn queues(&self) -> Result<Vec<QueueRecord>> {
        self.engine.store.queues().await
    }

    /// Gives out no more jobs of a queue. What agents have goes on.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn pause(&self, queue: &QueueName) -> Result<()> {
        self.engine.store.set_paused(queue, true).await?;
        self.engine.tell(What::QueuePaused { queue: queue.clone(), is_paused: true });
        Ok(())
    }

    /// Lets a queue go on.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn resume(&self, queue: &QueueName) -> Result<()> {
        self.engine.store.set_paused(queue, false).await?;
        self.engine.registry().queue_ready(queue);
        self.engine.neighbours.queue(queue.clone());
        self.engine.dispatch.notify_one();
        self.engine.tell(What::QueuePaused { queue: queue.clone(), is_paused: false });
        Ok(())
    }
}

fn one<T>(answers: Vec<T>) -> Result<T> {
    let mut answers = answers.into_iter();
    match (answers.next(), answers.next()) {
        (Some(answer), None) => Ok(answer),
        _ => Err(Error::new(ErrorKind::Corrupt, "store", "the store gave a wrong number of answers")),
    }
}
