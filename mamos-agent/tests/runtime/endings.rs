//! How the runtime ends: drained, shut down, refused, dropped.

use mamos_agent::{StopReason, Stopped};
use mamos_core::ErrorKind;
use mamos_core::protocol::{FromAgent, RunEvent, ToAgent};

use super::orchestrator::succeeded;
use super::{SECOND, plain, start, within};

#[tokio::test(start_paused = true)]
async fn a_drained_agent_gives_back_finishes_and_says_goodbye() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "gate"), (2, "gate")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    peer.say(vec![ToAgent::Drain]).await;
    assert_eq!(peer.word().await, FromAgent::Slots { total: 0 });
    assert_eq!(peer.report().await, (2, RunEvent::Released));
    peer.dispatch(&[(3, "gate")]).await;
    assert_eq!(peer.report().await, (3, RunEvent::Released));
    peer.stays_silent(20 * SECOND).await;
    agent.actor.gate.add_permits(9);
    assert_eq!(peer.report().await, (1, succeeded("gate")));
    assert!(!agent.ended.is_finished());
    peer.record().await;
    assert_eq!(peer.word().await, FromAgent::Bye);
    assert_eq!(agent.ended.await.unwrap().unwrap(), Stopped { reason: StopReason::Drained, unsent: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_attempts_finish_for_a_while_and_then_gives_them_back() {
    let mut agent = start(3, |builder| builder.drain_timeout(20 * SECOND).cancel_grace(5 * SECOND));
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "sleep"), (2, "stubborn"), (3, "finishes when cancelled")]).await;
    peer.reports(3).await;
    agent.shutdown.cancel();
    assert_eq!(within(10 * SECOND, peer.report()).await, (1, succeeded("sleep")));
    peer.stays_silent(14 * SECOND).await;
    // What came to an end of its own counts, even that late.
    assert_eq!(within(2 * SECOND, peer.report()).await, (3, succeeded("finishes when cancelled")));
    assert_eq!(within(6 * SECOND, peer.report()).await, (2, RunEvent::Released));
    peer.record().await;
    assert_eq!(peer.word().await, FromAgent::Bye);
    assert_eq!(agent.ended.await.unwrap().unwrap(), Stopped { reason: StopReason::Shutdown, unsent: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_in_time_even_if_nothing_is_recorded() {
    let mut agent = start(1, |builder| builder.drain_timeout(20 * SECOND).cancel_grace(5 * SECOND));
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "ok")]).await;
    peer.report().await;
    agent.shutdown.cancel();
    let stopped = within(40 * SECOND, agent.ended).await.unwrap().unwrap();
    assert_eq!(stopped, Stopped { reason: StopReason::Shutdown, unsent: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_final_refusal_ends_the_runtime_and_another_does_not() {
    let mut agent = start(1, plain);
    let refused = |is_final| vec![ToAgent::Refused { is_final, message: "no such token".to_owned() }];
    let (peer, _) = agent.orchestrator.accept().await;
    peer.say(refused(false)).await;
    let (peer, _) = agent.orchestrator.accept().await;
    peer.say(refused(true)).await;
    let error = agent.ended.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("no such token"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_runtime_stops_every_attempt() {
    let mut agent = start(2, plain);
    let (peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "stubborn"), (2, "stubborn")]).await;
    agent.actor.until_running(2).await;
    agent.ended.abort();
    agent.actor.until_running(0).await;
}
