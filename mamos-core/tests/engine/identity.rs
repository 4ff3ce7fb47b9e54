//! Who agents are: tokens, proofs, lives, revocation.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::agent::state::AgentState;
use mamos_core::audit::AuditFilter;
use mamos_core::auth::{Credentials, KeyPair, Secret, TokenPolicy};
use mamos_core::clock::{Clock, SimulatedClock};
use mamos_core::event::What;
use mamos_core::job::labels::Labels;
use mamos_core::orchestrator::{Seen, TokenScope};
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{FromAgent, ToAgent};
use mamos_core::store::PageRequest;
use mamos_core::transport::Connector;
use mamos_core::{AgentId, ErrorKind, JobState};
use mamos_store::MemoryStore;

use crate::scene::{Double, Knock, Papers, START, Scene, TTL, TestAgent, challenge, hello};

const HOUR: Duration = Duration::from_secs(3600);

async fn refused(scene: &Scene, knock: Knock) -> String {
    TestAgent::try_connect(&scene.connector, knock).await.expect_err("it was admitted")
}

/// The answer to a hello with these credentials, made from the nonce.
async fn answer(
    scene: &Scene,
    knock: &Knock,
    credentials: impl Fn(&mamos_core::auth::Nonce) -> Credentials,
) -> ToAgent {
    let link = OrchestratorLink::new(scene.connector.connect().await.unwrap());
    let nonce = challenge(&link).await;
    knock.say(&link, credentials(&nonce)).await;
    link.receive().await.unwrap().unwrap().remove(0)
}

/// Is it refused for good, with a text like this?
fn is_refusal(answer: &ToAgent, text: &str) -> bool {
    matches!(answer, ToAgent::Refused { is_final: true, message } if message.contains(text))
}

/// Lets the clock and its timers go on.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_registration_token_admits_one_agent_and_trying_again_with_the_same_key_is_harmless() {
    let scene = Scene::new();
    let papers = scene.papers("a").await;
    let first = TestAgent::connect(&scene.connector, hello(papers.clone())).await;
    let again = Papers { number: 2, ..papers.clone() };
    let again = TestAgent::connect(&scene.connector, hello(again)).await;
    assert_eq!(first.welcome.agent, again.welcome.agent);
    let expected = AgentId::from_public_key("test".parse().unwrap(), papers.pair.public_key().as_bytes());
    assert_eq!(first.welcome.agent, expected);
    refused(&scene, hello(Papers::new("other", papers.token))).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_for_a_name_and_a_kind_admits_no_other_and_gives_its_labels() {
    let scene = Scene::new();
    let labels = Labels::new([("group", "web")]).unwrap();
    let scope = TokenScope {
        uses: 2,
        agent_name: Some("web-1".to_owned()),
        agent_kind: Some("test".parse().unwrap()),
        labels: labels.clone(),
        ..TokenScope::once(TTL)
    };
    let (_, token) = scene.orchestrator.create_token(scope).await.unwrap();
    let mut knock = hello(Papers::new("a", token));
    refused(&scene, knock.clone()).await;
    knock.profile.name = "web-1".to_owned();
    let mut other_kind = knock.clone();
    other_kind.profile.kind = "other".parse().unwrap();
    refused(&scene, other_kind).await;
    let agent = TestAgent::connect(&scene.connector, knock).await;
    let record = scene.orchestrator.agent(&agent.welcome.agent).await.unwrap();
    assert_eq!(record.labels, labels);
    for scope in [
        TokenScope { uses: 0, ..TokenScope::once(TTL) },
        TokenScope::once(Duration::ZERO),
        TokenScope { agent_name: Some("n".repeat(129)), ..TokenScope::once(TTL) },
    ] {
        assert_eq!(scene.orchestrator.create_token(scope).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_for_another_connection_or_by_another_key_is_refused() {
    let scene = Scene::new();
    let new = hello(scene.papers("new").await);
    let known = hello(scene.agent("a", 1).await.papers);
    let other = KeyPair::from_seed([9; 32]).unwrap();
    for knock in [&new, &known] {
        let papers = &knock.papers;
        let stale = mamos_core::auth::Nonce::from_bytes([7; 32]);
        let replayed = answer(&scene, knock, |_| papers.credentials(&stale)).await;
        assert!(is_refusal(&replayed, "the proof is wrong"), "{replayed:?}");
        let forged = answer(&scene, knock, |nonce| {
            let (token, proof) = (papers.token.clone(), other.prove(nonce, papers.token.expose()));
            if papers.is_registered {
                Credentials::Agent { token, proof }
            } else {
                Credentials::Registration { token, key: papers.pair.public_key(), proof }
            }
        })
        .await;
        assert!(is_refusal(&forged, "the proof is wrong"), "{forged:?}");
    }
    // Both are good otherwise.
    TestAgent::connect(&scene.connector, new).await;
    TestAgent::connect(&scene.connector, known).await;
}

#[tokio::test(start_paused = true)]
async fn the_token_of_another_agent_is_worth_nothing() {
    let scene = Scene::new();
    let a = scene.agent("a", 1).await.papers;
    let b = scene.agent("b", 1).await.papers;
    let stolen = Papers { token: b.token, ..a };
    assert!(refused(&scene, hello(stolen)).await.contains("the proof is wrong"));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_may_say_nothing_before_hello() {
    let scene = Scene::new();
    let link = OrchestratorLink::new(scene.connector.connect().await.unwrap());
    link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
    challenge(&link).await;
    let answer = link.receive().await.unwrap().unwrap().remove(0);
    assert!(is_refusal(&answer, "one hello and nothing else"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_on_the_link_before_a_third_of_its_life_is_left() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let first = agent.papers.token.clone();
    let mut renewed = None;
    let mut lived = Duration::ZERO;
    while renewed.is_none() {
        pass(TTL / 3).await;
        lived += TTL / 3;
        agent.link.send(vec![FromAgent::Heartbeat { load: None }]).await.unwrap();
        renewed = agent
            .expect(|message| match message {
                ToAgent::Token { token } => Some(Some(token)),
                ToAgent::Recorded { .. } => Some(None),
                _ => None,
            })
            .await;
    }
    assert!(lived > HOUR / 3 && lived < 2 * HOUR / 3, "{lived:?}");
    let token = renewed.unwrap();
    assert_ne!(token, first);
    // Both are good: a crash before the new one was kept loses nothing.
    for token in [first, token] {
        let papers = Papers { token, ..agent.papers.clone() };
        let again = TestAgent::connect(&scene.connector, hello(papers)).await;
        assert_eq!(again.welcome.agent, agent.welcome.agent);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_away_for_long_comes_back_with_its_key_but_not_for_ever() {
    let clock = Arc::new(SimulatedClock::starting_at(START));
    let policy = TokenPolicy { rejoin_within: 24 * HOUR, ..TokenPolicy::default() };
    let scene = Scene::with(Arc::new(MemoryStore::new()), clock, |builder| builder.agent_tokens(policy));
    let mut papers = scene.agent("a", 1).await.papers;
    pass(20 * HOUR).await;
    let back = TestAgent::connect(&scene.connector, hello(papers.clone())).await;
    assert!(back.welcome.issued.is_some(), "a fresh one for the one that has expired");
    papers = back.papers;
    pass(26 * HOUR).await;
    assert!(refused(&scene, hello(papers)).await.contains("expired"));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_agent_loses_its_link_and_its_work_at_once_and_comes_back_when_it_is_reinstated() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = agent.welcome.agent.clone();
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    agent.jobs(1).await;
    let mut other = scene.agent("b", 1).await;
    let before = tokio::time::Instant::now();
    scene.orchestrator.revoke_agent(&id, "stolen").await.unwrap();
    agent.expect(|message| is_refusal(&message, "stolen").then_some(())).await;
    assert_eq!(agent.next().await, None);
    let run = other.jobs(1).await[0].run;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    other.succeed(run, "2").await;
    assert_eq!(handle.wait().await.unwrap(), 2);
    assert!(refused(&scene, hello(agent.papers.clone())).await.contains("stolen"));
    // The first reason stays.
    let again = scene.orchestrator.revoke_agent(&id, "again").await.unwrap();
    assert_eq!(again.revocation.unwrap().reason, "stolen");
    scene.orchestrator.reinstate_agent(&id).await.unwrap();
    let back = TestAgent::connect(&scene.connector, hello(agent.papers)).await;
    assert_eq!(back.welcome.agent, id);
}

#[tokio::test(start_paused = true)]
async fn lives_that_follow_each_other_are_one_agent() {
    let scene = Scene::new();
    let first = scene.agent("a", 1).await;
    let id = first.welcome.agent.clone();
    let second = first.papers.next_life("a2");
    let agent = TestAgent::connect(&scene.connector, hello(second.clone())).await;
    assert_eq!(agent.welcome.agent, id);
    // It died before it noted the welcome, and goes on with the same life; it counts from a higher number.
    let second = Papers { number: 1_000_001, ..second };
    let agent = TestAgent::connect(&scene.connector, hello(second)).await;
    let third = agent.papers.next_life("a3");
    TestAgent::connect(&scene.connector, hello(third)).await;
    assert_eq!(scene.orchestrator.agent(&id).await.unwrap().revocation, None);
}

#[tokio::test(start_paused = true)]
async fn a_copied_identity_that_is_used_twice_is_noticed_and_both_are_locked_out() {
    let scene = Scene::new();
    let mut events = scene.orchestrator.events();
    let mut original = scene.agent("a", 1).await;
    let id = original.welcome.agent.clone();
    let copied = original.papers.clone().next_life("copy");
    let mut copy = TestAgent::connect(&scene.connector, hello(copied)).await;
    original.expect(|message| (message == ToAgent::Superseded).then_some(())).await;
    // The original lives, and says so.
    pass(Duration::from_millis(1)).await;
    assert!(refused(&scene, hello(original.papers.clone())).await.contains("copied"));
    copy.expect(|message| is_refusal(&message, "copied").then_some(())).await;
    assert_eq!(copy.next().await, None);
    for papers in [original.papers.clone(), copy.papers.clone(), original.papers.next_life("a2")] {
        assert!(refused(&scene, hello(papers)).await.contains("revoked"));
    }
    let noticed = async {
        loop {
            let Some(Seen::Event(event)) = events.next().await else { panic!("missed events") };
            if let What::IdentityCopied { agent } = &event.what {
                return agent.clone();
            }
        }
    };
    assert_eq!(noticed.await, id);
    let filter = AuditFilter { action: Some("agent.revoke".to_owned()), ..AuditFilter::default() };
    let now = scene.clock.now();
    let records = scene.orchestrator.audit().list(&filter, PageRequest::default(), now).await.unwrap();
    assert_eq!(records.items[0].entry.target, id.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_used_while_the_original_was_away_is_noticed_when_that_comes_back() {
    let scene = Scene::new();
    let original = scene.agent("a", 1).await;
    let (id, papers) = (original.welcome.agent.clone(), original.papers.clone());
    original.link.send(vec![FromAgent::Bye]).await.unwrap();
    pass(Duration::from_secs(1)).await;
    let copy = TestAgent::connect(&scene.connector, hello(papers.clone().next_life("copy"))).await;
    copy.link.send(vec![FromAgent::Bye]).await.unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(scene.orchestrator.agent(&id).await.unwrap().state, AgentState::Stopped);
    assert!(refused(&scene, hello(papers.next_life("a2"))).await.contains("copied"));
    assert!(scene.orchestrator.agent(&id).await.unwrap().revocation.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_arrives_late_changes_nothing() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let mut late = hello(agent.papers.clone());
    late.number = 0;
    let link = OrchestratorLink::new(scene.connector.connect().await.unwrap());
    late.on(&link).await;
    let answer = link.receive().await.unwrap().unwrap().remove(0);
    assert!(matches!(answer, ToAgent::Refused { is_final: false, .. }), "{answer:?}");
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).await.unwrap();
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "2").await;
    assert_eq!(handle.wait().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_goes_on_with_the_same_life_is_noticed_however_high_it_counts() {
    let scene = Scene::new();
    let original = scene.agent("a", 1).await;
    let id = original.welcome.agent.clone();
    let mut stolen = hello(original.papers.clone());
    (stolen.number, stolen.session) = (u64::MAX, Some(original.session()));
    let mut thief = TestAgent::connect(&scene.connector, stolen).await;
    pass(Duration::from_millis(1)).await;
    let mut honest = hello(original.papers.clone());
    honest.session = Some(original.session());
    assert!(refused(&scene, honest).await.contains("copied"));
    thief.expect(|message| is_refusal(&message, "copied").then_some(())).await;
    assert!(scene.orchestrator.agent(&id).await.unwrap().revocation.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hello_of_a_life_that_ended_meanwhile_is_late_and_no_copy() {
    let scene = Scene::new();
    let first = scene.agent("a", 1).await;
    let id = first.welcome.agent.clone();
    // The first life says hello once more, is killed, and its hello takes its time.
    let late = hello(first.papers.clone());
    let link = OrchestratorLink::new(scene.connector.connect().await.unwrap());
    let nonce = challenge(&link).await;
    pass(Duration::from_millis(1)).await;
    let next = TestAgent::connect(&scene.connector, hello(first.papers.clone().next_life("a2"))).await;
    next.link.close().await;
    pass(Duration::from_millis(1)).await;
    late.say(&link, late.papers.credentials(&nonce)).await;
    let answer = link.receive().await.unwrap().unwrap().remove(0);
    assert!(matches!(answer, ToAgent::Refused { is_final: false, .. }), "{answer:?}");
    assert_eq!(scene.orchestrator.agent(&id).await.unwrap().revocation, None);
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_repeated_only_with_the_token_that_admitted() {
    let scene = Scene::new();
    let papers = scene.papers("a").await;
    TestAgent::connect(&scene.connector, hello(papers.clone())).await;
    let other = Papers { token: Secret::new("mamos_reg_of_my_own"), ..papers.clone() };
    refused(&scene, hello(other)).await;
    pass(2 * TTL).await;
    refused(&scene, hello(papers)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_says_is_repeated_in_short() {
    let scene = Scene::new();
    let mut events = scene.orchestrator.events();
    let name = "x".repeat(4 << 20);
    for bytes in [format!(r#"{{"{name}":1}}"#), format!(r#"{{"messages":["{name}"]}}"#)] {
        let connection = scene.connector.connect().await.unwrap();
        connection.send(mamos_core::transport::Frame::text(bytes)).await.unwrap();
        while let Ok(Some(_)) = connection.receive().await {}
        let Some(Seen::Event(event)) = events.next().await else { panic!("missed events") };
        let What::AgentRefused { reason, .. } = &event.what else { panic!("{event:?}") };
        assert!(reason.len() <= 512, "{}", reason.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_joining_agent_is_on_record() {
    let scene = Scene::new();
    let id = scene.agent("a", 1).await.welcome.agent.to_string();
    let filter = AuditFilter { action: Some("agent.register".to_owned()), ..AuditFilter::default() };
    let records = scene.orchestrator.audit().list(&filter, PageRequest::default(), scene.clock.now()).await;
    assert_eq!(records.unwrap().items[0].entry.target, id);
}

#[tokio::test(start_paused = true)]
async fn a_signing_key_that_was_rotated_still_admits_and_the_new_one_signs() {
    let scene = Scene::new();
    let agent = scene.agent("a", 1).await;
    let keys = scene.orchestrator.signing_keys();
    let now = scene.clock.now();
    let before = keys.public_keys(now).await.unwrap();
    let new = keys.rotate(now).await.unwrap();
    let after = keys.public_keys(now).await.unwrap();
    assert_eq!((before.len(), after.len()), (1, 2));
    assert!(after.iter().any(|key| key.kid == new));
    TestAgent::connect(&scene.connector, hello(agent.papers)).await;
}

#[tokio::test(start_paused = true)]
async fn hostile_tokens_are_refused() {
    let scene = Scene::new();
    let papers = scene.agent("a", 1).await.papers;
    let token = papers.token.expose().to_owned();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = head.split_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIiwia2lkIjoieCJ9"; // {"alg":"none","typ":"JWT","kid":"x"}
    for hostile in [
        String::new(),
        "..".to_owned(),
        head.to_owned(),
        format!("{head}."),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{claims}A.{signature}"),
        format!("{token}A"),
        "a".repeat(100_000),
    ] {
        let papers = Papers { token: Secret::new(hostile.clone()), ..papers.clone() };
        let text = refused(&scene, hello(papers)).await;
        assert!(text.len() < 300, "{hostile}: {text}");
    }
    TestAgent::connect(&scene.connector, hello(papers)).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_an_operators_label() {
    let scene = Scene::new();
    let mut agent = scene.agent("a", 1).await;
    let id = agent.welcome.agent.clone();
    let handle = scene.orchestrator.enqueue(Double { number: 1 }).on("group=web").await.unwrap();
    assert!(agent.hears_nothing().await);
    let revision = scene.orchestrator.agent(&id).await.unwrap().revision;
    let labels = Labels::new([("group", "web")]).unwrap();
    let edited = scene.orchestrator.label_agent(&id, labels.clone(), revision).await.unwrap();
    assert_eq!(edited.effective_labels().iter().count(), 2);
    let run = agent.jobs(1).await[0].run;
    agent.succeed(run, "2").await;
    assert_eq!(handle.wait().await.unwrap(), 2);
    let stale = scene.orchestrator.label_agent(&id, labels, revision).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    assert_eq!(scene.orchestrator.job(handle.id()).await.unwrap().state, JobState::Succeeded);
}
