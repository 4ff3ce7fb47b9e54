//! What the promises are played with: a few jobs, agents and sessions, and short ways to use them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord, LogStream};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, AgentKind, JobId, SessionId, TokenId};
use mamos_core::job::labels::{Labels, Selector};
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::{CancelRequest, ClaimedJob, Failure, JobRecord, NewJob, Outcome};
use mamos_core::lease::{Epoch, RunRef, SessionRef, Verdict};
use mamos_core::store::{
    Attach, Attached, ClaimGroup, Claimed, DocumentChange, DocumentFilter, DocumentWrite, EnqueueResult,
    Expected, LogPiece, PageRequest, Report, Reported, RunWrite, Taker, Written,
};
use mamos_core::{JobState, Store};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const TTL: Duration = Duration::from_secs(30);
pub(super) const DAY: u64 = 24 * 3600;

/// That many seconds after the scene begins.
pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000) + Duration::from_secs(seconds)
}

pub(super) fn job_id(n: u64) -> JobId {
    JobId::from_parts(at(n), u128::from(n))
}

pub(super) fn session_id(n: u64) -> SessionId {
    SessionId::from_parts(at(n), u128::from(n))
}

pub(super) fn agent_id(n: u64) -> AgentId {
    AgentId::from_parts(AgentKind::new("kit").unwrap(), at(n), u128::from(n))
}

pub(super) fn lane(queue: &str, kind: &str) -> Arc<Lane> {
    Arc::new(Lane::new(queue.parse().unwrap(), kind.parse().unwrap(), Selector::any()))
}

/// The lane of jobs that name none.
pub(super) fn main_lane() -> Arc<Lane> {
    lane("main", "kit.work")
}

/// A job that may run at once and is tried three times, ten seconds apart.
pub(super) fn job(n: u64) -> NewJob {
    job_in(n, main_lane())
}

pub(super) fn job_in(n: u64, lane: Arc<Lane>) -> NewJob {
    let payload = Bytes::from(format!("payload {n}"));
    NewJob { retry: RetryPolicy::fixed(3, 10 * SECOND), ..NewJob::new(job_id(n), lane, payload) }
}

pub(super) async fn enqueue(store: &Arc<dyn Store>, jobs: Vec<NewJob>, now: Timestamp) -> Vec<EnqueueResult> {
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let answers = store.enqueue(jobs, now).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<_>>(), ids, "one answer a job, in order");
    answers.into_iter().map(|answer| answer.result).collect()
}

pub(super) fn token(n: u64, uses: u32) -> RegistrationToken {
    RegistrationToken {
        id: TokenId::from_parts(at(n), u128::from(n)),
        hash: hash(n),
        expires_at: at(DAY),
        uses_left: uses,
        agent_kind: None,
        agent_name: None,
        labels: Labels::default(),
        created_at: at(0),
    }
}

pub(super) fn hash(n: u64) -> [u8; 32] {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&n.to_be_bytes());
    hash
}

pub(super) fn public_key(n: u64) -> PublicKey {
    PublicKey::from_bytes(hash(1000 + n))
}

pub(super) fn profile() -> AgentProfile {
    AgentProfile::new(AgentKind::new("kit").unwrap(), "an agent of the kit")
}

pub(super) fn agent_record(n: u64) -> AgentRecord {
    AgentRecord {
        id: agent_id(n),
        state: AgentState::Registered,
        profile: profile(),
        labels: Default::default(),
        is_draining: false,
        public_key: public_key(n),
        instance: None,
        revocation: None,
        registered_at: at(0),
        changed_at: at(0),
        revision: 1,
    }
}

/// Admits agent `n`.
pub(super) async fn admit(store: &Arc<dyn Store>, n: u64) -> AgentId {
    store.create_token(token(n, 1)).await.unwrap();
    store.redeem(hash(n), agent_record(n), at(0)).await.unwrap().id
}

/// A request of agent `agent` for the new session `fresh`.
pub(super) fn attach_request(agent: u64, fresh: u64) -> Attach {
    Attach {
        agent: agent_id(agent),
        profile: profile(),
        resume: None,
        fresh: session_id(fresh),
        known: Vec::new(),
        ttl: TTL,
        orchestrator: "kit".to_owned(),
    }
}

pub(super) async fn attach(store: &Arc<dyn Store>, request: Attach, now: Timestamp) -> Attached {
    store.attach(request, now).await.unwrap()
}

/// Admits agent `n` and gives it session `n`, opened when the scene begins.
pub(super) async fn session(store: &Arc<dyn Store>, n: u64) -> SessionRef {
    session_at(store, n, at(0)).await
}

/// Admits agent `n` and gives it session `n`, opened now and for 30 s. For tests that only need somebody to claim.
///
/// # Panics
///
/// If the store refuses: each `n` may be used once.
pub async fn session_at(store: &Arc<dyn Store>, n: u64, now: Timestamp) -> SessionRef {
    admit(store, n).await;
    attach(store, attach_request(n, n), now).await.session
}

pub(super) fn group(lanes: &[LaneId], takers: &[(SessionRef, u32)]) -> ClaimGroup {
    let takers = takers.iter().map(|(session, limit)| Taker { session: *session, limit: *limit }).collect();
    ClaimGroup { lanes: lanes.to_vec(), takers }
}

pub(super) async fn claim_all(
    store: &Arc<dyn Store>,
    lanes: &[LaneId],
    takers: &[(SessionRef, u32)],
    now: Timestamp,
) -> Claimed {
    store.claim(vec![group(lanes, takers)], now).await.unwrap()
}

/// Claims up to `limit` jobs of the main lane for one session.
pub(super) async fn claim(
    store: &Arc<dyn Store>,
    session: SessionRef,
    limit: u32,
    now: Timestamp,
) -> Vec<ClaimedJob> {
    let claimed = claim_all(store, &[main_lane().id()], &[(session, limit)], now).await;
    claimed.jobs.into_iter().flat_map(|(_, jobs)| jobs).collect()
}

/// Enqueues the job and claims it for the session.
pub(super) async fn leased(
    store: &Arc<dyn Store>,
    session: SessionRef,
    job: NewJob,
    now: Timestamp,
) -> RunRef {
    let (id, lane) = (job.id, job.lane.id());
    enqueue(store, vec![job], now).await;
    let claimed = claim_all(store, &[lane], &[(session, 1)], now).await;
    let run = claimed.jobs[0].1[0].run;
    assert_eq!(run.job, id, "the only ready job of its lane is claimed");
    run
}

/// Enqueues the job, claims it for the session and says that it started.
pub(super) async fn running(
    store: &Arc<dyn Store>,
    session: SessionRef,
    job: NewJob,
    now: Timestamp,
) -> RunRef {
    let run = leased(store, session, job, now).await;
    let started = report(store, session, run, Report::Started, now).await;
    assert_eq!((started.verdict, started.state), (Verdict::Applied, Some(JobState::Running)));
    run
}

pub(super) fn write(session: SessionRef, run: RunRef, report: Report) -> RunWrite {
    RunWrite { session: session.id, run, report }
}

pub(super) async fn report(
    store: &Arc<dyn Store>,
    session: SessionRef,
    run: RunRef,
    report: Report,
    now: Timestamp,
) -> Reported {
    let answers = store.report(vec![write(session, run, report)], now).await.unwrap();
    assert_eq!(answers.len(), 1, "one answer a report");
    answers[0]
}

pub(super) async fn settle(
    store: &Arc<dyn Store>,
    session: SessionRef,
    run: RunRef,
    outcome: Outcome,
    now: Timestamp,
) -> Reported {
    report(store, session, run, Report::Settle(outcome), now).await
}

pub(super) async fn record(store: &Arc<dyn Store>, id: JobId) -> JobRecord {
    store.job(id).await.unwrap().expect("the job is stored")
}

pub(super) async fn state(store: &Arc<dyn Store>, id: JobId) -> JobState {
    record(store, id).await.state
}

pub(super) fn epoch(number: u64) -> Epoch {
    Epoch::from_number(number)
}

pub(super) fn failure() -> Failure {
    Failure::new("smtp", "no route to host")
}

pub(super) fn succeeded() -> Outcome {
    Outcome::Succeeded { output: Bytes::from_static(b"output") }
}

pub(super) fn retry() -> Outcome {
    Outcome::Retry { failure: failure(), after: None }
}

pub(super) fn bury() -> Outcome {
    Outcome::Bury { failure: failure() }
}

pub(super) fn piece(offset: u64, text: &'static str) -> LogPiece {
    LogPiece { offset, stream: LogStream::Stdout, bytes: Bytes::from_static(text.as_bytes()) }
}

pub(super) fn cancel_request() -> CancelRequest {
    CancelRequest::new("no longer needed", 5 * SECOND)
}

/// A wish to put a document into the collection `notes`.
pub(super) fn put(key: &str, expected: Expected, value: &'static str) -> DocumentWrite {
    put_until(key, expected, value, None)
}

pub(super) fn put_until(
    key: &str,
    expected: Expected,
    value: &'static str,
    expires_at: Option<Timestamp>,
) -> DocumentWrite {
    let change = DocumentChange::Put { value: Bytes::from_static(value.as_bytes()), expires_at };
    DocumentWrite { collection: "notes".to_owned(), key: key.to_owned(), expected, change }
}

/// A wish to remove a document of the collection `notes`.
pub(super) fn remove(key: &str, expected: Expected) -> DocumentWrite {
    DocumentWrite { change: DocumentChange::Remove, ..put(key, expected, "") }
}

pub(super) async fn write_documents(
    store: &Arc<dyn Store>,
    writes: Vec<DocumentWrite>,
    now: Timestamp,
) -> Vec<Written> {
    let count = writes.len();
    let answers = store.write_documents(writes, now).await.unwrap();
    assert_eq!(answers.len(), count, "one answer a write");
    answers
}

/// The keys of all pages of a list.
pub(super) async fn document_keys(
    store: &Arc<dyn Store>,
    filter: DocumentFilter,
    size: u32,
    now: Timestamp,
) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), None);
    for _ in 0..1000 {
        let page = store.documents(filter.clone(), PageRequest { limit: size, after }, now).await.unwrap();
        assert!(page.items.len() <= size as usize);
        keys.extend(page.items.into_iter().map(|document| document.key));
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
    panic!("the pages do not come to an end");
}

/// Enqueues the job and brings it into the state.
pub(super) async fn job_in_state(
    store: &Arc<dyn Store>,
    session: SessionRef,
    job: NewJob,
    wanted: JobState,
    now: Timestamp,
) {
    let id = job.id;
    match wanted {
        JobState::Blocked => {
            enqueue(store, vec![NewJob { needs_approval: true, ..job }], now).await;
        }
        JobState::Scheduled => {
            enqueue(store, vec![NewJob { run_at: Some(now + 3600 * SECOND), ..job }], now).await;
        }
        JobState::Ready => {
            enqueue(store, vec![job], now).await;
        }
        JobState::Leased => {
            leased(store, session, job, now).await;
        }
        JobState::Running => {
            running(store, session, job, now).await;
        }
        JobState::Succeeded | JobState::Dead => {
            let run = running(store, session, job, now).await;
            let outcome = if wanted == JobState::Dead { bury() } else { succeeded() };
            settle(store, session, run, outcome, now).await;
        }
        JobState::Cancelled => {
            enqueue(store, vec![job], now).await;
            store.cancel(vec![id], cancel_request(), now).await.unwrap();
        }
    }
    assert_eq!(state(store, id).await, wanted, "the scene needs a job in this state");
}
