//! Keeps everything in memory: the reference for every other store, and fast.

mod agents;
mod documents;
mod hash;
mod hints;
mod job;
mod jobs;
mod line;
mod links;
mod logs;
mod runs;
mod sessions;
mod slab;
mod tokens;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    AgentStore, Attach, Attached, CancelVerdict, ChangeVerdict, ClaimGroup, Claimed, Document,
    DocumentFilter, DocumentStore, DocumentWrite, Enqueued, HeldJob, JobFilter, JobStore, LogPiece, LogStore,
    Page, PageRequest, QueueRecord, QueueStore, Reported, RunWrite, SessionRecord, SessionStore, Store,
    Swept, TokenStore, Written,
};
use mamos_core::{Error, ErrorKind, Result};

/// A store in memory. What it holds ends with the process.
///
/// It keeps every promise of [`Store`], and is the oracle of the model tests: what it answers is what
/// other stores must answer. All methods are done under one lock and never wait for anything else.
/// Nothing but [`queues`](QueueStore::queues) and [`jobs`](JobStore::jobs) looks at more jobs than it
/// was asked about, so that a backlog of millions costs memory and no time.
///
/// Memory: some 600 bytes a job and its payload, until [`prune`](JobStore::prune) removes it, and the
/// 10,000 sessions that ended last.
///
/// # Examples
///
/// ```
/// use mamos_core::store::JobStore;
/// use mamos_core::{JobId, Timestamp};
/// use mamos_store::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> mamos_core::Result<()> {
/// let store = MemoryStore::new();
/// assert!(store.job(JobId::from_key("order-4711")).await?.is_none());
/// assert_eq!(store.prune(Timestamp::MAX, 100).await?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    hints: hints::MemoryHints,
}

/// All that is kept. Its methods are in the files of this module, one a noun.
#[derive(Debug, Default)]
struct State {
    jobs: jobs::Jobs,
    sessions: sessions::Sessions,
    agents: agents::Agents,
    tokens: tokens::Tokens,
    documents: documents::Documents,
    /// Lost sessions that may still hold something, because a sweep met its limit.
    unrescued: VecDeque<SessionId>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a bug in here; what is kept stays readable even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content may be millions of jobs, and holds payloads and hashes.
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory (lost when the process ends)".to_owned()
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        Some(Arc::new(self.hints.clone()))
    }
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn enqueue(&self, jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>> {
        let mut state = self.state();
        Ok(jobs.into_iter().map(|job| state.jobs.enqueue(job, now)).collect())
    }

    async fn claim(&self, groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed> {
        Ok(self.state().claim(&groups, now))
    }

    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>> {
        let mut state = self.state();
        // All look-ups first: with many jobs each waits for main memory, and this way they wait together.
        let slots: Vec<_> = writes.iter().map(|write| state.jobs.slot(write.run.job)).collect();
        Ok(slots.into_iter().zip(writes).map(|(slot, write)| state.report(slot, write, now)).collect())
    }

    async fn sweep(&self, limit: u32, now: Timestamp) -> Result<Swept> {
        Ok(self.state().sweep(limit, now))
    }

    async fn cancel(
        &self,
        jobs: Vec<JobId>,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>> {
        let mut state = self.state();
        Ok(jobs.into_iter().map(|id| state.jobs.cancel(id, &request, now)).collect())
    }

    async fn redrive(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        let mut state = self.state();
        Ok(jobs.into_iter().map(|id| state.jobs.redrive(id, now)).collect())
    }

    async fn approve(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        let mut state = self.state();
        Ok(jobs.into_iter().map(|id| state.jobs.approve(id, now)).collect())
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>> {
        let state = self.state();
        Ok(state.jobs.slot(id).map(|slot| state.jobs.get(slot).record()))
    }

    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        self.state().jobs.page(&filter, &page)
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        let state = self.state();
        Ok(state.jobs.slot(id).map(|slot| state.jobs.get(slot).attempts()).unwrap_or_default())
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32> {
        Ok(self.state().jobs.prune(before, limit))
    }
}

#[async_trait]
impl LogStore for MemoryStore {
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        let state = self.state();
        let log = state.jobs.slot(run.job).and_then(|slot| state.jobs.get(slot).log(run.epoch));
        Ok(log.map(|log| log.read(offset, max_bytes)).unwrap_or_default())
    }
}

#[async_trait]
impl QueueStore for MemoryStore {
    async fn queues(&self) -> Result<Vec<QueueRecord>> {
        Ok(self.state().jobs.queues())
    }

    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()> {
        self.state().jobs.set_paused(queue, is_paused);
        Ok(())
    }

    async fn ready_lanes(&self) -> Result<Vec<Arc<Lane>>> {
        Ok(self.state().jobs.ready_lanes())
    }

    async fn paused_queues(&self) -> Result<Vec<QueueName>> {
        Ok(self.state().jobs.paused_queues())
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn attach(&self, request: Attach, now: Timestamp) -> Result<Attached> {
        self.state().attach(request, now)
    }

    async fn renew(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        let mut state = self.state();
        Ok(sessions.into_iter().map(|session| state.renew(session, ttl, now)).collect())
    }

    async fn adopt(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        let mut state = self.state();
        Ok(sessions.into_iter().map(|session| state.adopt(session, ttl, now)).collect())
    }

    async fn detach(&self, session: SessionRef, now: Timestamp) -> Result<Verdict> {
        Ok(self.state().detach(session, now))
    }

    async fn held(&self, session: SessionId) -> Result<Vec<HeldJob>> {
        Ok(self.state().held(session))
    }

    async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        Ok(self.state().sessions.get(id).map(|session| session.record.clone()))
    }

    async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        Ok(self.state().sessions.open_sessions())
    }
}

#[async_trait]
impl AgentStore for MemoryStore {
    async fn agent(&self, id: &AgentId) -> Result<Option<AgentRecord>> {
        Ok(self.state().agents.get(id).cloned())
    }

    async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>> {
        self.state().agents.page(&page)
    }

    async fn update_agent(&self, agent: AgentRecord, revision: u64, now: Timestamp) -> Result<AgentRecord> {
        self.state().agents.update(agent, revision, now)
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn create_token(&self, token: RegistrationToken) -> Result<()> {
        self.state().tokens.create(token)
    }

    async fn redeem(&self, hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> Result<AgentRecord> {
        let mut state = self.state();
        let denied = || {
            let message = "the token admits no agent; ask for a new one";
            Error::new(ErrorKind::Denied, "store.redeem", message)
        };
        if let Some(known) = state.agents.get(&agent.id) {
            let is_repeat = known.public_key == agent.public_key && state.tokens.is_good(&hash, now);
            return if is_repeat { Ok(known.clone()) } else { Err(denied()) };
        }
        let labels = state.tokens.take_use(&hash, &agent, now).ok_or_else(denied)?;
        let agent = AgentRecord { labels, ..agent };
        state.agents.insert(agent.clone());
        Ok(agent)
    }

    async fn tokens(&self) -> Result<Vec<RegistrationToken>> {
        Ok(self.state().tokens.usable())
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool> {
        Ok(self.state().tokens.revoke(id))
    }
}

#[async_trait]
impl DocumentStore for MemoryStore {
    async fn document(&self, collection: &str, key: &str, now: Timestamp) -> Result<Option<Document>> {
        Ok(self.state().documents.get(collection, key, now).cloned())
    }

    async fn write_documents(&self, writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>> {
        self.state().documents.write(writes, now)
    }

    async fn documents(
        &self,
        filter: DocumentFilter,
        page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>> {
        self.state().documents.page(&filter, &page, now)
    }

    async fn prune_documents(&self, now: Timestamp, limit: u32) -> Result<u32> {
        Ok(self.state().documents.prune(now, limit))
    }
}
