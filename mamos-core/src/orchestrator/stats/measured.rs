//! A store that is measured: takes a store and is one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Tally;
use crate::Result;
use crate::agent::AgentRecord;
use crate::auth::RegistrationToken;
use crate::clock::Timestamp;
use crate::hint::Hints;
use crate::id::{AgentId, JobId, QueueName, SessionId, TokenId};
use crate::job::lane::Lane;
use crate::job::{AttemptRecord, CancelRequest, JobRecord, NewJob};
use crate::lease::{RunRef, SessionRef, Verdict};
use crate::store::{
    AgentStore, Attach, Attached, CancelVerdict, ChangeVerdict, ClaimGroup, Claimed, Document,
    DocumentFilter, DocumentStore, DocumentWrite, Enqueued, HeldJob, JobFilter, JobStore, LogPiece, LogStore,
    Page, PageRequest, QueueRecord, QueueStore, Reported, RunWrite, SessionRecord, SessionStore, Store,
    Swept, TokenStore, Written,
};

/// Measures what a store takes, and counts how often it fails.
pub(crate) struct Measured {
    store: Arc<dyn Store>,
    tally: Arc<Tally>,
}

impl Measured {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, tally: Arc::default() }
    }

    /// What it counts, and the engine with it.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    async fn measure<T>(&self, operation: usize, work: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let result = work.await;
        self.tally.operation(operation, began.elapsed(), result.is_err());
        result
    }
}

/// Writes the traits out: each method is the one of the store, under its own number.
macro_rules! measured {
    ($($port:ident { $($method:ident($($argument:ident: $type:ty),*) -> $answer:ty;)* })*) => {
        /// The numbers of the operations.
        #[allow(non_camel_case_types, reason = "each is called like the method that it numbers")]
        #[derive(Clone, Copy)]
        enum Number { $($($method,)*)* }

        /// The names of the operations, by their numbers.
        pub(super) const OPERATIONS: [&str; [$($(stringify!($method),)*)*].len()] =
            [$($(stringify!($method),)*)*];

        $(
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl $port for Measured {
                $(
                    async fn $method(&self, $($argument: $type),*) -> Result<$answer> {
                        self.measure(Number::$method as usize, self.store.$method($($argument),*)).await
                    }
                )*
            }
        )*
    };
}

measured! {
    JobStore {
        enqueue(jobs: Vec<NewJob>, now: Timestamp) -> Vec<Enqueued>;
        claim(groups: Vec<ClaimGroup>, now: Timestamp) -> Claimed;
        report(writes: Vec<RunWrite>, now: Timestamp) -> Vec<Reported>;
        sweep(limit: u32, now: Timestamp) -> Swept;
        cancel(jobs: Vec<JobId>, request: CancelRequest, now: Timestamp) -> Vec<CancelVerdict>;
        redrive(jobs: Vec<JobId>, now: Timestamp) -> Vec<ChangeVerdict>;
        approve(jobs: Vec<JobId>, now: Timestamp) -> Vec<ChangeVerdict>;
        job(id: JobId) -> Option<JobRecord>;
        jobs(filter: JobFilter, page: PageRequest) -> Page<JobRecord>;
        attempts(id: JobId) -> Vec<AttemptRecord>;
        prune(before: Timestamp, limit: u32) -> u32;
    }
    LogStore {
        log(run: RunRef, offset: u64, max_bytes: u32) -> Vec<LogPiece>;
    }
    QueueStore {
        queues() -> Vec<QueueRecord>;
        set_paused(queue: &QueueName, is_paused: bool) -> ();
        ready_lanes() -> Vec<Arc<Lane>>;
        paused_queues() -> Vec<QueueName>;
    }
    SessionStore {
        attach(request: Attach, now: Timestamp) -> Attached;
        renew(sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Vec<Verdict>;
        adopt(sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Vec<Verdict>;
        detach(session: SessionRef, now: Timestamp) -> Verdict;
        held(session: SessionId) -> Vec<HeldJob>;
        session(id: SessionId) -> Option<SessionRecord>;
        sessions() -> Vec<SessionRecord>;
    }
    AgentStore {
        agent(id: &AgentId) -> Option<AgentRecord>;
        agents(page: PageRequest) -> Page<AgentRecord>;
        update_agent(agent: AgentRecord, revision: u64, now: Timestamp) -> AgentRecord;
    }
    TokenStore {
        create_token(token: RegistrationToken) -> ();
        redeem(hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> AgentRecord;
        tokens() -> Vec<RegistrationToken>;
        revoke_token(id: TokenId) -> bool;
    }
    DocumentStore {
        document(collection: &str, key: &str, now: Timestamp) -> Option<Document>;
        write_documents(writes: Vec<DocumentWrite>, now: Timestamp) -> Vec<Written>;
        documents(filter: DocumentFilter, page: PageRequest, now: Timestamp) -> Page<Document>;
        prune_documents(now: Timestamp, limit: u32) -> u32;
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Measured {
    fn describe(&self) -> String {
        self.store.describe()
    }

    async fn time(&self) -> Result<Option<Timestamp>> {
        self.store.time().await
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        self.store.hints()
    }
}
