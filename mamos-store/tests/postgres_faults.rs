//! Several orchestrators on one database, and a server that goes away under load.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::Timestamp;
use mamos_core::hint::Heard;
use mamos_core::id::{AgentId, AgentKind, JobId, SessionId, TokenId};
use mamos_core::job::labels::{Labels, Selector};
use mamos_core::job::lane::Lane;
use mamos_core::job::{CancelRequest, NewJob, Outcome};
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{
    Attach, CancelVerdict, ClaimGroup, EnqueueResult, JobStore, Report, RunWrite, SessionStore, Store, Taker,
    TokenStore,
};
use mamos_core::{ErrorKind, JobState};
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::{PostgresSchema, PostgresServer};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const TTL: Duration = Duration::from_secs(3600);

fn lane() -> Arc<Lane> {
    Arc::new(Lane::new("mail".parse().unwrap(), "mail.send".parse().unwrap(), Selector::any()))
}

fn job(n: u128) -> NewJob {
    NewJob::new(JobId::from_parts(NOW, n), lane(), Bytes::from(format!("payload {n}")))
}

fn kind() -> AgentKind {
    AgentKind::new("kit").unwrap()
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
        id: AgentId::from_parts(kind(), NOW, u128::from(n)),
        state: AgentState::Registered,
        profile: AgentProfile::new(kind(), "an agent of a test"),
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

async fn attach(
    store: &PostgresStore,
    agent: &AgentId,
    fresh: u128,
    known: Vec<RunRef>,
) -> mamos_core::store::Attached {
    let request = Attach {
        agent: agent.clone(),
        profile: AgentProfile::new(kind(), "an agent of a test"),
        resume: None,
        fresh: SessionId::from_parts(NOW, fresh),
        known,
        ttl: TTL,
        orchestrator: "test".to_owned(),
    };
    store.attach(request, NOW).await.unwrap()
}

async fn claim(store: &PostgresStore, session: SessionRef, limit: u32) -> mamos_core::Result<Vec<RunRef>> {
    let group = ClaimGroup { lanes: vec![lane().id()], takers: vec![Taker { session, limit }] };
    let claimed = store.claim(vec![group], NOW).await?;
    Ok(claimed.jobs.into_iter().flat_map(|(_, jobs)| jobs).map(|job| job.run).collect())
}

fn settle(session: SessionRef, run: RunRef) -> RunWrite {
    RunWrite { session: session.id, run, report: Report::Settle(Outcome::Succeeded { output: Bytes::new() }) }
}

/// Four orchestrators take from one database, report, cancel, renew and attach, in overlapping batches
/// and orders of their own. Whatever deadlocks they make of that must be nobody's business.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_orchestrators_take_each_job_once_and_see_no_deadlock() {
    const JOBS: u128 = 2000;
    const STORES: u128 = 4;
    let schema = PostgresSchema::unique();
    let settings = PostgresSettings::new(schema.url()).schema(schema.name()).connections(3);
    let first = PostgresStore::open(settings.clone()).await.unwrap();
    for part in (1..=JOBS).collect::<Vec<_>>().chunks(500) {
        first.enqueue(part.iter().copied().map(job).collect(), NOW).await.unwrap();
    }
    let taken: Arc<Mutex<HashSet<RunRef>>> = Arc::default();
    let mut tasks = Vec::new();
    for n in 0..STORES {
        let (settings, taken) = (settings.clone(), Arc::clone(&taken));
        tasks.push(tokio::spawn(async move {
            let store = Arc::new(PostgresStore::open(settings).await.unwrap());
            let agent = admit(&store, n as u8 + 1).await;
            let mut session = attach(&store, &agent, n * 1000 + 1, Vec::new()).await.session;
            let mut round = 0;
            loop {
                round += 1;
                let runs = claim(&store, session, 37).await.unwrap();
                if runs.is_empty() {
                    break;
                }
                for run in &runs {
                    assert!(taken.lock().unwrap().insert(*run), "{run:?} was given twice");
                }
                // The same jobs in another order from another task, which locks them at the same time.
                let (canceller, mut ids) =
                    (Arc::clone(&store), runs.iter().map(|run| run.job).collect::<Vec<_>>());
                ids.reverse();
                let cancelling = tokio::spawn(async move {
                    let request = CancelRequest { reason: "a test".to_owned(), grace: Duration::ZERO };
                    canceller.cancel(ids, request, NOW).await.unwrap()
                });
                if round % 5 == 0 {
                    let known = runs.clone();
                    session = attach(&store, &agent, n * 1000 + round, known).await.session;
                }
                assert_eq!(store.renew(vec![session], TTL, NOW).await.unwrap(), [Verdict::Applied]);
                let (writes, others) = runs.split_at(runs.len() / 2);
                let write =
                    |runs: &[RunRef]| runs.iter().rev().map(|run| settle(session, *run)).collect::<Vec<_>>();
                let (a, b, swept) = tokio::join!(
                    store.report(write(writes), NOW),
                    store.report(write(others), NOW),
                    store.sweep(50, NOW)
                );
                swept.unwrap();
                for reported in a.unwrap().into_iter().chain(b.unwrap()) {
                    assert_eq!(
                        (reported.verdict, reported.state),
                        (Verdict::Applied, Some(JobState::Succeeded))
                    );
                }
                for verdict in cancelling.await.unwrap() {
                    assert!(
                        !matches!(verdict, CancelVerdict::Missing | CancelVerdict::Cancelled),
                        "{verdict:?}"
                    );
                }
            }
            store.close().await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(taken.lock().unwrap().len(), JOBS as usize);
    assert_eq!(schema.sql("SELECT count(*) FROM mamos_job WHERE state = 5"), JOBS.to_string());
}

/// A claim and a new link of the same agent at the same time: the jobs belong to the new session or were never
/// given, and none is left with the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_races_a_new_link_leaves_nothing_with_the_old_session() {
    let schema = PostgresSchema::unique();
    let settings = PostgresSettings::new(schema.url()).schema(schema.name()).connections(3);
    let one = PostgresStore::open(settings.clone()).await.unwrap();
    let other = PostgresStore::open(settings).await.unwrap();
    one.enqueue((1..=400).map(job).collect(), NOW).await.unwrap();
    let agent = admit(&one, 1).await;
    let mut session = attach(&one, &agent, 1, Vec::new()).await.session;
    for round in 2..40 {
        let (claimed, attached) =
            tokio::join!(claim(&one, session, 5), attach(&other, &agent, round, Vec::new()));
        claimed.unwrap();
        session = attached.session;
        let stray = "SELECT count(*) FROM mamos_job j JOIN mamos_session s ON s.no = j.session \
                     WHERE j.state IN (3, 4) AND s.ended IS NOT NULL";
        assert_eq!(schema.sql(stray), "0", "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_server_that_is_killed_under_load() {
    let mut server = PostgresServer::start();
    let store = Arc::new(PostgresStore::open(PostgresSettings::new(server.url())).await.unwrap());
    let mut listener = store.hints().unwrap().listen().await.unwrap();
    let acknowledged: Arc<Mutex<Vec<JobId>>> = Arc::default();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut callers = Vec::new();
    for caller in 0..8_u128 {
        let (store, acknowledged, stopped) = (Arc::clone(&store), Arc::clone(&acknowledged), stopped.clone());
        callers.push(tokio::spawn(async move {
            let mut n = caller * 1_000_000;
            while !*stopped.borrow() {
                n += 1;
                // As the engine does: what was not acknowledged is asked again.
                match store.enqueue(vec![job(n)], NOW).await {
                    Ok(stored) => {
                        let result = stored[0].result;
                        assert!(
                            matches!(result, EnqueueResult::Stored(_) | EnqueueResult::Repeat(_)),
                            "{result:?}"
                        );
                        acknowledged.lock().unwrap().push(job(n).id);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                        n -= 1;
                        tokio::task::yield_now().await;
                    }
                }
            }
        }));
    }
    let reached = async |count: usize| {
        while acknowledged.lock().unwrap().len() < count {
            tokio::task::yield_now().await;
        }
    };
    reached(200).await;
    for fault in ["killed connections", "killed server"] {
        let before = acknowledged.lock().unwrap().len();
        match fault {
            "killed connections" => server.kill_backends(),
            _ => {
                server.stop_immediately();
                server.resume();
            }
        }
        let back = Instant::now();
        reached(before + 100).await;
        assert!(back.elapsed() < Duration::from_secs(5), "{fault}: work goes on after {:?}", back.elapsed());
        // The listener says that it may have missed something, and hears again.
        let heard = tokio::time::timeout(Duration::from_secs(20), listener.next()).await.unwrap();
        assert_eq!(heard, Heard::Gap, "{fault}");
        store.hints().unwrap().tell(vec![Bytes::from_static(b"here")]).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(20), listener.next()).await.unwrap();
        assert_eq!(heard, Heard::Hint(Bytes::from_static(b"here")), "{fault}");
    }
    stop.send(true).unwrap();
    for caller in callers {
        caller.await.unwrap();
    }
    let stored = server.sql("SELECT id FROM mamos.mamos_job");
    let stored: HashSet<&str> = stored.lines().collect();
    for id in acknowledged.lock().unwrap().iter() {
        assert!(stored.contains(id.as_uuid().to_string().as_str()), "{id} was acknowledged and is lost");
    }
    store.close().await;
    assert_eq!(listener.next().await, Heard::Closed);
}
