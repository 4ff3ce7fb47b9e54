//! Rows that cannot be understood end one job each, and large payloads come in parts.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, AgentKind, JobId, SessionId, TokenId};
use mamos_core::job::labels::{Labels, Selector};
use mamos_core::job::lane::Lane;
use mamos_core::job::{AttemptEnd, ClaimedJob, NewJob, Outcome};
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{
    AgentStore, Attach, ClaimGroup, Claimed, JobFilter, JobStore, PageRequest, QueueStore, Report, RunWrite,
    SessionStore, Taker, TokenStore,
};
use mamos_core::{ErrorKind, JobState};
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::PostgresSchema;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const TTL: Duration = Duration::from_secs(30);

fn lane() -> Arc<Lane> {
    Arc::new(Lane::new("mail".parse().unwrap(), "mail.send".parse().unwrap(), Selector::any()))
}

fn job(n: u128) -> NewJob {
    NewJob {
        timeout: Some(Duration::from_secs(7)),
        ..NewJob::new(JobId::from_parts(NOW, n), lane(), Bytes::from(format!("payload {n}")))
    }
}

/// A store in a schema of its own, and an agent.
struct Bed {
    store: PostgresStore,
    agent: AgentId,
    session: SessionRef,
    schema: PostgresSchema,
}

impl Bed {
    async fn new() -> Self {
        let schema = PostgresSchema::unique();
        let settings = PostgresSettings::new(schema.url()).schema(schema.name()).connections(2);
        let store = PostgresStore::open(settings).await.unwrap();
        let agent = admit(&store, 1).await;
        let session = attach(&store, &agent, 1, Vec::new()).await.session;
        Self { store, agent, session, schema }
    }

    /// Enqueues the jobs 1 to `jobs`, whose numbers within the file are the same.
    async fn enqueue(&self, jobs: u128) {
        self.store.enqueue((1..=jobs).map(job).collect(), NOW).await.unwrap();
    }

    fn damage(&self, statement: &str) {
        let changed = self
            .schema
            .sql(&format!("WITH changed AS ({statement} RETURNING 1) SELECT count(*) FROM changed"));
        assert_ne!(changed, "0", "{statement}");
    }

    async fn claim(&self, limit: u32) -> Claimed {
        let taker = Taker { session: self.session, limit };
        let group = ClaimGroup { lanes: vec![lane().id()], takers: vec![taker] };
        self.store.claim(vec![group], NOW).await.unwrap()
    }

    async fn settle(&self, runs: &[RunRef], outcome: Outcome) -> Vec<Verdict> {
        let write = |run: &RunRef| RunWrite {
            session: self.session.id,
            run: *run,
            report: Report::Settle(outcome.clone()),
        };
        let reported = self.store.report(runs.iter().map(write).collect(), NOW).await.unwrap();
        reported.into_iter().map(|reported| reported.verdict).collect()
    }

    fn state(&self, seq: i64) -> i64 {
        self.schema.sql(&format!("SELECT state FROM mamos_job WHERE seq = {seq}")).parse().unwrap()
    }

    fn failure(&self, seq: i64) -> (String, String) {
        let found = self.schema.sql(&format!("SELECT code, message FROM mamos_failure WHERE seq = {seq}"));
        let (code, message) = found.split_once('|').unwrap();
        (code.to_owned(), message.to_owned())
    }
}

async fn admit(store: &PostgresStore, n: u8) -> AgentId {
    let token = RegistrationToken {
        id: TokenId::from_parts(NOW, u128::from(n)),
        hash: [n; 32],
        expires_at: NOW + TTL,
        uses_left: 1,
        agent_kind: None,
        agent_name: None,
        labels: Labels::default(),
        created_at: NOW,
    };
    store.create_token(token).await.unwrap();
    let agent = AgentRecord {
        id: AgentId::from_parts(AgentKind::new("kit").unwrap(), NOW, u128::from(n)),
        state: AgentState::Registered,
        profile: profile(),
        labels: Labels::default(),
        is_draining: false,
        public_key: PublicKey::from_bytes([n; 32]),
        instance: None,
        revocation: None,
        registered_at: NOW,
        changed_at: NOW,
        revision: 1,
    };
    store.redeem([n; 32], agent, NOW).await.unwrap().id
}

fn profile() -> AgentProfile {
    AgentProfile::new(AgentKind::new("kit").unwrap(), "an agent of a test")
}

async fn attach(
    store: &PostgresStore,
    agent: &AgentId,
    fresh: u128,
    known: Vec<RunRef>,
) -> mamos_core::store::Attached {
    let request = Attach {
        agent: agent.clone(),
        profile: profile(),
        resume: None,
        fresh: SessionId::from_parts(NOW, fresh),
        known,
        ttl: TTL,
        orchestrator: "test".to_owned(),
    };
    store.attach(request, NOW).await.unwrap()
}

fn jobs(claimed: Claimed) -> Vec<ClaimedJob> {
    claimed.jobs.into_iter().flat_map(|(_, jobs)| jobs).collect()
}

fn ids(jobs: &[ClaimedJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.run.job).collect()
}

/// What may stand in the row of job 2, and the word for it in the failure.
const DAMAGE: [(&str, &str); 6] = [
    ("UPDATE mamos_spec SET details = '{\"timeout\": 5}' WHERE seq = 2", "details"),
    ("UPDATE mamos_spec SET details = '[1, 2]' WHERE seq = 2", "details"),
    ("UPDATE mamos_spec SET details = '{\"labels\": {\"\\u0000\": 1}}' WHERE seq = 2", "details"),
    ("DELETE FROM mamos_spec WHERE seq = 2", "payload"),
    ("UPDATE mamos_job SET attempt = -4 WHERE seq = 2", "attempt"),
    ("UPDATE mamos_job SET deliveries = -1 WHERE seq = 2", "deliveries"),
];

#[tokio::test]
async fn a_ready_job_that_cannot_be_understood_is_buried_and_the_others_are_claimed() {
    for (damage, column) in DAMAGE {
        let bed = Bed::new().await;
        bed.enqueue(3).await;
        bed.damage(damage);
        let claimed = bed.claim(10).await;
        assert!(claimed.has_more, "{damage}: another may be ready in its place");
        assert_eq!(ids(&jobs(claimed)), [job(1).id, job(3).id], "{damage}");
        assert_eq!(bed.state(2), 6, "{damage}: it is dead");
        let (code, message) = bed.failure(2);
        assert_eq!(code, "corrupt");
        assert!(message.contains(column), "{damage}: {message}");
        assert!(!bed.claim(10).await.has_more, "{damage}: it is over");
        // It goes the way of all that ended.
        let pruned = bed.store.prune(NOW + TTL, 10).await.unwrap();
        assert_eq!(pruned, 1, "{damage}");
    }
}

#[tokio::test]
async fn a_broken_job_at_the_head_of_its_lane_does_not_stop_small_claims() {
    for (damage, _) in DAMAGE {
        let bed = Bed::new().await;
        bed.enqueue(2).await;
        bed.damage("UPDATE mamos_job SET priority = 9 WHERE seq = 2");
        bed.damage(damage);
        let mut claimed = bed.claim(1).await;
        if claimed.jobs.is_empty() {
            assert!(claimed.has_more, "{damage}");
            claimed = bed.claim(1).await;
        }
        assert_eq!(ids(&jobs(claimed)), [job(1).id], "{damage}");
    }
}

#[tokio::test]
async fn people_see_why_a_job_with_broken_details_is_dead() {
    let bed = Bed::new().await;
    bed.enqueue(2).await;
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 2");
    assert_eq!(bed.store.job(job(2).id).await.unwrap_err().kind(), ErrorKind::Corrupt);
    bed.claim(10).await;
    let record = bed.store.job(job(2).id).await.unwrap().unwrap();
    assert_eq!((record.state, record.finished_at), (JobState::Dead, Some(NOW)));
    assert_eq!(record.failure.unwrap().code, "corrupt");
    assert!(bed.store.attempts(job(2).id).await.unwrap().is_empty(), "it never ran");
    // Made ready again, it is buried again, and the lane goes on.
    bed.store.redrive(vec![job(2).id], NOW).await.unwrap();
    assert_eq!(jobs(bed.claim(10).await).len(), 0);
    assert_eq!(bed.state(2), 6);
}

#[tokio::test]
async fn lists_leave_out_only_what_cannot_be_understood() {
    let bed = Bed::new().await;
    bed.enqueue(3).await;
    bed.damage("UPDATE mamos_job SET state = 77 WHERE seq = 2");
    let page = bed.store.jobs(JobFilter::default(), PageRequest::first(2)).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.spec.id).collect::<Vec<_>>(), [job(3).id]);
    let next = PageRequest { limit: 2, after: page.next };
    let page = bed.store.jobs(JobFilter::default(), next).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.spec.id).collect::<Vec<_>>(), [job(1).id]);
    assert_eq!(bed.store.queues().await.unwrap()[0].count(JobState::Ready), 2);
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 1");
    let labels = Labels::new([("team", "a")]).unwrap();
    let filter = JobFilter { labels, ..JobFilter::default() };
    assert!(bed.store.jobs(filter, PageRequest::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_report_about_a_broken_job_does_not_hold_up_the_others_of_its_batch() {
    let bed = Bed::new().await;
    bed.enqueue(3).await;
    let runs: Vec<RunRef> = jobs(bed.claim(10).await).iter().map(|job| job.run).collect();
    bed.damage("UPDATE mamos_job SET crashes = -3 WHERE seq = 2");
    let failure = mamos_core::job::Failure::new("exit_code", "1");
    let verdicts = bed.settle(&runs, Outcome::Retry { failure, after: None }).await;
    assert_eq!(verdicts, [Verdict::Applied, Verdict::Missing, Verdict::Applied]);
    assert_eq!(bed.state(2), 6);
    let (code, message) = bed.failure(2);
    assert_eq!(code, "corrupt");
    assert!(message.contains("crashes"), "{message}");
}

#[tokio::test]
async fn broken_details_do_not_cost_a_run_that_goes_on_its_result() {
    let mut bed = Bed::new().await;
    bed.enqueue(2).await;
    let runs: Vec<RunRef> = jobs(bed.claim(10).await).iter().map(|job| job.run).collect();
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 2");
    let held = bed.store.held(bed.session.id).await.unwrap();
    assert_eq!(held.iter().map(|held| held.claimed.run).collect::<Vec<_>>(), [runs[0]]);
    // The agent comes back knowing both.
    let attached = attach(&bed.store, &bed.agent, 2, runs.clone()).await;
    assert_eq!(attached.held.iter().map(|held| held.claimed.run).collect::<Vec<_>>(), [runs[0]]);
    assert_eq!((attached.returned.len(), attached.unknown.len()), (0, 0));
    bed.session = attached.session;
    let verdicts = bed.settle(&runs, Outcome::Succeeded { output: Bytes::new() }).await;
    assert_eq!(verdicts, [Verdict::Applied; 2]);
    assert_eq!(bed.state(2), 5);
}

#[tokio::test]
async fn what_cannot_be_understood_is_buried_when_its_agent_comes_back() {
    let bed = Bed::new().await;
    bed.enqueue(2).await;
    let runs: Vec<RunRef> = jobs(bed.claim(10).await).iter().map(|job| job.run).collect();
    bed.damage("UPDATE mamos_job SET deliveries = -1 WHERE seq = 2");
    let attached = attach(&bed.store, &bed.agent, 2, runs.clone()).await;
    assert_eq!(attached.held.iter().map(|held| held.claimed.run).collect::<Vec<_>>(), [runs[0]]);
    assert_eq!(attached.unknown, [runs[1]], "the agent must stop it");
    assert_eq!(bed.state(2), 6);
    bed.damage("UPDATE mamos_job SET deliveries = 0 WHERE seq = 2");
    let attempts = bed.store.attempts(job(2).id).await.unwrap();
    assert_eq!(attempts.len(), 1, "the run that it had is in its history");
    assert_eq!((attempts[0].run, attempts[0].end), (runs[1], Some(AttemptEnd::Buried)));
    assert_eq!(attempts[0].failure.as_ref().unwrap().code, "corrupt");
}

#[tokio::test]
async fn a_sweep_gets_through_whatever_stands_in_the_rows() {
    let bed = Bed::new().await;
    let later = NOW + Duration::from_secs(5);
    let mut all: Vec<NewJob> = (1..=8).map(job).collect();
    for due in &mut all[4..6] {
        due.run_at = Some(later);
    }
    for overdue in &mut all[6..8] {
        overdue.deadline = Some(later);
    }
    bed.store.enqueue(all, NOW).await.unwrap();
    let held = jobs(bed.claim(4).await);
    assert_eq!(ids(&held), [job(1).id, job(2).id, job(3).id, job(4).id]);
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 1");
    bed.damage("UPDATE mamos_job SET attempt = -1 WHERE seq = 2");
    bed.damage("UPDATE mamos_job SET crashes = -1 WHERE seq = 7");
    bed.damage("UPDATE mamos_agent SET profile = 'garbage'");
    let swept = bed.store.sweep(100, NOW + TTL).await.unwrap();
    assert_eq!(swept.promoted, 2);
    assert_eq!(swept.lost.len(), 1);
    let rescued: Vec<JobId> = swept.rescued.iter().map(|(run, _)| run.job).collect();
    assert_eq!(rescued, [job(1).id, job(3).id, job(4).id]);
    assert_eq!(swept.overdue.iter().map(|run| run.job).collect::<Vec<_>>(), [job(8).id]);
    assert!(!swept.has_more, "it does not go round and round");
    for seq in [2, 7] {
        assert_eq!(bed.state(seq), 6);
        assert_eq!(bed.failure(seq).0, "corrupt");
    }
}

#[tokio::test]
async fn a_broken_session_or_lane_leaves_the_others_alone() {
    let bed = Bed::new().await;
    bed.enqueue(1).await;
    let other = Arc::new(Lane::new("other".parse().unwrap(), "other".parse().unwrap(), Selector::any()));
    let lost = NewJob::new(JobId::from_parts(NOW, 99), other, Bytes::new());
    bed.store.enqueue(vec![lost], NOW).await.unwrap();
    let agent = admit(&bed.store, 2).await;
    let broken = attach(&bed.store, &agent, 2, Vec::new()).await.session;
    bed.damage("UPDATE mamos_session SET agent = 'nobody' WHERE no = 2");
    bed.damage("UPDATE mamos_lane SET queue = '!' WHERE queue = 'other'");
    let verdicts = bed.store.renew(vec![broken, bed.session], TTL, NOW).await.unwrap();
    assert_eq!(verdicts, [Verdict::Missing, Verdict::Applied]);
    assert_eq!(bed.store.sessions().await.unwrap().len(), 1);
    // This store knows the lane from before. Another one does not.
    let settings = PostgresSettings::new(bed.schema.url()).schema(bed.schema.name()).connections(1);
    let another = PostgresStore::open(settings).await.unwrap();
    assert_eq!(another.ready_lanes().await.unwrap().len(), 1);
    another.close().await;
    let takers = [broken, bed.session].map(|session| Taker { session, limit: 5 });
    let group = ClaimGroup { lanes: vec![lane().id()], takers: takers.to_vec() };
    let claimed = bed.store.claim(vec![group], NOW).await.unwrap();
    // Nothing of what a claim asks of a session is broken.
    assert_eq!(ids(&jobs(claimed)), [job(1).id]);
    assert_eq!(bed.store.agents(PageRequest::default()).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn a_claim_of_large_payloads_gives_them_in_parts_and_says_so() {
    const MIB: usize = 1024 * 1024;
    let bed = Bed::new().await;
    // 70 MiB in all, so that three claims are needed, with small ones among the large.
    let payload = |n: u128| match n % 3 {
        0 => Bytes::from(format!("small {n}")),
        _ => Bytes::from(vec![n as u8; MIB]),
    };
    let all = (1..=105).map(|n| NewJob { payload: payload(n), ..job(n) }).collect();
    bed.store.enqueue(all, NOW).await.unwrap();
    let mut given = Vec::new();
    for has_more in [true, true, false] {
        let claimed = bed.claim(10_000).await;
        assert_eq!(claimed.has_more, has_more, "after {}", given.len());
        let part = jobs(claimed);
        let bytes: usize = part.iter().map(|job| job.payload.len()).sum();
        assert!(bytes <= 32 * MIB, "{bytes}");
        given.extend(part);
    }
    assert_eq!(ids(&given), (1..=105).map(|n| job(n).id).collect::<Vec<_>>(), "in order, each once");
    for (n, job) in (1..).zip(&given) {
        assert_eq!(job.payload, payload(n));
    }
    assert!(jobs(bed.claim(10_000).await).is_empty());
}
