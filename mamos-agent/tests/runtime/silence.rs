//! Signs of life: those that an agent gives, and what it does when none come.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::WhenCutOff;
use mamos_core::agent::HostLoad;
use mamos_core::protocol::{FromAgent, ToAgent};

use super::orchestrator::{session, succeeded, welcome};
use super::{SECOND, plain, start, within};

/// Like a timeout, but without Tokio's timer, which is what the test doubts.
async fn heard_within(limit: Duration, future: impl Future<Output = ()>) -> bool {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        let _ = sender.send(());
    });
    tokio::select! {
        () = future => true,
        _ = receiver => false,
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_agent_beats_often_enough_and_not_much_more() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    for _ in 0..20 {
        let before = tokio::time::Instant::now();
        assert_eq!(peer.message().await, FromAgent::Heartbeat { load: None });
        let waited = before.elapsed();
        assert!(6 * SECOND < waited && waited <= 10 * SECOND, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_carry_the_load_as_often_as_asked() {
    struct Busy;
    impl mamos_agent::LoadSource for Busy {
        fn sample(&self) -> HostLoad {
            HostLoad { cpu_percent: 50.0, ..HostLoad::default() }
        }
    }
    let mut agent = start(1, |builder| builder.load(Arc::new(Busy), 4));
    let (mut peer, _) = agent.orchestrator.welcome().await;
    let (started, mut loads) = (tokio::time::Instant::now(), 0);
    while started.elapsed() < 399 * SECOND {
        if let FromAgent::Heartbeat { load: Some(load) } = peer.message().await {
            assert_eq!(load.cpu_percent, 50.0);
            loads += 1;
        }
    }
    assert!((9..=11).contains(&loads), "{loads}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_does_not_stop_heartbeats() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.accept().await;
    let fast = mamos_core::protocol::Welcome { heartbeat_every: Duration::from_millis(20), ..welcome() };
    peer.say(vec![ToAgent::Welcome(Box::new(fast))]).await;
    peer.dispatch(&[(1, "block")]).await;
    agent.actor.until_running(1).await;
    let beats = async {
        for _ in 0..5 {
            while !matches!(peer.message().await, FromAgent::Heartbeat { .. }) {}
        }
    };
    let were_heard = heard_within(Duration::from_secs(20), beats).await;
    let running = *agent.actor.running.borrow();
    // Before any assertion: a blocked thread would keep the test from ending.
    agent.actor.gate.add_permits(1);
    assert!(were_heard, "no heartbeats while a handler blocks");
    assert_eq!(running, 1);
    agent.actor.until_running(0).await;
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_records_nothing_for_a_lease_is_left() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "ok")]).await;
    peer.report().await;
    let (mut again, _) = within(70 * SECOND, agent.orchestrator.welcome()).await;
    assert_eq!(again.report().await, (1, succeeded("ok")));
}

/// A link that no longer carries anything need not end by itself: nobody answers the heartbeat.
#[tokio::test(start_paused = true)]
async fn a_link_that_went_silent_is_given_up_while_the_lease_still_lasts() {
    let mut agent = start(1, plain);
    let (_silent, _) = agent.orchestrator.welcome().await;
    let begun = tokio::time::Instant::now();
    let (_, hello) = within(120 * SECOND, agent.orchestrator.welcome()).await;
    assert_eq!(hello.session, Some(session()));
    assert!(begun.elapsed() >= 10 * SECOND, "not before a third of the lease is over");
    assert!(begun.elapsed() < 25 * SECOND, "and in time to resume the session");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_cut_off_stops_its_attempts_only_if_told_so() {
    for (policy, left) in [(WhenCutOff::KeepRunning, 1), (WhenCutOff::Stop, 0)] {
        let mut agent = start(1, |builder| builder.when_cut_off(policy).cancel_grace(SECOND));
        let (mut peer, _) = agent.orchestrator.welcome().await;
        peer.dispatch(&[(1, "stubborn")]).await;
        peer.report().await;
        drop(peer);
        agent.handle.wait_until(|status| !status.is_connected).await;
        // Held by the orchestrator without an answer, link after link.
        let mut held = Vec::new();
        let until = tokio::time::Instant::now() + 29 * SECOND;
        while let Ok(link) = tokio::time::timeout_at(until, agent.orchestrator.accept()).await {
            held.push(link);
        }
        assert_eq!(*agent.actor.running.borrow(), 1);
        let until = tokio::time::Instant::now() + 4 * SECOND;
        while let Ok(link) = tokio::time::timeout_at(until, agent.orchestrator.accept()).await {
            held.push(link);
        }
        assert_eq!(*agent.actor.running.borrow(), left, "{policy:?}");
    }
}
