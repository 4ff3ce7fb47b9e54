//! Jobs on their way through the engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::{Failure, NewJob, Outcome};
use mamos_core::lease::{Epoch, RunRef, Verdict};
use mamos_core::orchestrator::WaitError;
use mamos_core::protocol::{RunEvent, ToAgent};
use mamos_core::store::EnqueueResult;
use mamos_core::{ErrorKind, JobId, JobState};

use crate::scene::{Double, Scene, TTL};

#[tokio::test(start_paused = true)]
async fn a_job_reaches_an_agent_and_its_output_comes_back() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let handle = scene.orchestrator.enqueue(Double { number: 21 }).queue("maths").await.unwrap();
    let job = agent.jobs(1).await.remove(0);
    assert_eq!(&job.payload[..], br#"{"number":21}"#);
    agent.report(vec![(job.run, RunEvent::Started)]).await;
    agent.succeed(job.run, "42").await;
    assert_eq!(handle.wait().await.unwrap(), 42);
    assert_eq!(agent.recorded().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_agent_never_gets_more_than_its_slots_and_the_prefetch() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 2).await;
    for number in 0..10 {
        scene.orchestrator.enqueue(Double { number }).await.unwrap();
    }
    // The prefetch is at most as large as the slots.
    let jobs = agent.jobs(4).await;
    assert!(agent.hears_nothing().await);
    agent.succeed(jobs[0].run, "0").await;
    agent.jobs(1).await;
    assert!(agent.hears_nothing().await);
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_comes_back_after_its_delay_and_is_given_up_at_last() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let retry = RetryPolicy::fixed(2, Duration::from_secs(10));
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).retry(retry).await.unwrap();
    for attempt in 1..=2 {
        let before = tokio::time::Instant::now();
        let job = agent.jobs(1).await.remove(0);
        assert_eq!(job.counters.attempt, attempt);
        assert_eq!(before.elapsed() >= Duration::from_secs(10), attempt == 2);
        let failure = Failure::new("smtp", "no route");
        agent.report(vec![(job.run, RunEvent::Ended(Outcome::Retry { failure, after: None }))]).await;
    }
    let WaitError::Dead(failure) = handle.wait().await.unwrap_err() else { panic!("it is dead") };
    assert_eq!(failure.code, "smtp");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_job_is_dispatched_when_its_time_comes_without_waiting_for_the_next_sweep() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let before = tokio::time::Instant::now();
    scene.orchestrator.enqueue(Double { number: 1 }).delay(Duration::from_millis(1500)).await.unwrap();
    agent.jobs(1).await;
    let waited = before.elapsed();
    assert!(waited >= Duration::from_millis(1500) && waited < Duration::from_millis(1520), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_past_its_deadline_is_buried_and_its_agent_told_to_end_it() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let handle =
        scene.orchestrator.enqueue(Double { number: 1 }).give_up_after(Duration::from_secs(5)).await.unwrap();
    let job = agent.jobs(1).await.remove(0);
    assert_eq!(job.deadline_in, Some(Duration::from_secs(5)));
    agent.report(vec![(job.run, RunEvent::Started)]).await;
    let killed = agent
        .expect(|message| match message {
            ToAgent::Kill { runs } => Some(runs),
            _ => None,
        })
        .await;
    assert_eq!(killed, [job.run]);
    let WaitError::Dead(failure) = handle.wait().await.unwrap_err() else { panic!("it is dead") };
    assert_eq!(failure.code, "deadline");
    agent.succeed(job.run, "2").await;
    assert_eq!(agent.recorded().await, [(job.run, Verdict::Stale)]);
    assert_eq!(handle.record().await.unwrap().state, JobState::Dead);
}

#[tokio::test(start_paused = true)]
async fn reports_about_runs_of_others_change_nothing() {
    let scene = Scene::new();
    let (mut owner, mut thief) = (scene.agent("owner", 1).await, scene.agent("thief", 0x10).await);
    scene.orchestrator.pause(&"default".parse().unwrap()).await.unwrap();
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).on("!nobody").await.unwrap();
    drop(handle);
    scene.orchestrator.resume(&"default".parse().unwrap()).await.unwrap();
    // Whoever got it, the other one tries to settle it.
    let (job, other) = tokio::select! {
        mut jobs = owner.jobs(1) => (jobs.remove(0), &mut thief),
        mut jobs = async { thief.jobs(1).await } => (jobs.remove(0), &mut owner),
    };
    other.succeed(job.run, "666").await;
    let missing = RunRef { job: JobId::from_key("nothing"), epoch: Epoch::from_number(1) };
    other.succeed(missing, "666").await;
    assert_eq!(other.recorded().await, [(job.run, Verdict::Stale), (missing, Verdict::Missing)]);
    assert!(!scene.orchestrator.job(job.run.job).await.unwrap().state.is_final());
}

#[tokio::test(start_paused = true)]
async fn an_output_over_the_limit_buries_the_job_with_a_reason() {
    let scene = Scene::with(
        Arc::new(mamos_store::MemoryStore::new()),
        Arc::new(mamos_core::clock::SimulatedClock::starting_at(crate::scene::START)),
        |builder| builder.max_payload_bytes(64),
    );
    let mut agent = scene.agent("a", 1).await;
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    let output = Bytes::from(vec![b'1'; 65]);
    agent.report(vec![(run, RunEvent::Ended(Outcome::Succeeded { output }))]).await;
    let WaitError::Dead(failure) = handle.wait().await.unwrap_err() else { panic!("it is dead") };
    assert_eq!(failure.code, "output_too_large");
}

#[tokio::test(start_paused = true)]
async fn arguments_over_the_limit_are_refused_and_say_what_to_do() {
    let scene = Scene::new();
    let job = scene.orchestrator.enqueue(Double { number: 1 }).build().unwrap();
    let huge = NewJob { payload: Bytes::from(vec![0; (1 << 20) + 1]), ..job };
    let error = scene.orchestrator.enqueue_all(vec![huge]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.to_string().contains("store large data elsewhere"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn enqueueing_again_under_one_id_is_harmless_and_another_job_under_it_is_refused() {
    let scene = Scene::new();
    let id = JobId::from_key("order-4711");
    let first = scene.orchestrator.enqueue(Double { number: 1 }).id(id).await.unwrap();
    assert_eq!(first.result(), EnqueueResult::Stored(JobState::Ready));
    let again = scene.orchestrator.enqueue(Double { number: 1 }).id(id).await.unwrap();
    assert_eq!(again.result(), EnqueueResult::Repeat(JobState::Ready));
    let error = scene.orchestrator.enqueue(Double { number: 2 }).id(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_unique_job_gives_the_handle_of_the_one_that_is_there() {
    let scene = Scene::new();
    let first = scene.orchestrator.enqueue(Double { number: 1 }).unique("daily").await.unwrap();
    let second = scene.orchestrator.enqueue(Double { number: 2 }).unique("daily").await.unwrap();
    assert_eq!(second.id(), first.id());
    assert_eq!(second.result(), EnqueueResult::UniqueKeyTaken { by: first.id() });
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_valid_are_reported_when_awaited() {
    let scene = Scene::new();
    for enqueue in [
        scene.orchestrator.enqueue(Double { number: 1 }).queue("no spaces"),
        scene.orchestrator.enqueue(Double { number: 1 }).on("=x"),
        scene.orchestrator.enqueue(Double { number: 1 }).unique(""),
        scene.orchestrator.enqueue(Double { number: 1 }).traceparent("bad context"),
    ] {
        assert_eq!(enqueue.await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test(start_paused = true)]
async fn many_callers_at_once_each_get_their_own_answer() {
    let scene = Scene::new();
    let calls = (0..200).map(|number| {
        let orchestrator = scene.orchestrator.clone();
        tokio::spawn(async move {
            let id = JobId::from_key(&number.to_string());
            let handle = orchestrator.enqueue(Double { number }).id(id).await.unwrap();
            assert_eq!(handle.id(), id);
            assert_eq!(
                &handle.record().await.unwrap().spec.payload[..],
                format!("{{\"number\":{number}}}").as_bytes()
            );
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_agent_was_lost_is_given_to_another() {
    let scene = Scene::new();
    let mut first = scene.agent("first", 1).await;
    let handle = scene.orchestrator.enqueue(Double { number: 4 }).await.unwrap();
    let job = first.jobs(1).await.remove(0);
    first.report(vec![(job.run, RunEvent::Started)]).await;
    assert_eq!(first.recorded().await, []);
    let lost_at = tokio::time::Instant::now();
    first.link.close().await;
    tokio::time::sleep(TTL / 2).await;
    let mut second = scene.agent("second", 1).await;
    let again = second.jobs(1).await.remove(0);
    assert!(lost_at.elapsed() >= TTL, "only when its lease is over");
    assert_eq!((again.counters.crashes, again.counters.attempt), (1, 1));
    assert_eq!(again.run.epoch, job.run.epoch.next());
    second.succeed(again.run, "8").await;
    assert_eq!(handle.wait().await.unwrap(), 8);
}
