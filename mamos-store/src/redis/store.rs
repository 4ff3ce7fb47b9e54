//! The ports, each method a line or two.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::Result;
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

use super::documents::{PruneDocuments, WriteDocuments};
use super::enqueue::Enqueue;
use super::errors::{Fault, corrupt};
use super::jobs::{Approve, Cancel, Prune, Redrive};
use super::link::{Way, strings};
use super::report::ReportRuns;
use super::sessions::{Adopt, AttachAgent, Detach, Renew};
use super::sweep::Sweep;
use super::tokens::{CreateToken, Redeem, RevokeToken};
use super::{RedisStore, agents, claim, documents, jobs, lists, logs, sessions, tokens};

impl RedisStore {
    /// The error of an operation that is no transaction.
    fn named<T>(&self, done: std::result::Result<T, Fault>, operation: &'static str) -> Result<T> {
        done.map_err(|fault| fault.into_error(operation, &self.core.place))
    }
}

#[async_trait]
impl Store for RedisStore {
    fn describe(&self) -> String {
        format!("redis (prefix {}) at {}", self.core.link.prefix, self.core.place)
    }

    async fn time(&self) -> Result<Option<Timestamp>> {
        let time = async {
            let parts = strings(self.core.link.send(Way::Other, &redis::cmd("TIME")).await?)?;
            let part =
                |n: usize| parts.get(n).and_then(|part| str::from_utf8(part).ok()?.parse::<i64>().ok());
            let (Some(seconds), Some(micros)) = (part(0), part(1)) else {
                return Err(corrupt("answer", "it is no time"));
            };
            Ok(Some(Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros))))
        };
        self.named(time.await, "store.time")
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        Some(Arc::clone(&self.hints) as Arc<dyn Hints>)
    }
}

#[async_trait]
impl JobStore for RedisStore {
    async fn enqueue(&self, jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.enqueues.run(Enqueue { jobs, now }, &self.core).await
    }

    async fn claim(&self, groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed> {
        self.named(claim::claim(&self.core, &groups, now).await, claim::NAME)
    }

    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.reports.run(ReportRuns { writes, now }, &self.core).await
    }

    async fn sweep(&self, limit: u32, now: Timestamp) -> Result<Swept> {
        self.core.run(&Sweep { limit, now }).await
    }

    async fn cancel(
        &self,
        jobs: Vec<JobId>,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>> {
        self.core.run(&Cancel { jobs, request, now }).await
    }

    async fn redrive(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.core.run(&Redrive { jobs, now }).await
    }

    async fn approve(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.core.run(&Approve { jobs, now }).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>> {
        self.named(lists::job(&self.core, id).await, "store.job")
    }

    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        self.named(lists::jobs(&self.core, &filter, &page).await, "store.jobs")
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        self.named(lists::attempts(&self.core, id).await, "store.attempts")
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32> {
        self.core.run(&Prune { before, limit }).await
    }
}

#[async_trait]
impl LogStore for RedisStore {
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        self.named(logs::read(&self.core, run, offset, max_bytes).await, "store.log")
    }
}

#[async_trait]
impl QueueStore for RedisStore {
    async fn queues(&self) -> Result<Vec<QueueRecord>> {
        self.named(lists::queues(&self.core).await, "store.queues")
    }

    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()> {
        self.named(jobs::set_paused(&self.core, queue, is_paused).await, "store.set_paused")
    }

    async fn ready_lanes(&self) -> Result<Vec<Arc<Lane>>> {
        self.named(lists::ready_lanes(&self.core).await, "store.ready_lanes")
    }

    async fn paused_queues(&self) -> Result<Vec<QueueName>> {
        let queues = self.named(jobs::paused(&self.core).await, "store.paused_queues")?;
        Ok(queues.into_iter().filter(|(_, is_paused)| *is_paused).map(|(queue, _)| queue).collect())
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn attach(&self, request: Attach, now: Timestamp) -> Result<Attached> {
        self.core.run(&AttachAgent { request, now }).await
    }

    async fn renew(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.core.run(&Renew { sessions, ttl, now }).await
    }

    async fn adopt(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.core.run(&Adopt(Renew { sessions, ttl, now })).await
    }

    async fn detach(&self, session: SessionRef, now: Timestamp) -> Result<Verdict> {
        self.core.run(&Detach { session, now }).await
    }

    async fn held(&self, session: SessionId) -> Result<Vec<HeldJob>> {
        self.named(lists::held(&self.core, session).await, "store.held")
    }

    async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        let found = sessions::found(&self.core, id).await;
        self.named(found, "store.session")
    }

    async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        self.named(sessions::open(&self.core).await, "store.sessions")
    }
}

#[async_trait]
impl AgentStore for RedisStore {
    async fn agent(&self, id: &AgentId) -> Result<Option<AgentRecord>> {
        let stored = self.named(agents::stored(&self.core, id).await, "store.agent")?;
        Ok(stored.map(|stored| stored.record))
    }

    async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>> {
        self.named(agents::page(&self.core, &page).await, "store.agents")
    }

    async fn update_agent(&self, agent: AgentRecord, revision: u64, now: Timestamp) -> Result<AgentRecord> {
        self.core.run(&agents::UpdateAgent { agent, revision, now }).await
    }
}

#[async_trait]
impl TokenStore for RedisStore {
    async fn create_token(&self, token: RegistrationToken) -> Result<()> {
        self.core.run(&CreateToken(token)).await
    }

    async fn redeem(&self, hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> Result<AgentRecord> {
        self.core.run(&Redeem { hash, agent, now }).await
    }

    async fn tokens(&self) -> Result<Vec<RegistrationToken>> {
        self.named(tokens::usable(&self.core).await, "store.tokens")
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool> {
        self.core.run(&RevokeToken(id)).await
    }
}

#[async_trait]
impl DocumentStore for RedisStore {
    async fn document(&self, collection: &str, key: &str, now: Timestamp) -> Result<Option<Document>> {
        self.named(documents::read(&self.core, collection, key, now).await, "store.document")
    }

    async fn write_documents(&self, writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.core.run(&WriteDocuments { writes, now }).await
    }

    async fn documents(
        &self,
        filter: DocumentFilter,
        page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>> {
        self.named(documents::page(&self.core, &filter, &page, now).await, "store.documents")
    }

    async fn prune_documents(&self, now: Timestamp, limit: u32) -> Result<u32> {
        self.core.run(&PruneDocuments { now, limit }).await
    }
}
