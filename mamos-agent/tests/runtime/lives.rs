//! The lives of a program: what it keeps from one to the next, and what it does when there is another.

use std::os::unix::fs::PermissionsExt;

use mamos_agent::{AgentRuntime, AgentRuntimeBuilder, Identity};
use mamos_core::ErrorKind;
use mamos_core::auth::{KeyPair, Secret};
use mamos_core::id::InstanceId;
use mamos_core::protocol::{FromAgent, RunEvent, ToAgent};

use super::actor::Actor;
use super::orchestrator::{orchestrator, succeeded};
use super::{Running, SECOND, plain, shown, start, within};

/// The process dies: nothing is closed or said.
async fn die(agent: Running) {
    agent.ended.abort();
    assert!(agent.ended.await.unwrap_err().is_cancelled());
}

/// Cut off before the answer came, in this life or by a crash, it shows the same token and key again.
#[tokio::test(start_paused = true)]
async fn a_registration_is_made_again_with_the_same_key_in_the_same_life() {
    let directory = tempfile::tempdir().unwrap();
    let registering = |builder: AgentRuntimeBuilder| builder.state_directory(directory.path());
    let mut agent = start(1, registering);
    let (peer, first) = agent.orchestrator.accept().await;
    drop(peer);
    let (peer, again) = agent.orchestrator.accept().await;
    assert_eq!((shown(&again), again.instance, again.number), (shown(&first), first.instance, 2));
    drop(peer);
    let key = agent.handle.identity().public_key();
    die(agent).await;
    let mut restarted = start(1, registering);
    assert_eq!(restarted.handle.identity().public_key(), key);
    let (_, after_crash) = restarted.orchestrator.accept().await;
    assert_eq!((shown(&after_crash), after_crash.instance), (("registration", "token"), first.instance));
    assert_eq!(after_crash.previous, None);
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_hellos_grow_for_as_long_as_a_life_lasts_however_often_it_starts() {
    let directory = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for _ in 0..3 {
        let mut agent = start(1, |builder| builder.state_directory(directory.path()));
        for _ in 0..2 {
            let (peer, hello) = agent.orchestrator.accept().await;
            said.push((hello.instance, hello.number));
            drop(peer);
        }
        die(agent).await;
    }
    let numbers = [1, 2, 1_000_001, 1_000_002, 2_000_001, 2_000_002];
    assert_eq!(said, numbers.map(|number| (said[0].0, number)));
    let mut agent = start(1, |builder| builder.state_directory(directory.path()));
    let (_peer, _) = agent.orchestrator.welcome().await;
    agent.handle.wait_until(|status| status.is_connected).await;
    agent.shutdown.cancel();
    agent.ended.await.unwrap().unwrap();
    let mut agent = start(1, |builder| builder.state_directory(directory.path()));
    let (_, hello) = agent.orchestrator.accept().await;
    assert_eq!((hello.previous, hello.number), (Some(said[0].0), 1));
}

#[tokio::test(start_paused = true)]
async fn each_welcomed_life_is_followed_by_one_that_names_it_and_is_on_disk_before_it_is_spoken_of() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state");
    let path = directory.join("identity.json");
    let mut previous = None;
    for _ in 0..3 {
        let mut agent = start(1, |builder| builder.state_directory(&directory));
        let (peer, hello) = agent.orchestrator.accept().await;
        assert_eq!(hello.previous, previous);
        let kept = Identity::load(&path).unwrap().unwrap();
        let on_disk = (kept.instance(), kept.previous(), kept.is_welcomed());
        assert_eq!(on_disk, (hello.instance, previous, false));
        // Not welcomed, and killed: the next one is the same life.
        die(agent).await;
        drop(peer);
        let mut agent = start(1, |builder| builder.state_directory(&directory));
        let (_peer, again) = agent.orchestrator.welcome().await;
        assert_eq!((again.instance, again.previous), (hello.instance, previous));
        agent.handle.wait_until(|status| status.is_connected).await;
        die(agent).await;
        previous = Some(hello.instance);
    }
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_token_is_shown_from_then_on_and_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let kept = |builder: AgentRuntimeBuilder| builder.state_directory(directory.path());
    let mut agent = start(1, kept);
    let (peer, _) = agent.orchestrator.welcome().await;
    peer.say(["second", "third"].map(|token| ToAgent::Token { token: Secret::new(token) }).into()).await;
    let shows_third = |identity: &Identity| identity.token() == Some(&Secret::new("third"));
    while !shows_third(&agent.handle.identity()) {
        tokio::task::yield_now().await;
    }
    drop(peer);
    let (mut peer, hello) = agent.orchestrator.welcome_again().await;
    assert_eq!(shown(&hello), ("agent", "third"));
    agent.shutdown.cancel();
    while peer.try_message().await.is_some() {}
    agent.ended.await.unwrap().unwrap();
    assert!(shows_third(&Identity::load(&directory.path().join("identity.json")).unwrap().unwrap()));
    let mut restarted = start(1, kept);
    assert_eq!(shown(&restarted.orchestrator.accept().await.1), ("agent", "third"));
}

#[tokio::test(start_paused = true)]
async fn an_identity_in_memory_is_used_as_it_is_and_can_be_had_back() {
    let life = |n: u8| InstanceId::from_key(&n.to_string());
    let fresh = || Identity::new(KeyPair::from_seed([5; 32]).unwrap(), life(1));
    let mut agent = start(1, |builder| builder.identity(fresh()));
    assert_eq!(agent.orchestrator.accept().await.1.number, 1);
    let mut identity = agent.handle.identity();
    die(agent).await;
    identity.begin_life(life(9));
    let mut agent = start(1, |builder| builder.identity(identity));
    let (_peer, hello) = agent.orchestrator.welcome().await;
    assert_eq!((hello.instance, hello.previous, hello.number), (life(1), None, 1_000_001));
    agent.handle.wait_until(|status| status.is_connected).await;
    let mut identity = agent.handle.identity();
    assert!(identity.is_welcomed());
    die(agent).await;
    identity.begin_life(life(2));
    let mut agent = start(1, |builder| builder.identity(identity));
    let (_, hello) = agent.orchestrator.accept().await;
    assert_eq!(
        (shown(&hello), hello.instance, hello.previous),
        (("agent", "issued"), life(2), Some(life(1)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_superseded_agent_comes_back_once_and_ends_when_it_is_refused() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "stubborn")]).await;
    peer.report().await;
    peer.say(vec![ToAgent::Superseded]).await;
    let (peer, _) = within(SECOND, agent.orchestrator.accept()).await;
    let message = "it was copied".to_owned();
    peer.say(vec![ToAgent::Refused { is_final: true, message }]).await;
    let error = agent.ended.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("copied"), "{error}");
    agent.actor.until_running(0).await;
}

/// A hello of its own that arrived late took its place: what it runs is still its own.
#[tokio::test(start_paused = true)]
async fn a_superseded_agent_that_is_welcomed_goes_on() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "gate")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    peer.record().await;
    peer.say(vec![ToAgent::Superseded]).await;
    let (mut peer, _) = agent.orchestrator.welcome_again().await;
    agent.actor.gate.add_permits(1);
    assert_eq!(peer.report().await, (1, succeeded("gate")));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_superseded_twice_within_a_lease_gives_way() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    // Far apart, it comes back each time.
    for _ in 0..3 {
        let welcomed = tokio::time::Instant::now();
        while welcomed.elapsed() < 31 * SECOND {
            assert_eq!(peer.message().await, FromAgent::Heartbeat { load: None });
        }
        peer.say(vec![ToAgent::Superseded]).await;
        (peer, _) = agent.orchestrator.welcome_again().await;
    }
    peer.dispatch(&[(1, "stubborn")]).await;
    peer.report().await;
    peer.say(vec![ToAgent::Superseded]).await;
    assert_eq!(agent.ended.await.unwrap().unwrap_err().kind(), ErrorKind::Stale);
    agent.actor.until_running(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_state_directory_is_for_one_program_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let build = || {
        let (connector, _) = orchestrator();
        let builder = AgentRuntime::builder(Actor::new(1), connector).registration(Secret::new("token"));
        builder.state_directory(directory.path()).build()
    };
    let first = build().unwrap();
    let error = build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let message = error.to_string();
    assert!(message.contains(&*directory.path().to_string_lossy()), "{message}");
    assert!(message.contains("a directory of its own"), "{message}");
    let kept = Identity::load(&directory.path().join("identity.json")).unwrap().unwrap();
    assert_eq!(first.handle().identity().instance(), kept.instance());
    drop(first);
    assert!(build().is_ok());
}
