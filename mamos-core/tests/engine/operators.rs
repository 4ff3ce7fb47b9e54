//! What operators do and see.

use std::time::Duration;

use mamos_core::event::What;
use mamos_core::job::{Failure, Outcome};
use mamos_core::orchestrator::{Busy, Seen, WaitsFor};
use mamos_core::protocol::{FromAgent, RunEvent, ToAgent};
use mamos_core::store::{CancelVerdict, ChangeVerdict, JobFilter, PageRequest};
use mamos_core::{ErrorKind, JobId, JobState};

use crate::scene::{Double, Scene, TestAgent, hello};

const GRACE: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn why_says_what_a_job_waits_for() {
    let scene = Scene::new();
    let orchestrator = &scene.orchestrator;
    let why = async |id: JobId| orchestrator.why(id).await.unwrap().waits_for;
    let blocked = orchestrator.enqueue(Double { number: 0 }).needs_approval().await.unwrap().id();
    assert_eq!(why(blocked).await, WaitsFor::Approval);
    let later = orchestrator.enqueue(Double { number: 0 }).delay(Duration::from_secs(60)).await.unwrap().id();
    assert!(matches!(why(later).await, WaitsFor::Time { .. }));
    let job = orchestrator.enqueue(Double { number: 1 }).await.unwrap().id();
    assert_eq!(why(job).await, WaitsFor::AgentOfKind("math.double".parse().unwrap()));
    let gpu = orchestrator.enqueue(Double { number: 2 }).on("zone=eu,gpu").await.unwrap().id();

    let mut agent = scene.agent_with("a", |profile| profile.slots = 1).await;
    let id = agent.welcome.agent.clone();
    assert_eq!(why(gpu).await, WaitsFor::MatchingAgent { unmet: vec![(id.clone(), "gpu".to_owned())] });
    let run = agent.jobs(1).await[0].run;
    assert_eq!(run.job, job);
    assert_eq!(why(job).await, WaitsFor::Start { agent: Some(id.clone()) });
    agent.report(vec![(run, RunEvent::Started)]).await;
    agent.recorded().await;
    assert!(matches!(why(job).await, WaitsFor::End { is_cancel_requested: false, since: Some(_), .. }));

    // One more is prefetched; the next has to wait.
    orchestrator.enqueue(Double { number: 3 }).await.unwrap();
    agent.jobs(1).await;
    let third = orchestrator.enqueue(Double { number: 4 }).await.unwrap().id();
    assert_eq!(why(third).await, WaitsFor::FreeSlot { agents: vec![(id.clone(), Busy::Full)] });
    orchestrator.pause(&"default".parse().unwrap()).await.unwrap();
    assert_eq!(why(third).await, WaitsFor::PausedQueue("default".parse().unwrap()));
    orchestrator.resume(&"default".parse().unwrap()).await.unwrap();
    orchestrator.drain_agent(&id).await.unwrap();
    assert_eq!(why(third).await, WaitsFor::FreeSlot { agents: vec![(id, Busy::Draining)] });

    let failure = Failure::new("smtp", "no route");
    agent.report(vec![(run, RunEvent::Ended(Outcome::Retry { failure, after: None }))]).await;
    agent.recorded().await;
    let WaitsFor::Backoff { attempt: 2, failure: Some(failure), .. } = why(job).await else {
        panic!("backing off")
    };
    assert_eq!(failure, "smtp: no route");
    orchestrator.cancel(later, "", GRACE).await.unwrap();
    assert_eq!(why(later).await, WaitsFor::Nothing);
    assert_eq!(orchestrator.why(JobId::from_key("none")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_running_work_with_its_grace() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    let verdict = scene.orchestrator.cancel(handle.id(), "wrong number", GRACE).await.unwrap();
    assert!(matches!(verdict, CancelVerdict::Requested { .. }));
    agent.expect(|message| (message == ToAgent::Cancel { run, grace: GRACE }).then_some(())).await;
    agent.report(vec![(run, RunEvent::Ended(Outcome::Cancelled))]).await;
    let error = handle.wait().await.unwrap_err();
    assert!(error.to_string().contains("wrong number"), "{error}");
    let again = scene.orchestrator.cancel(handle.id(), "again", GRACE).await.unwrap();
    assert_eq!(again, CancelVerdict::AlreadyEnded(JobState::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_job_is_cancelled_at_once_and_its_waiters_are_told() {
    let scene = Scene::new();
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.wait().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(scene.orchestrator.cancel(handle.id(), "", GRACE).await.unwrap(), CancelVerdict::Cancelled);
    waiting.await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_dead_job_can_be_redriven_and_a_blocked_one_approved() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).needs_approval().await.unwrap();
    assert!(agent.hears_nothing().await);
    scene.orchestrator.approve(vec![handle.id()]).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    let failure = Failure::new("gone", "for good");
    agent.report(vec![(run, RunEvent::Ended(Outcome::Bury { failure }))]).await;
    handle.wait().await.unwrap_err();
    let verdicts = scene.orchestrator.redrive(vec![handle.id(), JobId::from_key("none")]).await.unwrap();
    assert!(matches!(verdicts[..], [ChangeVerdict::Ready(_), ChangeVerdict::Missing]));
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "2").await;
    assert_eq!(handle.wait().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_gives_nothing_until_it_goes_on() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let mail = "mail".parse().unwrap();
    scene.orchestrator.pause(&mail).await.unwrap();
    scene.orchestrator.enqueue(Double { number: 1 }).queue("mail").await.unwrap();
    assert!(agent.hears_nothing().await);
    scene.orchestrator.resume(&mail).await.unwrap();
    agent.jobs(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_agent_is_told_and_gets_nothing_new_even_when_it_comes_back() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = agent.welcome.agent.clone();
    scene.orchestrator.drain_agent(&id).await.unwrap();
    agent.expect(|message| (message == ToAgent::Drain).then_some(())).await;
    scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    assert!(agent.hears_nothing().await);
    let mut agent = agent.reconnect(&scene.connector, vec![], true).await;
    agent.expect(|message| (message == ToAgent::Drain).then_some(())).await;
    assert!(agent.hears_nothing().await);
    scene.orchestrator.undrain_agent(&id).await.unwrap();
    let mut agent = agent.reconnect(&scene.connector, vec![], true).await;
    agent.jobs(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_orchestrator_takes_jobs_hands_out_none_and_waits_for_what_goes_on() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    assert_eq!(scene.orchestrator.drain(GRACE).await, 1, "the limit is over and the run goes on");
    scene.orchestrator.enqueue(Double { number: 2 }).await.unwrap();
    assert!(agent.hears_nothing().await);
    let draining = tokio::spawn({
        let orchestrator = scene.orchestrator.clone();
        async move { orchestrator.drain(GRACE * 1000).await }
    });
    agent.succeed(run, "2").await;
    assert_eq!(draining.await.unwrap(), 0);
    scene.orchestrator.undrain();
    agent.jobs(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_decommissioned_agent_loses_its_link_its_work_and_its_way_back() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = agent.welcome.agent.clone();
    scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    agent.jobs(1).await;
    scene.orchestrator.decommission_agent(&id).await.unwrap();
    agent
        .expect(|message| match message {
            ToAgent::Refused { is_final: true, message } => Some(message),
            _ => None,
        })
        .await;
    assert_eq!(agent.next().await, None);
    let refused = TestAgent::try_connect(&scene.connector, hello(agent.papers.clone())).await.unwrap_err();
    assert!(refused.contains("decommissioned"), "{refused}");
    let before = tokio::time::Instant::now();
    let mut other = scene.agent("b", 1).await;
    other.jobs(1).await;
    assert!(before.elapsed() < Duration::from_secs(3));
    let again = scene.orchestrator.decommission_agent(&id).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_story_of_a_job() {
    let scene = Scene::new();
    let mut events = scene.orchestrator.events();
    let mut agent = scene.agent("a", 1).await;
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.report(vec![(run, RunEvent::Started)]).await;
    agent.succeed(run, "2").await;
    handle.wait().await.unwrap();
    let mut story = Vec::new();
    let mut last = 0;
    loop {
        let Some(Seen::Event(event)) = events.next().await else { panic!("missed events") };
        assert_eq!(event.seq, last + 1);
        last = event.seq;
        let name = format!("{:?}", event.what);
        story.push(name.split([' ', '{']).next().unwrap().to_owned());
        if matches!(event.what, What::JobSettled { .. }) {
            break;
        }
    }
    let expected =
        ["AgentRegistered", "AgentConnected", "JobEnqueued", "JobDispatched", "JobStarted", "JobSettled"];
    assert_eq!(story, expected);
}

#[tokio::test(start_paused = true)]
async fn live_agents_show_what_they_said_last() {
    let scene = Scene::new();
    let agent = scene.agent("a", 3).await;
    let load = mamos_core::agent::HostLoad { cpu_percent: 12.5, ..Default::default() };
    let messages =
        vec![FromAgent::Heartbeat { load: Some(Box::new(load.clone())) }, FromAgent::Slots { total: 5 }];
    agent.link.send(messages).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let live = scene.orchestrator.live_agents();
    assert_eq!((live.len(), live[0].slots, live[0].load.clone()), (1, 5, Some(load)));
    let known = scene.orchestrator.agents(PageRequest::default()).await.unwrap();
    assert_eq!(known.items[0].id, agent.welcome.agent);
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_is_stopped_before_it_has_started_stops() {
    let scene = Scene::new();
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_runs_once() {
    let scene = Scene::new();
    tokio::task::yield_now().await;
    let error = scene.orchestrator.run(async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        scene.orchestrator.jobs(JobFilter::default(), PageRequest::default()).await.unwrap().items.is_empty()
    );
}
