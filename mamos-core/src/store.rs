//! Ports: where everything is kept. One small trait a noun; [`Store`] joins them.
//!
//! The contract, in short (in full: `docs/guarantees.md`, and as tests: the conformance kit of
//! `mamos-store`):
//!
//! - Every method is atomic: it happens as a whole or not at all, and what it answered is durable to
//!   the degree that the store documents.
//! - Every write about a run carries its [`RunRef`] and session, and is applied only while that run is
//!   current, in the same statement or transaction.
//! - Time is an argument. A store reads no clock and draws no random number.
//! - An error of kind [`Unavailable`](crate::ErrorKind::Unavailable) may mean that the work was done:
//!   every method tolerates being called again with the same arguments.
//! - Batches answer one verdict an item, in the order of the items. Items may repeat within a batch.

mod documents;
mod lists;
mod sessions;
mod work;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::documents::{
    Document, DocumentChange, DocumentFilter, DocumentWrite, Expected, MAX_DOCUMENT_BYTES,
    MAX_DOCUMENT_NAME_BYTES, Written,
};
pub use self::lists::{Cursor, JobFilter, Page, PageRequest, QueueRecord};
pub use self::sessions::{Attach, Attached, HeldJob, SessionEnd, SessionRecord};
pub use self::work::{
    CancelVerdict, ChangeVerdict, ClaimGroup, Claimed, EnqueueResult, Enqueued, LogPiece, Report, Reported,
    RunWrite, Swept, Taker, deal,
};
use crate::Result;
use crate::agent::AgentRecord;
use crate::auth::RegistrationToken;
use crate::clock::Timestamp;
use crate::hint::Hints;
use crate::id::{AgentId, JobId, QueueName, SessionId, TokenId};
use crate::job::lane::Lane;
use crate::job::{AttemptRecord, CancelRequest, JobRecord, NewJob};
use crate::lease::{RunRef, SessionRef, Verdict};

/// Everything that an orchestrator keeps.
#[async_trait]
pub trait Store:
    JobStore + LogStore + QueueStore + SessionStore + AgentStore + TokenStore + DocumentStore
{
    /// Says which store this is, for people, for example `sqlite (durability full) at /var/lib/mamos.db`.
    /// Never contains a secret.
    fn describe(&self) -> String;

    /// The time of the server that keeps the data, for a store that several machines share: orchestrators
    /// align their clocks with it, so that one whose clock is wrong takes no lease that still holds.
    /// `None`, the default, for a store of one machine.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): it does not answer; try again later.
    async fn time(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// Carries hints between the orchestrators on this store. `None`, the default, for a store that cannot:
    /// they then look at it every
    /// [`sweep_every`](crate::orchestrator::Builder::sweep_every), or are given a bus.
    fn hints(&self) -> Option<Arc<dyn Hints>> {
        None
    }
}

/// Keeps jobs, and decides who may run them.
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// Stores jobs, each in its [first state](NewJob::first_state).
    ///
    /// A job whose id is stored already is a repeat and changes nothing. A job whose unique key is held
    /// by another job of the kind that has not ended is not stored. The others of the batch are.
    async fn enqueue(&self, jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>>;

    /// Leases ready jobs to sessions: the state becomes `Leased`, the epoch grows by one.
    ///
    /// Each group of the request is served in turn. Within a group, jobs are taken in the order of
    /// priority (highest first), then `run_at`, then the order in which they were stored, over all its
    /// lanes together, and dealt to its takers in rounds, one job a taker and round, until each has its
    /// limit. Lanes whose queue is paused give nothing. A taker whose session is not current (closed,
    /// expired at `now`, or of an earlier link) gets nothing and is named in
    /// [`Claimed::stale`].
    ///
    /// A store may give fewer jobs than asked for although more are ready, so that one answer with
    /// large payloads does not fill the memory: it then says so in [`Claimed::has_more`], and gives
    /// each group at least one job unless it had to bury what it found.
    async fn claim(&self, groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed>;

    /// Writes what agents report about their runs, in order.
    ///
    /// A write is applied only if the job is held by that session in that epoch; see [`Verdict`] for
    /// the other answers. What an end means for the job, [`rules`](crate::job::rules) decide, with
    /// [`RunRef::jitter`]. Settling the run that settled the job last again answers
    /// [`Verdict::Applied`] and changes nothing. A settle that is stale for another reason is kept in the
    /// history as [late](AttemptRecord::is_late) evidence, at most 16 for each job.
    ///
    /// A log piece is applied if it begins at or before the end of what is stored for the run; bytes
    /// that are stored already are skipped. One that begins later is [`Verdict::Gap`]: a piece is missing,
    /// and this one is not written.
    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>>;

    /// Does what is due: promotes, rescues and buries, at most `limit` jobs of each, in one
    /// transaction.
    ///
    /// - `Scheduled` jobs whose time has come become `Ready`.
    /// - Sessions that expired at or before `now` are lost: their agents become `Failed` and what they
    ///   held is given back by [`rules::after_rescue`](crate::job::rules::after_rescue).
    /// - Jobs whose deadline is at or before `now` are buried with the code `deadline`, running ones
    ///   too.
    async fn sweep(&self, limit: u32, now: Timestamp) -> Result<Swept>;

    /// Cancels jobs. A job that is held is only marked, and its agent settles it.
    ///
    /// Asking again changes nothing: the first request stays.
    async fn cancel(
        &self,
        jobs: Vec<JobId>,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>>;

    /// Makes dead jobs ready again, with fresh counters and no deadline; their epoch stays, so that
    /// runs from before stay fenced.
    async fn redrive(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>>;

    /// Approves blocked jobs: they become `Ready` now, whatever their `run_at` was.
    async fn approve(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>>;

    /// One job, or `None`.
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>>;

    /// Jobs that fit the filter, newest first, a page at a time.
    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>>;

    /// All runs of a job in order, the current or last one included; late evidence after the run it
    /// claims to be. Empty if there is no such job or it was never claimed.
    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>>;

    /// Removes jobs that ended before `before`, with their logs and history, at most `limit`. Gives
    /// how many.
    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32>;
}

/// Keeps what runs print.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// Pieces of a run's log from byte `offset` on, at most `max_bytes` in all, in order and without
    /// gaps. The first piece begins exactly at `offset`. Empty at the end.
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>>;
}

/// Keeps queues and lanes.
#[async_trait]
pub trait QueueStore: Send + Sync + 'static {
    /// Every queue that holds a job or was ever paused, by name. Counts all jobs, so it costs more the
    /// more there are: for people, not for loops.
    async fn queues(&self) -> Result<Vec<QueueRecord>>;

    /// Pauses a queue, so that [`JobStore::claim`] takes nothing from it, or lets it go on.
    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()>;

    /// The lanes that hold a ready job, paused or not. Costs no more when the backlog grows.
    async fn ready_lanes(&self) -> Result<Vec<Arc<Lane>>>;

    /// The names of the paused queues.
    async fn paused_queues(&self) -> Result<Vec<QueueName>>;
}

/// Keeps sessions: the leases of all jobs that an agent holds.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Gives an agent a session: resumes the one it names, if that is open and its own, or opens a new
    /// one.
    ///
    /// In one transaction: any other open session of the agent is superseded; jobs that the agent held
    /// and [still knows](Attach::known) belong to the session from now on; those that it held and does
    /// not know are given back by [`rules::after_rescue`](crate::job::rules::after_rescue); the agent
    /// becomes `Running` with the given profile.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such agent.
    /// - [`ErrorKind::Denied`](crate::ErrorKind::Denied): it was decommissioned.
    async fn attach(&self, request: Attach, now: Timestamp) -> Result<Attached>;

    /// Renews sessions, and with each the lease of every job it holds. The new expiry is `now + ttl`.
    ///
    /// [`Verdict::Stale`] if it expired at or before `now`, was closed, or has a later link.
    async fn renew(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>>;

    /// Gives sessions a new lease even if theirs has expired, as long as no sweep made them lost: it was the
    /// orchestrator or the store that was away, and not their agents. The new expiry is `now + ttl`.
    ///
    /// [`Verdict::Stale`] if it was closed, superseded or lost, or has a later link: its agent is served by
    /// another orchestrator then.
    async fn adopt(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>>;

    /// Ends a session because its agent said goodbye: the agent becomes `Stopped`, and what it still
    /// held is given back by [`rules::after_release`](crate::job::rules::after_release).
    async fn detach(&self, session: SessionRef, now: Timestamp) -> Result<Verdict>;

    /// What a session holds, in the order of its runs.
    async fn held(&self, session: SessionId) -> Result<Vec<HeldJob>>;

    /// One session, open or ended, or `None`.
    async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>>;

    /// The open sessions.
    async fn sessions(&self) -> Result<Vec<SessionRecord>>;
}

/// Keeps agents.
#[async_trait]
pub trait AgentStore: Send + Sync + 'static {
    /// One agent, or `None`.
    async fn agent(&self, id: &AgentId) -> Result<Option<AgentRecord>>;

    /// All agents, a page at a time, in the order of their ids.
    async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>>;

    /// Stores a changed agent if it still has the given revision; the stored one is `revision + 1`.
    ///
    /// Only the labels, draining, instance, revocation and state are taken; all else stays, but for
    /// [`changed_at`](AgentRecord::changed_at) when the instance is another.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): someone else changed it. Read it again.
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such agent.
    async fn update_agent(&self, agent: AgentRecord, revision: u64, now: Timestamp) -> Result<AgentRecord>;
}

/// Keeps registration tokens.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// Stores a token. Storing the same id again changes nothing.
    async fn create_token(&self, token: RegistrationToken) -> Result<()>;

    /// Takes one use of the token with that hash and stores the agent, in one statement or
    /// transaction, so that a token with one use admits one agent, however many try at once.
    ///
    /// A repeat with the same agent id and public key, after an answer was lost, answers the agent
    /// again and takes no use, as long as the token has not expired. A new agent gets the [labels](RegistrationToken::labels) of the token.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`](crate::ErrorKind::Denied): no such token, no use left, expired at `now`, or
    /// made for another kind or [name](RegistrationToken::agent_name) of agent. The message does not say
    /// which.
    async fn redeem(&self, hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> Result<AgentRecord>;

    /// Every token that has uses left, expired ones too.
    async fn tokens(&self) -> Result<Vec<RegistrationToken>>;

    /// Makes a token worthless. Gives whether it had been worth something.
    async fn revoke_token(&self, id: TokenId) -> Result<bool>;
}

/// Keeps small documents: what the engine and its surroundings remember besides jobs and agents, such
/// as users, keys and the audit log.
///
/// A document has a collection, a key that is unique in it, and a revision that grows by one with each
/// change from 1 on. One that has expired is gone for every method, whether it was
/// [removed](DocumentStore::prune_documents) yet or not.
#[async_trait]
pub trait DocumentStore: Send + Sync + 'static {
    /// One document; `None` if there is none or it expired at or before `now`.
    async fn document(&self, collection: &str, key: &str, now: Timestamp) -> Result<Option<Document>>;

    /// Writes documents in order, each only if its [condition](Expected) holds.
    ///
    /// A write whose condition does not hold but whose wish is fulfilled already — the document is there
    /// with exactly that value and expiry, and was one revision earlier as expected — is a repeat after a lost
    /// answer and counts as written. So does the removal of what is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`](crate::ErrorKind::LimitExceeded): a collection, key or value is over
    /// [`MAX_DOCUMENT_NAME_BYTES`] or [`MAX_DOCUMENT_BYTES`], or a name is empty. Nothing was written.
    async fn write_documents(&self, writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>>;

    /// Documents of a collection in the order of their keys' bytes, a page at a time.
    async fn documents(
        &self,
        filter: DocumentFilter,
        page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>>;

    /// Removes documents that expired at or before `now`, at most `limit`. Gives how many.
    async fn prune_documents(&self, now: Timestamp, limit: u32) -> Result<u32>;
}

fn _dyn_compatible(_: &dyn Store) {}
