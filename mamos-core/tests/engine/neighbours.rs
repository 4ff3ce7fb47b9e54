//! Several orchestrators on one store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::bus::Bus;
use mamos_core::clock::{Clock, SimulatedClock};
use mamos_core::hint::{BusHints, Heard, HintListener, Hints};
use mamos_core::id::TopicName;
use mamos_core::orchestrator::Followed;
use mamos_core::protocol::{FromAgent, RunEvent, ToAgent};
use mamos_core::store::{CancelVerdict, Store};
use mamos_core::{JobState, Orchestrator, Result};
use mamos_store::MemoryStore;
use mamos_store::faulty::{Faults, Faulty};
use mamos_transport::bus::MemoryBus;
use tokio::time::Instant;

use crate::scene::{Double, START, Scene, TTL, TestAgent, hello};

/// What is told is known well before anybody looks again by itself.
const AT_ONCE: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_secs(2);

/// Two orchestrators that know of each other.
async fn two() -> (Scene, Scene) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock = Arc::new(SimulatedClock::starting_at(START));
    let one = Scene::with(Arc::clone(&store), Arc::clone(&clock), |builder| builder.name("one"));
    let two = Scene::with(store, clock, |builder| builder.name("two").seed(8));
    let both = (one, two);
    // Both have said that they are there.
    tokio::time::sleep(Duration::from_millis(10)).await;
    both
}

#[tokio::test(start_paused = true)]
async fn a_job_is_run_at_once_by_an_agent_of_another_orchestrator() {
    let (one, two) = two().await;
    let mut agent = two.agent("a", 4).await;
    let began = Instant::now();
    let job = one.orchestrator.enqueue(Double { number: 4 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    assert_eq!(run.job, job.id());
    agent.succeed(run, "8").await;
    assert_eq!(job.wait().await.unwrap(), 8);
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_only_enqueues_is_heard_too() {
    let (one, two) = two().await;
    let mut agent = two.agent("a", 4).await;
    let enqueues = Orchestrator::builder(Arc::clone(&one.store))
        .clock(Arc::clone(&one.clock) as Arc<dyn Clock>)
        .name("enqueues")
        .seed(9)
        .build()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    let job = enqueues.enqueue(Double { number: 5 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "10").await;
    assert_eq!(job.wait().await.unwrap(), 10);
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_job_prints_elsewhere_is_followed_as_it_comes() {
    let (one, two) = two().await;
    let mut agent = two.agent("a", 1).await;
    let job = one.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    let mut follower = one.orchestrator.follow_log(job.id(), None, 0);
    assert!(matches!(follower.next().await.unwrap(), Some(Followed::Attempt { .. })));
    let began = Instant::now();
    let print = async {
        // The follower has looked by now, and found nothing.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (stream, bytes) = (mamos_core::agent::LogStream::Stdout, Bytes::from_static(b"hello"));
        agent.report(vec![(run, RunEvent::Log { offset: 0, stream, bytes })]).await;
    };
    let (next, ()) = tokio::join!(follower.next(), print);
    assert!(matches!(next.unwrap(), Some(Followed::Piece { piece, .. }) if piece.bytes == "hello"));
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_work_that_runs_elsewhere() {
    let (one, two) = two().await;
    let mut agent = two.agent("a", 1).await;
    let job = one.orchestrator.enqueue(Double { number: 1 }).await.unwrap().id();
    let run = agent.jobs(1).await[0].run;
    let began = Instant::now();
    let verdict = one.orchestrator.cancel(job, "no longer needed", GRACE).await.unwrap();
    assert!(matches!(verdict, CancelVerdict::Requested { run: asked, .. } if asked == run));
    let (cancelled, grace) = agent
        .expect(|message| match message {
            ToAgent::Cancel { run, grace } => Some((run, grace)),
            _ => None,
        })
        .await;
    assert_eq!((cancelled, grace), (run, GRACE));
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_revoked_elsewhere_loses_its_link_and_its_work_at_once() {
    let (one, two) = two().await;
    let mut agent = two.agent("a", 1).await;
    one.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let job = agent.jobs(1).await[0].run.job;
    let began = Instant::now();
    one.orchestrator.revoke_agent(&agent.welcome.agent, "it was stolen").await.unwrap();
    let message = agent
        .expect(|message| match message {
            ToAgent::Refused { is_final: true, message } => Some(message),
            _ => None,
        })
        .await;
    assert!(message.contains("it was stolen"), "{message}");
    assert!(agent.next().await.is_none(), "its link ends");
    let mut other = one.agent("b", 1).await;
    assert_eq!(other.jobs(1).await[0].run.job, job);
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn labels_and_draining_that_are_set_elsewhere_count_at_once() {
    let (one, two) = two().await;
    let mut agent = two.agent("a", 2).await;
    let id = agent.welcome.agent.clone();
    let began = Instant::now();
    let job = one.orchestrator.enqueue(Double { number: 1 }).on("canary").await.unwrap().id();
    let record = one.orchestrator.agent(&id).await.unwrap();
    let labels = mamos_core::job::labels::Labels::new([("canary", "")]).unwrap();
    one.orchestrator.label_agent(&id, labels, record.revision).await.unwrap();
    assert_eq!(agent.jobs(1).await[0].run.job, job);
    one.orchestrator.drain_agent(&id).await.unwrap();
    agent.expect(|message| matches!(message, ToAgent::Drain).then_some(())).await;
    one.orchestrator.enqueue(Double { number: 2 }).await.unwrap();
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    assert!(agent.hears_nothing().await);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_goes_on_elsewhere_goes_on_here() {
    let (one, two) = two().await;
    let mut agent = two.agent("a", 1).await;
    let queue = "default".parse().unwrap();
    one.orchestrator.pause(&queue).await.unwrap();
    one.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    assert!(agent.hears_nothing().await);
    let began = Instant::now();
    one.orchestrator.resume(&queue).await.unwrap();
    agent.jobs(1).await;
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_moves_keeps_its_work_and_its_old_link_ends() {
    let (one, two) = two().await;
    let mut before = one.agent("a", 1).await;
    let job = one.orchestrator.enqueue(Double { number: 3 }).await.unwrap();
    let run = before.jobs(1).await[0].run;
    before.report(vec![(run, RunEvent::Started)]).await;
    before.recorded().await;
    // Its old link hangs half open: nothing closes it from the agent's side.
    let mut again = hello(before.papers.clone());
    (again.session, again.runs) = (Some(before.session()), vec![run]);
    let began = Instant::now();
    let mut after = TestAgent::connect(&two.connector, again).await;
    assert!(after.welcome.is_resumed);
    while before.next().await.is_some() {}
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    assert_eq!(one.orchestrator.session_count(), 0);
    after.succeed(run, "6").await;
    assert_eq!(after.recorded().await, []);
    assert_eq!(job.wait().await.unwrap(), 6);
    assert_eq!(one.orchestrator.job(job.id()).await.unwrap().counters.crashes, 0);
}

#[tokio::test(start_paused = true)]
async fn what_starts_again_takes_nothing_from_an_agent_that_has_moved() {
    let (one, two) = two().await;
    let mut agent = one.agent("a", 1).await;
    one.orchestrator.enqueue(Double { number: 3 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    let session = agent.session();
    let (store, clock) = one.stop().await;
    let mut again = hello(agent.papers.clone());
    (again.session, again.runs) = (Some(session), vec![run]);
    let mut agent = TestAgent::connect(&two.connector, again).await;
    let _one = Scene::with(store, clock, |builder| builder.name("one"));
    tokio::time::sleep(TTL / 2).await;
    agent.succeed(run, "6").await;
    assert_eq!(agent.recorded().await, [], "it still has the run");
}

#[tokio::test(start_paused = true)]
async fn the_agents_of_an_orchestrator_that_died_lose_nothing_to_the_others_within_their_lease() {
    let (one, two) = two().await;
    let mut agent = one.agent("a", 1).await;
    one.orchestrator.enqueue(Double { number: 3 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.report(vec![(run, RunEvent::Started)]).await;
    agent.recorded().await;
    one.kill().await;
    tokio::time::sleep(TTL / 2).await;
    let mut idle = two.agent("b", 1).await;
    assert!(idle.hears_nothing().await);
    let mut again = hello(agent.papers.clone());
    (again.session, again.runs) = (Some(agent.session()), vec![run]);
    let mut agent = TestAgent::connect(&two.connector, again).await;
    assert!(agent.welcome.is_resumed);
    agent.succeed(run, "6").await;
    assert_eq!(agent.recorded().await, []);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_comes_back_is_rescued_by_whoever_is_left() {
    let (one, two) = two().await;
    let mut agent = one.agent("a", 1).await;
    let mut other = two.agent("b", 1).await;
    one.orchestrator.enqueue(Double { number: 3 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    drop(agent);
    one.kill().await;
    let began = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(TTL / 3).await;
        other.link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
    }
    let again = other.jobs(1).await.remove(0);
    assert_eq!(again.run.job, run.job);
    assert!(began.elapsed() < TTL + Duration::from_secs(2), "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_hoards_what_an_idle_agent_elsewhere_could_run() {
    let (one, two) = two().await;
    let mut busy = one.agent("a", 1).await;
    for number in 0..2 {
        one.orchestrator.enqueue(Double { number }).await.unwrap();
    }
    // Nobody else is there: it gets one to run and one to wait.
    let jobs = busy.jobs(2).await;
    busy.report(vec![(jobs[0].run, RunEvent::Started)]).await;
    busy.recorded().await;
    let mut idle = two.agent("b", 1).await;
    let retracted = busy
        .expect(|message| match message {
            ToAgent::Retract { runs } => Some(runs),
            _ => None,
        })
        .await;
    assert_eq!(retracted, [jobs[1].run]);
    busy.report(vec![(jobs[1].run, RunEvent::Released)]).await;
    assert_eq!(idle.jobs(1).await[0].run.job, jobs[1].run.job);
    idle.report(vec![(retracted[0], RunEvent::Started)]).await;
    // Both are busy now: after a while both get something to wait for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for number in 2..4 {
        one.orchestrator.enqueue(Double { number }).await.unwrap();
    }
    busy.jobs(1).await;
    idle.jobs(1).await;
}

#[tokio::test(start_paused = true)]
async fn what_hints_would_have_said_is_found_out_without_them() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock = Arc::new(SimulatedClock::starting_at(START));
    let deaf = |name: &'static str, seed| {
        Scene::with(Arc::clone(&store), Arc::clone(&clock), |builder| {
            builder.name(name).seed(seed).hints(Arc::new(Lost))
        })
    };
    let (one, two) = (deaf("one", 7), deaf("two", 8));
    let mut agent = two.agent("a", 2).await;
    let began = Instant::now();
    let job = one.orchestrator.enqueue(Double { number: 4 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "8").await;
    assert_eq!(job.wait().await.unwrap(), 8);
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    // A cancel comes with the next report, a revocation with the next renewal of the token or the lease.
    let job = one.orchestrator.enqueue(Double { number: 4 }).await.unwrap().id();
    let run = agent.jobs(1).await[0].run;
    one.orchestrator.cancel(job, "", GRACE).await.unwrap();
    agent.report(vec![(run, RunEvent::Started)]).await;
    assert_eq!(agent.recorded().await, [(run, mamos_core::lease::Verdict::CancelRequested)]);
    one.orchestrator.revoke_agent(&agent.welcome.agent, "").await.unwrap();
    agent.link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
    tokio::time::sleep(TTL / 3).await;
    agent.link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
    while agent.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn hints_go_over_a_bus_just_as_well() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock = Arc::new(SimulatedClock::starting_at(START));
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let over_bus = |name: &'static str, seed| {
        let hints = BusHints::new(Arc::clone(&bus), TopicName::new("hints").unwrap());
        Scene::with(Arc::clone(&store), Arc::clone(&clock), |builder| {
            builder.name(name).seed(seed).hints(Arc::new(hints))
        })
    };
    let (one, two) = (over_bus("one", 7), over_bus("two", 8));
    let mut agent = two.agent("a", 4).await;
    let began = Instant::now();
    let job = one.orchestrator.enqueue(Double { number: 4 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "8").await;
    assert_eq!(job.wait().await.unwrap(), 8);
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_strangers_tell_harms_nobody() {
    let (one, two) = two().await;
    let hints = one.store.hints().unwrap();
    for hint in [&b""[..], b"\xff\xff\xff", &[0x93; 4096], &[0xdf; 100]] {
        hints.tell(vec![Bytes::copy_from_slice(hint); 100]).await.unwrap();
    }
    let mut agent = two.agent("a", 4).await;
    let job = one.orchestrator.enqueue(Double { number: 4 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "8").await;
    assert_eq!(job.wait().await.unwrap(), 8);
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_whose_clock_is_an_hour_off_steals_nothing() {
    let of_server: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(START));
    let quiet = Faults { error_before: 0.0, error_after: 0.0, delay: 0.0, ..Faults::default() };
    let store = Faulty::new(MemoryStore::new(), quiet, 1).with_clock(Arc::clone(&of_server));
    let store: Arc<dyn Store> = Arc::new(store);
    let right = Arc::new(SimulatedClock::starting_at(START));
    let ahead = Arc::new(SimulatedClock::starting_at(START + Duration::from_secs(3600)));
    let one = Scene::with(Arc::clone(&store), right, |builder| builder.name("one"));
    let mut agent = one.agent("a", 1).await;
    one.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    let two = Scene::with(store, ahead, |builder| builder.name("two").seed(8));
    let mut other = two.agent("b", 1).await;
    assert!(other.hears_nothing().await, "the lease of the first one still holds");
    let later = two.orchestrator.enqueue(Double { number: 2 }).delay(Duration::from_secs(1)).await.unwrap();
    let record = later.record().await.unwrap();
    assert!(record.run_at.since(of_server.now()) <= Duration::from_secs(1), "{}", record.run_at);
    assert!(two.orchestrator.now().since(of_server.now()) < Duration::from_millis(1));
    agent.succeed(run, "2").await;
    assert_eq!(agent.recorded().await, []);
    assert_eq!(one.orchestrator.wait(run.job).await.unwrap().state, JobState::Succeeded);
}

/// Hints that never arrive.
#[derive(Debug)]
struct Lost;

#[async_trait]
impl Hints for Lost {
    async fn tell(&self, _: Vec<Bytes>) -> Result<()> {
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn HintListener>> {
        Ok(Box::new(Self))
    }

    fn describe(&self) -> String {
        "lost".to_owned()
    }
}

#[async_trait]
impl HintListener for Lost {
    async fn next(&mut self) -> Heard {
        std::future::pending().await
    }
}
