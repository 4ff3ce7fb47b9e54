//! Links of agents: the handshake, what is resumed, and what hostile peers get.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::agent::LogStream;
use mamos_core::auth::Secret;
use mamos_core::clock::SimulatedClock;
use mamos_core::job::Outcome;
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{FromAgent, RunEvent, RunReport, ToAgent};
use mamos_core::store::SessionStore;
use mamos_core::transport::{Connector, Frame};
use mamos_core::{Error, ErrorKind, JobId, JobState};
use mamos_store::MemoryStore;
use mamos_store::faulty::{Faults, Faulty};

use crate::scene::{Double, Papers, START, Scene, TTL, TestAgent, hello};

fn kill(message: ToAgent) -> Option<Vec<RunRef>> {
    match message {
        ToAgent::Kill { runs } => Some(runs),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_resumes_keeps_what_it_knows_and_loses_what_it_does_not() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 2).await;
    for number in 0..2 {
        scene.orchestrator.enqueue(Double { number }).await.unwrap();
    }
    let jobs = agent.jobs(2).await;
    let session = agent.session();
    // It never saw the second one, and has one that nobody gave it.
    let unknown = RunRef { job: JobId::from_key("old"), epoch: Epoch::from_number(3) };
    let mut agent = agent.reconnect(&scene.connector, vec![jobs[0].run, unknown], true).await;
    assert!(agent.welcome.is_resumed);
    assert_eq!(agent.session(), session);
    assert_eq!(agent.expect(kill).await, [unknown]);
    let again = agent.jobs(1).await.remove(0);
    assert_eq!(again.run.job, jobs[1].run.job);
    assert_eq!(again.counters.deliveries, 1);
    agent.succeed(jobs[0].run, "0").await;
    agent.succeed(again.run, "2").await;
    assert_eq!(agent.recorded().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_restarted_gives_back_what_it_forgot_at_once() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let job = agent.jobs(1).await.remove(0);
    agent.report(vec![(job.run, RunEvent::Started)]).await;
    agent.recorded().await;
    let before = tokio::time::Instant::now();
    let mut agent = agent.reconnect(&scene.connector, vec![], false).await;
    assert!(!agent.welcome.is_resumed);
    let again = agent.jobs(1).await.remove(0);
    assert!(before.elapsed() < TTL / 10, "without waiting for the lease");
    assert_eq!(again.counters.crashes, 1);
}

#[tokio::test(start_paused = true)]
async fn the_restart_of_the_orchestrator_is_a_non_event() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap().id();
    let job = agent.jobs(1).await.remove(0);
    agent.report(vec![(job.run, RunEvent::Started)]).await;
    agent.recorded().await;
    let scene = scene.restart().await;
    let mut agent = agent.reconnect(&scene.connector, vec![job.run], true).await;
    assert!(agent.welcome.is_resumed);
    agent.succeed(job.run, "2").await;
    assert_eq!(agent.recorded().await, []);
    let record = scene.orchestrator.wait(id).await.unwrap();
    assert_eq!(
        (record.state, record.epoch, record.counters.crashes),
        (JobState::Succeeded, job.run.epoch, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_was_away_for_longer_than_a_lease_gives_its_agents_time_to_come_back() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap().id();
    let job = agent.jobs(1).await.remove(0);
    agent.report(vec![(job.run, RunEvent::Started)]).await;
    agent.recorded().await;
    let (store, clock) = scene.stop().await;
    tokio::time::advance(10 * TTL).await;
    let scene = Scene::with(store, clock, |builder| builder);
    tokio::time::sleep(TTL / 2).await;
    let mut agent = agent.reconnect(&scene.connector, vec![job.run], true).await;
    agent.succeed(job.run, "2").await;
    assert_eq!(agent.recorded().await, []);
    assert_eq!(scene.orchestrator.wait(id).await.unwrap().counters.crashes, 0);
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_was_paused_for_longer_than_a_lease_takes_nothing_from_its_agents() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap().id();
    let job = agent.jobs(1).await.remove(0);
    agent.report(vec![(job.run, RunEvent::Started)]).await;
    agent.recorded().await;
    // Everybody's clock jumps: nobody could have sent a heartbeat in between.
    tokio::time::advance(3 * TTL).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut agent = agent.reconnect(&scene.connector, vec![job.run], true).await;
    agent.succeed(job.run, "2").await;
    assert_eq!(agent.recorded().await, []);
    assert_eq!(scene.orchestrator.wait(id).await.unwrap().counters.crashes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_newer_process_of_an_agent_supersedes_the_older_one() {
    let scene = Scene::new();
    let mut older = scene.agent("a", 1).await;
    let newer = TestAgent::connect(&scene.connector, hello(older.papers.clone().next_life("a2"))).await;
    assert_ne!(newer.session(), older.session());
    older.expect(|message| (message == ToAgent::Superseded).then_some(())).await;
    assert_eq!(older.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_cut_link_of_the_same_process_is_replaced_without_a_word() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let mut again = hello(agent.papers.clone());
    again.session = Some(agent.session());
    let newer = TestAgent::connect(&scene.connector, again).await;
    assert!(newer.welcome.is_resumed);
    assert_eq!(agent.next().await, None, "closed, and not told to go away");
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_another_version_is_told_who_must_update() {
    let scene = Scene::new();
    let mut knock = hello(scene.papers("v").await);
    (knock.oldest_version, knock.version) = (9, 9);
    let refused = TestAgent::try_connect(&scene.connector, knock).await.unwrap_err();
    assert!(refused.contains("update the orchestrator"), "{refused}");
}

mockall::mock! {
    Gate {}

    #[async_trait::async_trait]
    impl mamos_core::auth::Authenticator for Gate {
        async fn admit(
            &self,
            hello: &mamos_core::protocol::Hello,
            challenge: &mamos_core::auth::Challenge,
            now: mamos_core::Timestamp,
        ) -> mamos_core::Result<mamos_core::auth::Admission>;
    }
}

/// An authenticator of one's own, which cannot decide at first: the agent may try again.
#[tokio::test(start_paused = true)]
async fn a_doubt_is_not_a_refusal_for_good() {
    let mut gate = MockGate::new();
    gate.expect_admit()
        .times(1)
        .returning(|_, _, _| Err(Error::new(ErrorKind::Unavailable, "gate", "asleep")));
    gate.expect_admit()
        .returning(|_, _, _| Err(Error::new(ErrorKind::Denied, "gate", "you are on the list")));
    let clock = Arc::new(SimulatedClock::starting_at(START));
    let scene =
        Scene::with(Arc::new(MemoryStore::new()), clock, |builder| builder.authenticator(Arc::new(gate)));
    for (expected, is_last) in
        [("the orchestrator cannot decide now; try again later", false), ("you are on the list", true)]
    {
        let link = OrchestratorLink::new(scene.connector.connect().await.unwrap());
        hello(Papers::new("a", Secret::new("t"))).on(&link).await;
        let answer = link.receive().await.unwrap().unwrap().remove(0);
        assert_eq!(answer, ToAgent::Refused { is_final: is_last, message: expected.to_owned() });
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_store_is_no_refusal_for_good_and_is_not_told_to_strangers() {
    let faults = Faults { error_before: 1.0, ..Faults::default() };
    let store = Arc::new(Faulty::new(MemoryStore::new(), faults, 7));
    store.set_faults(false);
    let scene = Scene::over(Arc::clone(&store) as Arc<dyn mamos_core::Store>);
    let knock = hello(scene.papers("a").await);
    // It has started once it serves somebody.
    scene.agent("other", 1).await;
    store.set_faults(true);
    let link = OrchestratorLink::new(scene.connector.connect().await.unwrap());
    knock.on(&link).await;
    let answer = link.receive().await.unwrap().unwrap().remove(0);
    let message = "the orchestrator cannot decide now; try again later".to_owned();
    assert_eq!(answer, ToAgent::Refused { is_final: false, message });
    store.set_faults(false);
    TestAgent::connect(&scene.connector, knock).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_done_but_reported_failed_reaches_its_agent() {
    let faults = Faults { error_after: 1.0, ..Faults::default() };
    let store = Arc::new(Faulty::new(MemoryStore::new(), faults, 7));
    store.set_faults(false);
    let scene = Scene::over(Arc::clone(&store) as Arc<dyn mamos_core::Store>);
    let mut agent = scene.agent("a", 2).await;
    agent.link.send(vec![FromAgent::Slots { total: 0 }]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    assert!(agent.hears_nothing().await);
    // It has room again while the store lies, so that the claim is done and reported failed.
    store.set_faults(true);
    agent.link.send(vec![FromAgent::Slots { total: 1 }]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(store.inner().held(agent.session()).await.unwrap().len(), 1);
    store.set_faults(false);
    let job = agent.jobs(1).await.remove(0);
    assert_eq!(job.run.epoch, Epoch::from_number(1), "the claim that was reported failed");
    agent.succeed(job.run, "2").await;
    assert_eq!(agent.recorded().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_nothing_is_cut_off_all_the_same() {
    let scene = Scene::new();
    let agent = scene.agent("a", 1).await;
    // It fills its link with reports, whose acknowledgements it never reads, until it has to wait.
    let fills = async {
        let run = RunRef { job: JobId::from_key("x"), epoch: Epoch::from_number(1) };
        for first in 1.. {
            let reports = vec![RunReport { run, event: RunEvent::Started }];
            agent.link.send(vec![FromAgent::Reports { first, reports }]).await.unwrap();
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(200), fills).await;
    scene.orchestrator.decommission_agent(&agent.welcome.agent).await.unwrap();
    let cut = async {
        while agent.link.send(vec![FromAgent::Slots { total: 1 }]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), cut).await.expect("the link goes on");
}

/// Each hostile act ends the link it came on, and nothing else.
#[tokio::test(start_paused = true)]
async fn a_hostile_peer_ends_its_own_link_and_nothing_else() {
    let scene = Scene::new();
    let mut honest = scene.agent("honest", 1).await;
    let report = |first, event| FromAgent::Reports {
        first,
        reports: vec![RunReport {
            run: RunRef { job: JobId::from_key("x"), epoch: Epoch::from_number(1) },
            event,
        }],
    };
    let acts: Vec<Vec<FromAgent>> = vec![
        vec![report(2, RunEvent::Started)],
        vec![report(1, RunEvent::Started), report(1, RunEvent::Started)],
        vec![FromAgent::Hello(Box::new((*hello(scene.papers("twice").await)).clone()))],
        vec![report(
            1,
            RunEvent::Log { offset: 0, stream: LogStream::Stdout, bytes: vec![0; 65 * 1024].into() },
        )],
    ];
    for (n, act) in acts.into_iter().enumerate() {
        let mut hostile = scene.agent(&format!("hostile-{n}"), 1).await;
        hostile.link.send(act).await.unwrap();
        while hostile.next().await.is_some() {}
    }
    // Strangers.
    for frame in [
        Frame::binary(vec![0xc1; 100]),
        Frame::text("{}"),
        Frame::text(r#"{"messages":["bye"]}"#),
        Frame::text("\u{0}"),
        Frame::binary(vec![]),
    ] {
        let connection = scene.connector.connect().await.unwrap();
        connection.send(frame).await.unwrap();
        while let Ok(Some(_)) = connection.receive().await {}
    }
    let silent = scene.connector.connect().await.unwrap();
    while let Ok(Some(_)) = silent.receive().await {}
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = honest.jobs(1).await[0].run;
    honest.succeed(run, "2").await;
    assert_eq!(handle.wait().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_clock_is_a_day_off_works_all_the_same() {
    let scene = Scene::new();
    let mut greeting = hello(scene.papers("a").await);
    greeting.now = greeting.now + Duration::from_secs(86_400);
    let mut agent = TestAgent::connect(&scene.connector, greeting).await;
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "2").await;
    assert_eq!(handle.wait().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_a_session_and_silence_ends_it() {
    let scene = Scene::new();
    let agent = scene.agent("a", 1).await;
    for _ in 0..10 {
        tokio::time::sleep(TTL / 3).await;
        agent.link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
    }
    let session = scene.store.session(agent.session()).await.unwrap().unwrap();
    assert_eq!(session.end, None);
    tokio::time::sleep(2 * TTL).await;
    let session = scene.store.session(agent.session()).await.unwrap().unwrap();
    assert_eq!(session.end, Some(mamos_core::store::SessionEnd::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_gets_no_new_work_and_gets_some_again_when_it_speaks() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    tokio::time::sleep(TTL * 5 / 6).await;
    scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    assert!(agent.hears_nothing().await);
    agent.link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
    agent.jobs(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_gives_back_what_is_left_at_once() {
    let scene = Scene::new();
    let mut leaving = scene.agent("leaving", 1).await;
    scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    leaving.jobs(1).await;
    leaving.link.send(vec![FromAgent::Bye]).await.unwrap();
    let before = tokio::time::Instant::now();
    let mut other = scene.agent("other", 1).await;
    other.jobs(1).await;
    assert!(before.elapsed() < TTL / 10);
}

#[tokio::test(start_paused = true)]
async fn what_one_agent_prefetched_is_taken_back_for_one_that_has_nothing_to_do() {
    let scene = Scene::new();
    let mut busy = scene.agent("busy", 2).await;
    for number in 0..4 {
        scene.orchestrator.enqueue(Double { number }).await.unwrap();
    }
    let jobs = busy.jobs(4).await;
    let started = jobs[..2].iter().map(|job| (job.run, RunEvent::Started)).collect();
    busy.report(started).await;
    busy.recorded().await;
    let mut idle = scene.agent("idle", 2).await;
    let retracted = busy
        .expect(|message| match message {
            ToAgent::Retract { runs } => Some(runs),
            _ => None,
        })
        .await;
    assert_eq!(retracted.len(), 2);
    let released = retracted.into_iter().map(|run| (run, RunEvent::Released)).collect();
    busy.report(released).await;
    idle.jobs(2).await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_before_it_was_heard_of_again_a_held_job_is_cancelled_at_the_agent() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap().id();
    let job = agent.jobs(1).await.remove(0);
    let (profile, connector) = (agent.profile.clone(), scene.connector.clone());
    agent.link.close().await;
    scene.orchestrator.cancel(id, "wrong number", Duration::from_secs(3)).await.unwrap();
    let mut again = hello(agent.papers.clone());
    (again.profile, again.runs, again.session) = (profile, vec![job.run], Some(agent.session()));
    let mut agent = TestAgent::connect(&connector, again).await;
    let grace = agent
        .expect(|message| match message {
            ToAgent::Cancel { run, grace } if run == job.run => Some(grace),
            _ => None,
        })
        .await;
    assert_eq!(grace, Duration::from_secs(3));
    agent.report(vec![(job.run, RunEvent::Ended(Outcome::Cancelled))]).await;
    assert_eq!(scene.orchestrator.wait(id).await.unwrap().state, JobState::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_lease_lasts_its_whole_length_from_the_last_sign_on_whether_the_link_is_cut_or_silent() {
    for is_cut in [false, true] {
        let scene = Scene::new();
        let mut agent = scene.agent("a", 1).await;
        let session = agent.session();
        // So soon after the welcome that the lease is not renewed for it.
        tokio::time::sleep(TTL * 3 / 10).await;
        agent.link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
        agent.recorded().await;
        let heard = tokio::time::Instant::now();
        if is_cut {
            agent.link.close().await;
        }
        tokio::time::sleep_until(heard + TTL * 95 / 100).await;
        let store = scene.orchestrator.store();
        assert_eq!(store.session(session).await.unwrap().unwrap().end, None, "cut: {is_cut}");
        tokio::time::sleep_until(heard + TTL * 3 / 2).await;
        assert!(store.session(session).await.unwrap().unwrap().end.is_some(), "cut: {is_cut}");
    }
}
