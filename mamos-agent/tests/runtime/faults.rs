//! What lies between an agent and its orchestrator, and when it ends the agent.

use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::protocol::{RunEvent, ToAgent, Welcome};

use super::orchestrator::{run, session, succeeded, welcome};
use super::{SECOND, plain, start, within};

#[tokio::test(start_paused = true)]
async fn what_cannot_work_ends_an_agent_that_was_never_welcomed() {
    let mut agent = start(1, plain);
    agent.orchestrator.fail_with(Some(ErrorKind::Unavailable));
    agent.orchestrator.failures(3).await;
    agent.orchestrator.fail_with(Some(ErrorKind::Config));
    let error = within(60 * SECOND, agent.ended).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("something is in the way"), "{error}");

    let mut agent = start(1, plain);
    let (peer, _) = agent.orchestrator.accept().await;
    peer.say(vec![ToAgent::Welcome(Box::new(Welcome { version: 99, ..welcome() }))]).await;
    let error = within(60 * SECOND, agent.ended).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// A captive portal, a certificate that is not trusted, an orchestrator that is rolled back for a while.
#[tokio::test(start_paused = true)]
async fn a_fault_on_the_way_does_not_end_an_agent_that_was_welcomed() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "gate")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    peer.record().await;
    agent.orchestrator.fail_with(Some(ErrorKind::Config));
    drop(peer);
    let failures = agent.orchestrator.failures(40).await;
    let waits: Vec<Duration> = failures.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.iter().all(|wait| *wait <= 31 * SECOND), "{waits:?}");
    // Waits that double from 200 ms on would be below 13 s in all.
    assert!(failures[6] - failures[0] > 13 * SECOND, "{waits:?}");
    agent.orchestrator.fail_with(None);
    let (peer, _) = within(60 * SECOND, agent.orchestrator.accept()).await;
    peer.say(vec![ToAgent::Welcome(Box::new(Welcome { version: 99, ..welcome() }))]).await;
    let (mut peer, hello) = within(60 * SECOND, agent.orchestrator.welcome_again()).await;
    assert_eq!((hello.session, hello.runs), (Some(session()), vec![run(1)]));
    assert_eq!(*agent.actor.running.borrow(), 1);
    agent.actor.gate.add_permits(1);
    assert_eq!(peer.report().await, (1, succeeded("gate")));
}
