//! What the stores in SQL do with rows that cannot be understood: scenes that all of them pass.

#[path = "broken/jobs.rs"]
pub(crate) mod jobs;
#[path = "broken/records.rs"]
pub(crate) mod records;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::Store;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, AgentKind, JobId, SessionId, TokenId};
use mamos_core::job::labels::{Labels, Selector};
use mamos_core::job::lane::Lane;
use mamos_core::job::{ClaimedJob, NewJob, Outcome};
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{Attach, Attached, ClaimGroup, Claimed, Report, RunWrite, Taker};

pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// A database of a test's own, under a store, in which somebody else writes.
pub(crate) trait Database: Sized {
    /// What may stand in the row of job 2, and the word for it in the failure.
    const DAMAGE: &'static [(&'static str, &'static str)];
    /// What may stand in the row of an agent.
    const BROKEN_AGENT: &'static [&'static str];
    /// What may stand in the row of a document.
    const BROKEN_DOCUMENT: &'static [&'static str];
    /// The key "2" of a document.
    const KEY_2: &'static str;
    /// One that is no text.
    const NO_KEY: &'static str;

    async fn open() -> (Arc<dyn Store>, Self);

    /// How many rows a statement changes.
    async fn change(&mut self, statement: &str) -> u64;

    /// The text that a query gives.
    async fn text(&mut self, query: &str) -> String;
}

/// A test of each scene on a database.
#[macro_export]
macro_rules! broken_rows {
    ($database:ty) => {
        $crate::broken_rows!($database, jobs: a_ready_job_that_cannot_be_understood_is_buried_and_the_others_are_claimed,
            a_broken_job_at_the_head_of_its_lane_does_not_stop_small_claims,
            people_see_why_a_job_with_broken_details_is_dead,
            lists_leave_out_only_what_cannot_be_understood,
            a_report_about_a_broken_job_does_not_hold_up_the_others_of_its_batch,
            broken_details_do_not_cost_a_run_that_goes_on_its_result,
            what_cannot_be_understood_is_buried_when_its_agent_comes_back,
            a_sweep_gets_through_whatever_stands_in_the_rows,
            a_claim_of_large_payloads_gives_them_in_parts_and_says_so);
        $crate::broken_rows!($database, records: a_broken_agent_leaves_the_others_alone,
            a_broken_token_admits_nobody_and_leaves_the_others_alone,
            a_broken_document_leaves_the_others_alone_and_can_be_written_over,
            a_key_that_is_no_text_is_left_out);
    };
    ($database:ty, $scenes:ident: $($scene:ident),+) => {$(
        #[tokio::test]
        async fn $scene() {
            $crate::broken::$scenes::$scene::<$database>().await;
        }
    )+};
}

/// A store with an agent and its session.
pub(crate) struct Bed<D> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) agent: AgentId,
    pub(crate) session: SessionRef,
    pub(crate) database: D,
}

impl<D: Database> Bed<D> {
    pub(crate) async fn new() -> Self {
        let mut bed = Self::empty().await;
        bed.agent = admit(&*bed.store, 1).await;
        bed.session = attach(&*bed.store, &bed.agent, 1, Vec::new()).await.session;
        bed
    }

    /// The same before the agent was there.
    pub(crate) async fn empty() -> Self {
        let (store, database) = D::open().await;
        let session = SessionRef { id: SessionId::from_parts(NOW, 1), link: 1 };
        Self { store, agent: agent(1).id, session, database }
    }

    /// Enqueues the jobs 1 to `jobs`, whose numbers within the database are the same.
    pub(crate) async fn enqueue(&self, jobs: u128) {
        self.store.enqueue((1..=jobs).map(job).collect(), NOW).await.unwrap();
    }

    pub(crate) async fn damage(&mut self, statement: &str) {
        assert_ne!(self.database.change(statement).await, 0, "{statement}");
    }

    pub(crate) async fn claim(&self, limit: u32) -> Claimed {
        let taker = Taker { session: self.session, limit };
        let group = ClaimGroup { lanes: vec![lane().id()], takers: vec![taker] };
        self.store.claim(vec![group], NOW).await.unwrap()
    }

    pub(crate) async fn settle(&self, runs: &[RunRef], outcome: Outcome) -> Vec<Verdict> {
        let write = |run: &RunRef| RunWrite {
            session: self.session.id,
            run: *run,
            report: Report::Settle(outcome.clone()),
        };
        let reported = self.store.report(runs.iter().map(write).collect(), NOW).await.unwrap();
        reported.into_iter().map(|reported| reported.verdict).collect()
    }

    pub(crate) async fn state(&mut self, seq: i64) -> i64 {
        let query = format!("SELECT CAST(state AS text) FROM mamos_job WHERE seq = {seq}");
        self.database.text(&query).await.parse().unwrap()
    }

    /// The code and the message.
    pub(crate) async fn failure(&mut self, seq: i64) -> (String, String) {
        let query = format!("SELECT code || '|' || message FROM mamos_failure WHERE seq = {seq}");
        let found = self.database.text(&query).await;
        let (code, message) = found.split_once('|').unwrap();
        (code.to_owned(), message.to_owned())
    }
}

pub(crate) fn lane() -> Arc<Lane> {
    Arc::new(Lane::new("mail".parse().unwrap(), "mail.send".parse().unwrap(), Selector::any()))
}

pub(crate) fn job(n: u128) -> NewJob {
    NewJob {
        timeout: Some(Duration::from_secs(7)),
        ..NewJob::new(JobId::from_parts(NOW, n), lane(), Bytes::from(format!("payload {n}")))
    }
}

pub(crate) fn token(n: u8) -> RegistrationToken {
    RegistrationToken {
        id: TokenId::from_parts(NOW, u128::from(n)),
        hash: [n; 32],
        expires_at: NOW + Duration::from_secs(30),
        uses_left: 5,
        agent_kind: None,
        agent_name: None,
        labels: Labels::default(),
        created_at: NOW,
    }
}

pub(crate) fn agent(n: u8) -> AgentRecord {
    AgentRecord {
        id: AgentId::from_parts(kind(), NOW, u128::from(n)),
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
    }
}

fn kind() -> AgentKind {
    AgentKind::new("kit").unwrap()
}

fn profile() -> AgentProfile {
    AgentProfile::new(kind(), "an agent of a test")
}

pub(crate) async fn admit(store: &dyn Store, n: u8) -> AgentId {
    store.create_token(token(n)).await.unwrap();
    store.redeem([n; 32], agent(n), NOW).await.unwrap().id
}

pub(crate) async fn attach(store: &dyn Store, agent: &AgentId, fresh: u128, known: Vec<RunRef>) -> Attached {
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

pub(crate) fn jobs(claimed: Claimed) -> Vec<ClaimedJob> {
    claimed.jobs.into_iter().flat_map(|(_, jobs)| jobs).collect()
}

pub(crate) fn ids(jobs: &[ClaimedJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.run.job).collect()
}
