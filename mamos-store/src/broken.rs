//! Stores that break a promise on purpose: they prove that the conformance kit, and whatever else
//! claims to find faults, does find them.

mod agents;
mod documents;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::Timestamp;
use mamos_core::hint::Hints;
use mamos_core::id::{JobId, QueueName, SessionId};
use mamos_core::job::lane::Lane;
use mamos_core::job::{AttemptRecord, CancelRequest, ClaimedJob, JobRecord, NewJob, Priority};
use mamos_core::lease::{Epoch, RunRef, SessionRef, Verdict};
use mamos_core::store::{
    Attach, Attached, CancelVerdict, ChangeVerdict, ClaimGroup, Claimed, EnqueueResult, Enqueued, HeldJob,
    JobFilter, JobStore, LogPiece, LogStore, Page, PageRequest, QueueRecord, QueueStore, Report, Reported,
    RunWrite, SessionRecord, SessionStore, Store, Swept,
};
use mamos_core::{JobState, Result};

/// Which promise a [`Broken`] store breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flaw {
    /// Applies a report to whatever run the job has now: bare job ids, no fencing at all.
    IgnoresEpoch,
    /// Applies a report of any session that knows the epoch.
    IgnoresSession,
    /// Gives a job that it gave to one session to the next as well.
    ClaimsTwice,
    /// Leaves the epoch of a claimed job as it was.
    EpochStandsStill,
    /// Lets a session claim after it expired.
    LeasesNeverExpire,
    /// Gives the first taker all it can take.
    DealsToTheFirst,
    /// Does not say when something is due.
    ForgetsNextDue,
    /// Says that it stored a batch, but not the last job of it.
    LosesJobs,
    /// Stores any number of jobs with one unique key.
    ForgetsUniqueKeys,
    /// Lets a job that succeeded be cancelled.
    EndsCanChange,
    /// Does not count a crash when it rescues a job.
    ForgetsCrashes,
    /// Gives out the jobs of paused queues.
    IgnoresPause,
    /// Treats all priorities alike.
    IgnoresPriority,
    /// Gives the verdicts of a batch in another order.
    MisalignsVerdicts,
    /// Refuses a settle that is sent again.
    RefusesRepeatedSettles,
    /// Keeps the older session of an agent open when a newer one comes.
    LeavesOldSessionsOpen,
    /// Gives a session that moved to another orchestrator a new lease all the same.
    AdoptsMovedSessions,
    /// Gives back all that an agent held, known or not.
    ForgetsKnownRuns,
    /// Admits an agent with a token that is used up.
    TokensAdmitTwice,
    /// Takes a piece of a log although one before it is missing.
    AcceptsLogGaps,
    /// Leaves out the last job of each page but the last.
    ListsLoseJobs,
    /// Sweeps without a limit.
    IgnoresSweepLimit,
    /// Prunes jobs however young they are.
    PrunesTooMuch,
    /// Keeps no evidence of late settles.
    ForgetsLateEvidence,
    /// Overwrites what someone else changed of an agent.
    OverwritesAgents,
    /// Forgets that an agent was revoked.
    ForgetsRevocations,
    /// Admits agents of any name.
    IgnoresTokenNames,
    /// Admits agents without the labels of their token.
    ForgetsTokenLabels,
    /// Writes documents whatever became of them since they were read.
    OverwritesDocuments,
    /// Refuses a write of a document that is sent again.
    RefusesRepeatedWrites,
    /// Writes what stands before a document that is out of bounds.
    WritesPartsOfBatches,
    /// Shows documents that expired.
    ServesExpiredDocuments,
    /// Leaves out the last document of each page but the last.
    ListsLoseDocuments,
    /// Prunes documents however long they should stay.
    PrunesLiveDocuments,
}

/// Passes calls on to another store, and breaks one promise.
#[derive(Debug)]
pub struct Broken<S> {
    inner: S,
    flaw: Flaw,
    memory: Mutex<Memory>,
}

/// What a flaw needs to remember to do harm.
#[derive(Debug, Default)]
struct Memory {
    last_claimed: Option<ClaimedJob>,
    changed: HashSet<JobId>,
    superseded: HashSet<SessionId>,
    tokens: HashMap<[u8; 32], RegistrationToken>,
}

impl<S: Store> Broken<S> {
    /// Breaks a promise of the given store.
    pub fn new(inner: S, flaw: Flaw) -> Self {
        Self { inner, flaw, memory: Mutex::default() }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a report fit the run that the job has now, as far as the flaw goes.
    async fn forge(&self, mut write: RunWrite) -> Result<RunWrite> {
        let Some(job) = self.inner.job(write.run.job).await? else { return Ok(write) };
        match (self.flaw, &mut write.report) {
            (Flaw::IgnoresEpoch, _) => {
                write.run.epoch = job.epoch;
                write.session = job.session.unwrap_or(write.session);
            }
            (Flaw::IgnoresSession, _) => write.session = job.session.unwrap_or(write.session),
            (Flaw::AcceptsLogGaps, Report::Log(piece)) => {
                let stored = self.inner.log(write.run, 0, u32::MAX).await?;
                let end = stored.iter().map(|piece| piece.bytes.len() as u64).sum();
                piece.offset = piece.offset.min(end);
            }
            _ => {}
        }
        Ok(write)
    }

    fn give_again(&self, takers: Option<SessionId>, claimed: &mut Claimed) {
        let last = claimed.jobs.last().and_then(|(_, jobs)| jobs.last()).cloned();
        let before = std::mem::replace(&mut self.memory().last_claimed, last);
        if let (Some(job), Some(session)) = (before, takers) {
            claimed.jobs.push((session, vec![job]));
        }
    }
}

#[async_trait]
impl<S: Store> Store for Broken<S> {
    fn describe(&self) -> String {
        format!("{} (broken: {:?})", self.inner.describe(), self.flaw)
    }

    async fn time(&self) -> Result<Option<Timestamp>> {
        self.inner.time().await
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        self.inner.hints()
    }
}

#[async_trait]
impl<S: Store> JobStore for Broken<S> {
    async fn enqueue(&self, mut jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>> {
        let lost = (self.has(Flaw::LosesJobs) && jobs.len() > 1).then(|| jobs.pop()).flatten();
        for job in &mut jobs {
            if self.has(Flaw::ForgetsUniqueKeys) {
                job.unique_key = None;
            }
            if self.has(Flaw::IgnoresPriority) {
                job.priority = Priority::NORMAL;
            }
        }
        let mut answers = self.inner.enqueue(jobs, now).await?;
        answers.extend(
            lost.map(|job| Enqueued { id: job.id, result: EnqueueResult::Stored(job.first_state(now)) }),
        );
        Ok(answers)
    }

    async fn claim(&self, mut groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed> {
        let first = groups.first().and_then(|group| group.takers.first()).map(|taker| taker.session.id);
        if self.has(Flaw::DealsToTheFirst) {
            let alone = |group: ClaimGroup| {
                let ClaimGroup { lanes, takers } = group;
                takers.into_iter().map(move |taker| ClaimGroup { lanes: lanes.clone(), takers: vec![taker] })
            };
            groups = groups.into_iter().flat_map(alone).collect();
        }
        let now = if self.has(Flaw::LeasesNeverExpire) { Timestamp::EPOCH } else { now };
        let mut claimed = self.inner.claim(groups, now).await?;
        match self.flaw {
            Flaw::ClaimsTwice => self.give_again(first, &mut claimed),
            Flaw::ForgetsNextDue => claimed.next_due = None,
            Flaw::EpochStandsStill => {
                for job in claimed.jobs.iter_mut().flat_map(|(_, jobs)| jobs) {
                    job.run.epoch = Epoch::from_number(1);
                }
            }
            _ => {}
        }
        Ok(claimed)
    }

    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>> {
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            let write = self.forge(write).await?;
            let before = self.inner.job(write.run.job).await?;
            let is_settle = matches!(write.report, Report::Settle(_));
            let mut written = self.inner.report(vec![write], now).await?;
            let was_held = before.is_some_and(|job| job.state.is_held());
            if self.has(Flaw::RefusesRepeatedSettles) && is_settle && !was_held {
                written.iter_mut().for_each(|answer| answer.verdict = Verdict::Stale);
            }
            answers.append(&mut written);
        }
        if self.has(Flaw::MisalignsVerdicts) {
            answers.reverse();
        }
        Ok(answers)
    }

    async fn sweep(&self, limit: u32, now: Timestamp) -> Result<Swept> {
        let limit = if self.has(Flaw::IgnoresSweepLimit) { u32::MAX } else { limit };
        let mut swept = self.inner.sweep(limit, now).await?;
        if self.has(Flaw::ForgetsNextDue) {
            swept.next_due = None;
        }
        Ok(swept)
    }

    async fn cancel(
        &self,
        jobs: Vec<JobId>,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>> {
        let answers = self.inner.cancel(jobs.clone(), request, now).await?;
        for (id, answer) in jobs.into_iter().zip(&answers) {
            if self.has(Flaw::EndsCanChange) && *answer == CancelVerdict::AlreadyEnded(JobState::Succeeded) {
                self.memory().changed.insert(id);
            }
        }
        Ok(answers)
    }

    async fn redrive(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.inner.redrive(jobs, now).await
    }

    async fn approve(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.inner.approve(jobs, now).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>> {
        let mut job = self.inner.job(id).await?;
        if let Some(job) = &mut job {
            if self.has(Flaw::ForgetsCrashes) {
                job.counters.crashes = 0;
            }
            if self.memory().changed.contains(&id) {
                job.state = JobState::Cancelled;
            }
        }
        Ok(job)
    }

    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        let mut page = self.inner.jobs(filter, page).await?;
        if self.has(Flaw::ListsLoseJobs) && page.next.is_some() {
            page.items.pop();
        }
        Ok(page)
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        let mut attempts = self.inner.attempts(id).await?;
        attempts.retain(|attempt| !(attempt.is_late && self.has(Flaw::ForgetsLateEvidence)));
        Ok(attempts)
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32> {
        let before = if self.has(Flaw::PrunesTooMuch) { Timestamp::MAX } else { before };
        self.inner.prune(before, limit).await
    }
}

#[async_trait]
impl<S: Store> LogStore for Broken<S> {
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        self.inner.log(run, offset, max_bytes).await
    }
}

#[async_trait]
impl<S: Store> QueueStore for Broken<S> {
    async fn queues(&self) -> Result<Vec<QueueRecord>> {
        self.inner.queues().await
    }

    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()> {
        if self.has(Flaw::IgnoresPause) {
            return Ok(());
        }
        self.inner.set_paused(queue, is_paused).await
    }

    async fn ready_lanes(&self) -> Result<Vec<Arc<Lane>>> {
        self.inner.ready_lanes().await
    }

    async fn paused_queues(&self) -> Result<Vec<QueueName>> {
        self.inner.paused_queues().await
    }
}

#[async_trait]
impl<S: Store> SessionStore for Broken<S> {
    async fn attach(&self, mut request: Attach, now: Timestamp) -> Result<Attached> {
        if self.has(Flaw::ForgetsKnownRuns) {
            request.known.clear();
        }
        let attached = self.inner.attach(request, now).await?;
        if self.has(Flaw::LeavesOldSessionsOpen) {
            self.memory().superseded.extend(attached.superseded.iter().copied());
        }
        Ok(attached)
    }

    async fn renew(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        let mut verdicts = self.inner.renew(sessions.clone(), ttl, now).await?;
        for (session, verdict) in sessions.iter().zip(&mut verdicts) {
            if self.memory().superseded.contains(&session.id) {
                *verdict = Verdict::Applied;
            }
        }
        Ok(verdicts)
    }

    async fn adopt(
        &self,
        mut sessions: Vec<SessionRef>,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Vec<Verdict>> {
        if self.has(Flaw::AdoptsMovedSessions) {
            for session in &mut sessions {
                if let Some(record) = self.inner.session(session.id).await? {
                    *session = record.session;
                }
            }
        }
        self.inner.adopt(sessions, ttl, now).await
    }

    async fn detach(&self, session: SessionRef, now: Timestamp) -> Result<Verdict> {
        self.inner.detach(session, now).await
    }

    async fn held(&self, session: SessionId) -> Result<Vec<HeldJob>> {
        self.inner.held(session).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        let mut session = self.inner.session(id).await?;
        if let Some(session) = &mut session
            && self.memory().superseded.contains(&id)
        {
            session.end = None;
        }
        Ok(session)
    }

    async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        self.inner.sessions().await
    }
}
