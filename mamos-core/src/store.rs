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

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;
use crate::agent::{AgentProfile, AgentRecord, LogStream};
use crate::auth::RegistrationToken;
use crate::clock::Timestamp;
use crate::hint::Hints;
use crate::id::{AgentId, JobId, JobKind, QueueName, SessionId, TokenId};
use crate::job::labels::Labels;
use crate::job::lane::{Lane, LaneId};
use crate::job::state::JobState;
use crate::job::{AttemptRecord, CancelRequest, ClaimedJob, JobRecord, NewJob, Outcome, Progress};
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

/// What became of a job that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// The id of the job.
    pub id: JobId,
    /// What became of it.
    pub result: EnqueueResult,
}

/// See [`Enqueued`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnqueueResult {
    /// Stored, in this state.
    Stored(JobState),
    /// The same job was stored earlier, and is in this state now.
    Repeat(JobState),
    /// Not stored: another job has its unique key.
    UniqueKeyTaken {
        /// The job that has it.
        by: JobId,
    },
    /// Not stored: another job, with another lane or payload, has its id.
    IdTaken,
}

/// Takers that can all run the jobs of the same lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimGroup {
    /// The lanes to take from.
    pub lanes: Vec<LaneId>,
    /// Who takes, and how many each.
    pub takers: Vec<Taker>,
}

/// A session with room for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taker {
    /// The session.
    pub session: SessionRef,
    /// How many jobs it takes at most.
    pub limit: u32,
}

/// What a claim gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claimed {
    /// The jobs, each list for one session; sessions that got none are left out.
    pub jobs: Vec<(SessionId, Vec<ClaimedJob>)>,
    /// Takers whose session is not current.
    pub stale: Vec<SessionId>,
    /// When the next scheduled job of any lane is due, if one is.
    pub next_due: Option<Timestamp>,
    /// Did a bound of the store's own, and not the limits of the takers, end the claim, so that more
    /// jobs may be ready right now?
    pub has_more: bool,
}

/// One report about a run, with the session it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct RunWrite {
    /// The session, known from the channel and not from the message.
    pub session: SessionId,
    /// The run.
    pub run: RunRef,
    /// What to write.
    pub report: Report,
}

/// What an agent reports about a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It started. Repeats change nothing.
    Started,
    /// How far it is.
    Progress(Progress),
    /// What it printed.
    Log(LogPiece),
    /// How it ended.
    Settle(Outcome),
    /// It is given back: not started, or stopped without having ended.
    Release,
}

/// A piece of a run's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The position of its first byte in the log of the run.
    pub offset: u64,
    /// Where it came from.
    pub stream: LogStream,
    /// What was printed.
    pub bytes: Bytes,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// Whether it was written.
    pub verdict: Verdict,
    /// The state of the job afterwards; `None` if there is no such job.
    pub state: Option<JobState>,
    /// When the job may run again, if this report postponed it or gave it back.
    pub run_at: Option<Timestamp>,
}

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Swept {
    /// How many jobs became ready because their time had come.
    pub promoted: u32,
    /// The lanes that got ready jobs, by promotion or rescue.
    pub lanes: Vec<Arc<Lane>>,
    /// Runs whose session was lost, and the state of the job afterwards.
    pub rescued: Vec<(RunRef, JobState)>,
    /// Jobs that were buried because their deadline had passed; the run is the one that held it, or
    /// the last.
    pub overdue: Vec<RunRef>,
    /// Sessions that were lost.
    pub lost: Vec<(SessionId, AgentId)>,
    /// When something is due next: a scheduled job, a deadline or the expiry of a session.
    pub next_due: Option<Timestamp>,
    /// Was a limit met, so that another sweep has more to do right now?
    pub has_more: bool,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelVerdict {
    /// It is cancelled now.
    Cancelled,
    /// It is held: its agent must stop it.
    Requested {
        /// The run to stop.
        run: RunRef,
        /// The session that holds it.
        session: SessionId,
    },
    /// It had ended before.
    AlreadyEnded(JobState),
    /// There is no such job.
    Missing,
}

/// What became of a redrive or an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeVerdict {
    /// It is ready now.
    Ready(LaneId),
    /// Its state does not allow that.
    Refused(JobState),
    /// Its unique key is held by another job now.
    UniqueKeyTaken {
        /// The job that has it.
        by: JobId,
    },
    /// There is no such job.
    Missing,
}

/// Which jobs to list. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// In one of these states; empty means any.
    pub states: Vec<JobState>,
    /// In this queue.
    pub queue: Option<QueueName>,
    /// Of this kind.
    pub kind: Option<JobKind>,
    /// Last held by this agent.
    pub agent: Option<AgentId>,
    /// With at least these labels.
    pub labels: Labels,
}

/// Which part of a list to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// How many at most. 1 to 1000; others are brought within that.
    pub limit: u32,
    /// The [`Page::next`] of the page before.
    pub after: Option<Cursor>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: 50, after: None }
    }
}

impl PageRequest {
    /// The first page, of the given size.
    pub fn first(limit: u32) -> Self {
        Self { limit, after: None }
    }

    /// The limit within its bounds.
    pub fn bounded_limit(&self) -> u32 {
        self.limit.clamp(1, 1000)
    }
}

/// A place in a list. Only the store that made it can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The records.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// An agent asks for a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Attach {
    /// The agent, known from the channel.
    pub agent: AgentId,
    /// What it says of itself.
    pub profile: AgentProfile,
    /// The session it had, if it wants to resume that.
    pub resume: Option<SessionId>,
    /// The id of the session if a new one is opened.
    pub fresh: SessionId,
    /// Every run that the agent still has: waiting, running, or ended but not yet acknowledged.
    pub known: Vec<RunRef>,
    /// Expires `now + ttl`.
    pub ttl: Duration,
    /// The name of the orchestrator that serves it.
    pub orchestrator: String,
}

/// An agent has a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// The session.
    pub session: SessionRef,
    /// Is it the one that the agent wanted to resume?
    pub is_resumed: bool,
    /// Other sessions of the agent that were open until now.
    pub superseded: Vec<SessionId>,
    /// What the session holds.
    pub held: Vec<HeldJob>,
    /// What was given back because the agent did not know it, and the state of the job afterwards.
    pub returned: Vec<(RunRef, LaneId, JobState)>,
    /// Runs that the agent has but does not hold: it must stop them.
    pub unknown: Vec<RunRef>,
}

/// A job that a session holds.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldJob {
    /// The job, as it was claimed.
    pub claimed: ClaimedJob,
    /// Did the agent say that it started?
    pub is_started: bool,
    /// Set once someone asked to cancel it.
    pub cancel: Option<CancelRequest>,
}

/// A session, as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The session and its current link.
    pub session: SessionRef,
    /// Whose it is.
    pub agent: AgentId,
    /// The name of the orchestrator that serves it.
    pub orchestrator: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it expires if it is not renewed.
    pub expires_at: Timestamp,
    /// How it ended; `None` while it is open.
    pub end: Option<SessionEnd>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// The agent said goodbye.
    Closed,
    /// The agent opened a newer one.
    Superseded,
    /// It expired.
    Lost,
}

impl SessionEnd {
    /// The stable name: in databases and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Superseded => "superseded",
            Self::Lost => "lost",
        }
    }
}

/// The longest collection or key of a document, in bytes.
pub const MAX_DOCUMENT_NAME_BYTES: usize = 512;
/// The largest value of a document, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// A small document, as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is unique by, within its collection.
    pub key: String,
    /// From 1, grows by one with each change.
    pub revision: u64,
    /// What it says. Opaque to the store.
    pub value: Bytes,
    /// Gone from then on; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// A wish to change a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentWrite {
    /// Its collection.
    pub collection: String,
    /// Its key.
    pub key: String,
    /// How it must be now.
    pub expected: Expected,
    /// What it should become.
    pub change: DocumentChange,
}

/// How a document must be for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// However it is.
    Any,
    /// It must not be there.
    Absent,
    /// It must have this revision.
    Revision(u64),
}

/// What a document should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentChange {
    /// It has this value until it expires.
    Put {
        /// What it says.
        value: Bytes,
        /// Gone from then on; `None` for never.
        expires_at: Option<Timestamp>,
    },
    /// It is gone.
    Remove,
}

/// What became of a wish to change a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Done. The revision that it has now; 0 if it is gone.
    Done(u64),
    /// The condition did not hold: the document is as it was, here if there is one.
    Conflict(Option<Document>),
}

/// Which documents to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFilter {
    /// Of this collection.
    pub collection: String,
    /// Whose keys begin so; empty for all.
    pub prefix: String,
    /// The last key first?
    pub is_descending: bool,
}

/// A queue, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRecord {
    /// Its name.
    pub queue: QueueName,
    /// Does it give out nothing?
    pub is_paused: bool,
    /// How many jobs are in each state, in the order of [`JobState::ALL`].
    pub counts: [u64; JobState::ALL.len()],
    /// Since when its oldest ready job could run.
    pub oldest_ready: Option<Timestamp>,
}

impl QueueRecord {
    /// How many of its jobs are in the state.
    pub fn count(&self, state: JobState) -> u64 {
        JobState::ALL.iter().position(|other| *other == state).map_or(0, |index| self.counts[index])
    }
}

/// Deals `jobs` jobs to takers with these limits in rounds, as [`JobStore::claim`] promises: the answer
/// is the index of the taker of each job.
pub fn deal(jobs: usize, limits: &[u32]) -> Vec<usize> {
    let mut left: Vec<(usize, u32)> =
        limits.iter().copied().enumerate().filter(|(_, limit)| *limit > 0).collect();
    let mut dealt = Vec::with_capacity(jobs);
    while dealt.len() < jobs && !left.is_empty() {
        for (taker, limit) in &mut left {
            if dealt.len() == jobs {
                break;
            }
            dealt.push(*taker);
            *limit -= 1;
        }
        left.retain(|(_, limit)| *limit > 0);
    }
    dealt
}

fn _dyn_compatible(_: &dyn Store) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_dealt_in_rounds() {
        assert_eq!(deal(5, &[2, 0, 9]), [0, 2, 0, 2, 2]);
        assert_eq!(deal(9, &[1, 2]), [0, 1, 1]);
        assert!(deal(3, &[]).is_empty());
        assert!(deal(0, &[4]).is_empty());
    }
}
