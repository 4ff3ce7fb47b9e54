//! The ports, each method one line: writes go to the writer, reads to a reader.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::Timestamp;
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
use sqlx::Sqlite;
use sqlx::Transaction;

use super::claim::Claim;
use super::documents::{PruneDocuments, WriteDocuments};
use super::enqueue::Enqueue;
use super::errors::Fault;
use super::jobs::{Approve, Cancel, Redrive, SetPaused};
use super::report::ReportRuns;
use super::sessions::{Adopt, AttachAgent, Detach, Renew};
use super::sweep::{Prune, Sweep};
use super::tokens::{CreateToken, Redeem, RevokeToken};
use super::writer::{Mergeable, Operation, Request};
use super::{SqliteStore, agents, documents, lists, sessions, tokens};

/// Reads within one snapshot. `$reader` is the connection, and `$lanes` the lanes known so far.
macro_rules! read {
    ($store:ident, $operation:literal, |$reader:ident, $lanes:ident| $read:expr) => {{
        let done: Result<_, Fault> = async {
            let mut snapshot = $store.snapshot().await?;
            let $reader = &mut *snapshot;
            let $lanes = &$store.lanes;
            $read.await
        }
        .await;
        done.map_err(|fault| fault.into_error($operation, &$store.path))
    }};
    ($store:ident, $operation:literal, |$reader:ident| $read:expr) => {{
        let done: Result<_, Fault> = async {
            let mut snapshot = $store.snapshot().await?;
            let $reader = &mut *snapshot;
            $read.await
        }
        .await;
        done.map_err(|fault| fault.into_error($operation, &$store.path))
    }};
}

impl SqliteStore {
    async fn snapshot(&self) -> Result<Transaction<'static, Sqlite>, Fault> {
        Ok(self.readers.begin().await?)
    }

    async fn write<O: Operation>(&self, operation: O) -> Result<O::Answer> {
        self.writer(O::NAME)?.run(operation).await
    }
}

impl Store for SqliteStore {
    fn describe(&self) -> String {
        let durability = self.settings.durability.as_str();
        format!("sqlite (durability {durability}) at {}", self.path.display())
    }
}

#[async_trait]
impl JobStore for SqliteStore {
    async fn enqueue(&self, jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.writer(Enqueue::NAME)?.run_merged(Enqueue { jobs, now }, Request::Enqueue).await
    }

    async fn claim(&self, groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed> {
        self.write(Claim { groups, now }).await
    }

    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.writer(ReportRuns::NAME)?.run_merged(ReportRuns { writes, now }, Request::Report).await
    }

    async fn sweep(&self, limit: u32, now: Timestamp) -> Result<Swept> {
        self.write(Sweep { limit, now }).await
    }

    async fn cancel(
        &self,
        jobs: Vec<JobId>,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>> {
        self.write(Cancel { jobs, request, now }).await
    }

    async fn redrive(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.write(Redrive { jobs, now }).await
    }

    async fn approve(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.write(Approve { jobs, now }).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>> {
        read!(self, "store.job", |reader, lanes| lists::job(reader, lanes, id))
    }

    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        read!(self, "store.jobs", |reader, lanes| lists::jobs(reader, lanes, &filter, &page))
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        read!(self, "store.attempts", |reader| lists::attempts(reader, id))
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32> {
        self.write(Prune { before, limit }).await
    }
}

#[async_trait]
impl LogStore for SqliteStore {
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        read!(self, "store.log", |reader| lists::log(reader, run, offset, max_bytes))
    }
}

#[async_trait]
impl QueueStore for SqliteStore {
    async fn queues(&self) -> Result<Vec<QueueRecord>> {
        read!(self, "store.queues", |reader, lanes| lists::queues(reader, lanes))
    }

    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()> {
        self.write(SetPaused { queue: queue.clone(), is_paused }).await
    }

    async fn ready_lanes(&self) -> Result<Vec<Arc<Lane>>> {
        read!(self, "store.ready_lanes", |reader, lanes| lists::ready_lanes(reader, lanes))
    }

    async fn paused_queues(&self) -> Result<Vec<QueueName>> {
        read!(self, "store.paused_queues", |reader| lists::paused_queues(reader))
    }
}

#[async_trait]
impl SessionStore for SqliteStore {
    async fn attach(&self, request: Attach, now: Timestamp) -> Result<Attached> {
        self.write(AttachAgent { request, now }).await
    }

    async fn renew(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.write(Renew { sessions, ttl, now }).await
    }

    async fn adopt(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.write(Adopt(Renew { sessions, ttl, now })).await
    }

    async fn detach(&self, session: SessionRef, now: Timestamp) -> Result<Verdict> {
        self.write(Detach { session, now }).await
    }

    async fn held(&self, session: SessionId) -> Result<Vec<HeldJob>> {
        read!(self, "store.held", |reader, lanes| async {
            match sessions::read(reader, session).await? {
                None => Ok(Vec::new()),
                Some((number, _)) => lists::held(reader, lanes, number).await,
            }
        })
    }

    async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        read!(self, "store.session", |reader| async {
            Ok(sessions::read(reader, id).await?.map(|(_, record)| record))
        })
    }

    async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        read!(self, "store.sessions", |reader| sessions::open(reader))
    }
}

#[async_trait]
impl AgentStore for SqliteStore {
    async fn agent(&self, id: &AgentId) -> Result<Option<AgentRecord>> {
        read!(self, "store.agent", |reader| agents::read(reader, id))
    }

    async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>> {
        read!(self, "store.agents", |reader| agents::page(reader, &page))
    }

    async fn update_agent(&self, agent: AgentRecord, revision: u64, now: Timestamp) -> Result<AgentRecord> {
        self.write(agents::UpdateAgent { agent, revision, now }).await
    }
}

#[async_trait]
impl TokenStore for SqliteStore {
    async fn create_token(&self, token: RegistrationToken) -> Result<()> {
        self.write(CreateToken(token)).await
    }

    async fn redeem(&self, hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> Result<AgentRecord> {
        self.write(Redeem { hash, agent, now }).await
    }

    async fn tokens(&self) -> Result<Vec<RegistrationToken>> {
        read!(self, "store.tokens", |reader| tokens::usable(reader))
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool> {
        self.write(RevokeToken(id)).await
    }
}

#[async_trait]
impl DocumentStore for SqliteStore {
    async fn document(&self, collection: &str, key: &str, now: Timestamp) -> Result<Option<Document>> {
        read!(self, "store.document", |reader| documents::read(reader, collection, key, now))
    }

    async fn write_documents(&self, writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.write(WriteDocuments { writes, now }).await
    }

    async fn documents(
        &self,
        filter: DocumentFilter,
        page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>> {
        read!(self, "store.documents", |reader| documents::page(reader, &filter, &page, now))
    }

    async fn prune_documents(&self, now: Timestamp, limit: u32) -> Result<u32> {
        self.write(PruneDocuments { now, limit }).await
    }
}
