//! A store that writes down what another store did.
//!
//! It sits right above the real store and below all injected faults, so that the history holds what was
//! done and not what was answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::Timestamp;
use mamos_core::hint::Hints;
use mamos_core::id::{AgentId, JobId, QueueName, SessionId, TokenId};
use mamos_core::job::lane::Lane;
use mamos_core::job::{AttemptRecord, CancelRequest, JobRecord, NewJob};
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{
    AgentStore, Attach, Attached, CancelVerdict, ChangeVerdict, ClaimGroup, Claimed, Cursor, Document,
    DocumentFilter, DocumentStore, DocumentWrite, Enqueued, HeldJob, JobFilter, JobStore, LogPiece, LogStore,
    Page, PageRequest, QueueRecord, QueueStore, Report, Reported, RunWrite, SessionRecord, SessionStore,
    Store, Swept, TokenStore, Written,
};
use mamos_core::{JobState, Result};

use crate::history::{Entry, History};

/// See the module.
pub struct Recorder {
    inner: Arc<dyn Store>,
    history: History,
}

impl Recorder {
    /// Writes down what the store does.
    pub fn new(inner: Arc<dyn Store>, history: History) -> Self {
        Self { inner, history }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorder").field(&self.inner.describe()).finish()
    }
}

#[async_trait]
impl Store for Recorder {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn time(&self) -> Result<Option<Timestamp>> {
        self.inner.time().await
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        self.inner.hints()
    }
}

#[async_trait]
impl JobStore for Recorder {
    async fn enqueue(&self, jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>> {
        self.inner.enqueue(jobs, now).await
    }

    async fn claim(&self, groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed> {
        let claimed = self.inner.claim(groups, now).await?;
        for job in claimed.jobs.iter().flat_map(|(_, jobs)| jobs) {
            self.history.add(Entry::Claimed { run: job.run });
        }
        Ok(claimed)
    }

    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>> {
        let reports: Vec<(RunRef, bool)> = writes
            .iter()
            .map(|write| (write.run, matches!(write.report, Report::Settle(_) | Report::Release)))
            .collect();
        let answers = self.inner.report(writes, now).await?;
        for ((run, ends), answer) in reports.into_iter().zip(&answers) {
            if let (true, Some(state)) = (answer.verdict.is_applied(), answer.state) {
                self.history.add(Entry::Applied { run, ends, state });
            }
        }
        Ok(answers)
    }

    async fn sweep(&self, limit: u32, now: Timestamp) -> Result<Swept> {
        let swept = self.inner.sweep(limit, now).await?;
        for (run, state) in &swept.rescued {
            self.history.add(Entry::TakenBack { run: *run, state: *state });
        }
        for run in &swept.overdue {
            self.history.add(Entry::TakenBack { run: *run, state: JobState::Dead });
        }
        Ok(swept)
    }

    async fn cancel(
        &self,
        jobs: Vec<JobId>,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>> {
        let ids = jobs.clone();
        let verdicts = self.inner.cancel(jobs, request, now).await?;
        for (job, verdict) in ids.into_iter().zip(&verdicts) {
            if *verdict == CancelVerdict::Cancelled {
                self.history.add(Entry::Cancelled { job });
            }
        }
        Ok(verdicts)
    }

    async fn redrive(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        let ids = jobs.clone();
        let verdicts = self.inner.redrive(jobs, now).await?;
        for (job, verdict) in ids.into_iter().zip(&verdicts) {
            if matches!(verdict, ChangeVerdict::Ready(_)) {
                self.history.add(Entry::Redriven { job });
            }
        }
        Ok(verdicts)
    }

    async fn approve(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.inner.approve(jobs, now).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>> {
        self.inner.job(id).await
    }

    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        self.inner.jobs(filter, page).await
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        self.inner.attempts(id).await
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32> {
        self.inner.prune(before, limit).await
    }
}

#[async_trait]
impl LogStore for Recorder {
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        self.inner.log(run, offset, max_bytes).await
    }
}

#[async_trait]
impl QueueStore for Recorder {
    async fn queues(&self) -> Result<Vec<QueueRecord>> {
        self.inner.queues().await
    }

    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()> {
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
impl SessionStore for Recorder {
    async fn attach(&self, request: Attach, now: Timestamp) -> Result<Attached> {
        let attached = self.inner.attach(request, now).await?;
        for (run, _, state) in &attached.returned {
            self.history.add(Entry::TakenBack { run: *run, state: *state });
        }
        Ok(attached)
    }

    async fn renew(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.inner.renew(sessions, ttl, now).await
    }

    async fn adopt(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.inner.adopt(sessions, ttl, now).await
    }

    async fn detach(&self, session: SessionRef, now: Timestamp) -> Result<Verdict> {
        let held = self.inner.held(session.id).await?;
        let verdict = self.inner.detach(session, now).await?;
        if verdict.is_applied() {
            for held in held {
                let run = held.claimed.run;
                if let Some(job) = self.inner.job(run.job).await? {
                    self.history.add(Entry::TakenBack { run, state: job.state });
                }
            }
        }
        Ok(verdict)
    }

    async fn held(&self, session: SessionId) -> Result<Vec<HeldJob>> {
        self.inner.held(session).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        self.inner.session(id).await
    }

    async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        self.inner.sessions().await
    }
}

#[async_trait]
impl AgentStore for Recorder {
    async fn agent(&self, id: &AgentId) -> Result<Option<AgentRecord>> {
        self.inner.agent(id).await
    }

    async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>> {
        self.inner.agents(page).await
    }

    async fn update_agent(&self, agent: AgentRecord, revision: u64, now: Timestamp) -> Result<AgentRecord> {
        self.inner.update_agent(agent, revision, now).await
    }
}

#[async_trait]
impl TokenStore for Recorder {
    async fn create_token(&self, token: RegistrationToken) -> Result<()> {
        self.inner.create_token(token).await
    }

    async fn redeem(&self, hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> Result<AgentRecord> {
        self.inner.redeem(hash, agent, now).await
    }

    async fn tokens(&self) -> Result<Vec<RegistrationToken>> {
        self.inner.tokens().await
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool> {
        self.inner.revoke_token(id).await
    }
}

#[async_trait]
impl DocumentStore for Recorder {
    async fn document(&self, collection: &str, key: &str, now: Timestamp) -> Result<Option<Document>> {
        self.inner.document(collection, key, now).await
    }

    async fn write_documents(&self, writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>> {
        self.inner.write_documents(writes, now).await
    }

    async fn documents(
        &self,
        filter: DocumentFilter,
        page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>> {
        self.inner.documents(filter, page, now).await
    }

    async fn prune_documents(&self, now: Timestamp, limit: u32) -> Result<u32> {
        self.inner.prune_documents(now, limit).await
    }
}

/// What the store says of every job, at the end.
///
/// # Errors
///
/// The error of the store.
pub async fn final_look(store: &dyn Store, history: &History) -> Result<Vec<JobRecord>> {
    let mut all = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = store.jobs(JobFilter::default(), PageRequest { limit: 1000, after }).await?;
        for job in &page.items {
            // Asked for by its id, as a client does; the list only says which there are.
            if let Some(job) = store.job(job.spec.id).await? {
                history.add(Entry::Final { job: job.spec.id, state: job.state });
            }
        }
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}
