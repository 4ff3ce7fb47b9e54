//! The ports, each method one line: storing, claiming and reporting have tasks of their own, and the rest
//! goes to the pool.

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

use super::claim::Claim;
use super::documents::{PruneDocuments, WriteDocuments};
use super::enqueue::Enqueue;
use super::errors::{Fault, timed_out};
use super::jobs::{Approve, Cancel, Redrive, SetPaused};
use super::report::ReportRuns;
use super::rows::Cells;
use super::sessions::{Adopt, AttachAgent, Detach, Renew};
use super::sweep::{Prune, Sweep};
use super::tokens::{CreateToken, Redeem, RevokeToken};
use super::tx::{self, Operation};
use super::{PostgresStore, agents, documents, lists, sessions, tokens};

/// Reads on a connection of the pool. `$reader` is the connection.
macro_rules! read {
    ($store:ident, $operation:literal, |$reader:ident| $read:expr) => {
        $store
            .bounded($operation, async {
                let mut connection = $store.pool.acquire().await?;
                let $reader = &mut *connection;
                $read.await
            })
            .await
    };
}

/// The same within one snapshot, for reads of several statements.
macro_rules! snapshot {
    ($store:ident, $operation:literal, |$reader:ident| $read:expr) => {
        $store
            .bounded($operation, async {
                let mut transaction = $store.pool.begin_with(SNAPSHOT).await?;
                let $reader = &mut *transaction;
                let done = $read.await?;
                // Else it would end some time later, in the background, and keep its snapshot until then.
                transaction.commit().await?;
                Ok(done)
            })
            .await
    };
}

const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

impl PostgresStore {
    async fn bounded<T>(
        &self,
        operation: &'static str,
        read: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T> {
        let done = tokio::time::timeout(self.place.timeout, read).await.unwrap_or_else(|_| Err(timed_out()));
        done.map_err(|fault| fault.at(operation, &self.place.name))
    }

    async fn write<O: Operation>(&self, operation: O) -> Result<O::Answer> {
        tx::run(operation, &self.pool, &self.known, self.place.timeout, &self.place.name).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn describe(&self) -> String {
        format!("postgres at {}", self.place.name)
    }

    async fn time(&self) -> Result<Option<Timestamp>> {
        read!(self, "store.time", |reader| async {
            let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
            let row = sqlx::query(now).fetch_one(reader).await?;
            Ok(Some(row.time(0)?))
        })
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        Some(Arc::clone(&self.hints) as Arc<dyn Hints>)
    }
}

#[async_trait]
impl JobStore for PostgresStore {
    async fn enqueue(&self, jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.drain(|hot| &hot.enqueue, Enqueue { jobs, now }).await
    }

    async fn claim(&self, groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed> {
        let floors = Arc::clone(&self.floors);
        self.drain(|hot| &hot.claim, Claim { groups, now, floors }).await
    }

    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.drain(|hot| &hot.report, ReportRuns { writes, now }).await
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
        read!(self, "store.job", |reader| lists::job(reader, &self.known, id))
    }

    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        read!(self, "store.jobs", |reader| lists::jobs(reader, &self.known, &filter, &page))
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        snapshot!(self, "store.attempts", |reader| lists::attempts(reader, id))
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32> {
        self.write(Prune { before, limit }).await
    }
}

#[async_trait]
impl LogStore for PostgresStore {
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        snapshot!(self, "store.log", |reader| lists::log(reader, run, offset, max_bytes))
    }
}

#[async_trait]
impl QueueStore for PostgresStore {
    async fn queues(&self) -> Result<Vec<QueueRecord>> {
        snapshot!(self, "store.queues", |reader| lists::queues(reader, &self.known))
    }

    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()> {
        self.write(SetPaused { queue: queue.clone(), is_paused }).await
    }

    async fn ready_lanes(&self) -> Result<Vec<Arc<Lane>>> {
        read!(self, "store.ready_lanes", |reader| lists::ready_lanes(reader, &self.known))
    }

    async fn paused_queues(&self) -> Result<Vec<QueueName>> {
        read!(self, "store.paused_queues", |reader| lists::paused_queues(reader))
    }
}

#[async_trait]
impl SessionStore for PostgresStore {
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
        snapshot!(self, "store.held", |reader| async {
            match sessions::read(reader, session).await? {
                None => Ok(Vec::new()),
                Some((number, _)) => lists::held(reader, &self.known, number).await,
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
impl AgentStore for PostgresStore {
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
impl TokenStore for PostgresStore {
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
impl DocumentStore for PostgresStore {
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
