//! The runtime against an orchestrator that each test scripts.

#![expect(clippy::unwrap_used, reason = "tests, and their helpers outside test functions")]

#[path = "runtime/actor.rs"]
mod actor;
#[path = "runtime/endings.rs"]
mod endings;
#[path = "runtime/faults.rs"]
mod faults;
#[path = "runtime/lives.rs"]
mod lives;
#[path = "runtime/orchestrator.rs"]
mod orchestrator;
#[path = "runtime/silence.rs"]
mod silence;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mamos_agent::{AgentHandle, AgentRuntime, AgentRuntimeBuilder, StopReason, Stopped};
use mamos_core::auth::{Credentials, Nonce, Secret};
use mamos_core::clock::SimulatedClock;
use mamos_core::job::Outcome;
use mamos_core::lease::Verdict;
use mamos_core::protocol::{Dispatched, Hello, RunEvent, ToAgent};
use mamos_core::{ErrorKind, Result, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::actor::Actor;
use self::orchestrator::{
    Orchestrator, agent_id, dispatched, orchestrator, run, session, succeeded, welcome,
};

const SECOND: Duration = Duration::from_secs(1);
const CANCELLED: RunEvent = RunEvent::Ended(Outcome::Cancelled);

struct Running {
    actor: Arc<Actor>,
    orchestrator: Orchestrator,
    handle: AgentHandle,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<Stopped>>,
}

fn start(slots: u32, settings: impl FnOnce(AgentRuntimeBuilder) -> AgentRuntimeBuilder) -> Running {
    let (connector, mut orchestrator) = orchestrator();
    let actor = Actor::new(slots);
    let builder = AgentRuntime::builder(actor.clone(), connector)
        .registration(Secret::new("token"))
        .clock(Arc::new(SimulatedClock::starting_at(Timestamp::from_micros(1_000_000_000))))
        .seed(1);
    let runtime = settings(builder).build().unwrap();
    let (handle, shutdown) = (runtime.handle(), CancellationToken::new());
    orchestrator.key = Some(handle.identity().public_key());
    let ended = tokio::spawn(runtime.run(shutdown.clone().cancelled_owned()));
    Running { actor, orchestrator, handle, shutdown, ended }
}

fn plain(builder: AgentRuntimeBuilder) -> AgentRuntimeBuilder {
    builder
}

/// Which of the two, and its token. That the proof is right was checked when it arrived.
fn shown(hello: &Hello) -> (&'static str, &str) {
    match &hello.credentials {
        Credentials::Registration { token, .. } => ("registration", token.expose()),
        Credentials::Agent { token, .. } => ("agent", token.expose()),
        other => panic!("{other:?}"),
    }
}

fn is_send<T: Send>(value: T) -> T {
    value
}

fn code_of(event: &RunEvent) -> &str {
    match event {
        RunEvent::Ended(Outcome::Retry { failure, .. } | Outcome::Bury { failure }) => &failure.code,
        _ => "",
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("it takes too long")
}

#[tokio::test(start_paused = true)]
async fn an_agent_introduces_itself_and_later_shows_what_it_was_given() {
    let mut agent = start(3, plain);
    let (peer, hello) = agent.orchestrator.welcome().await;
    assert_eq!(shown(&hello), ("registration", "token"));
    assert_eq!((hello.previous, hello.number), (None, 1));
    let instance = hello.instance;
    assert_eq!((hello.profile.slots, hello.session, hello.runs.len()), (3, None, 0));
    assert_eq!(hello.now, Timestamp::from_micros(1_000_000_000));
    agent.handle.wait_until(|status| status.agent == Some(agent_id())).await;
    drop(peer);
    let (_, hello) = agent.orchestrator.welcome().await;
    assert_eq!(shown(&hello), ("agent", "issued"));
    assert_eq!((hello.instance, hello.previous, hello.number), (instance, None, 2));
    assert_eq!(hello.session, Some(session()));
}

#[tokio::test(start_paused = true)]
async fn what_comes_out_of_order_ends_the_link_and_no_more() {
    let challenge = || ToAgent::Challenge { nonce: Nonce::from_bytes([9; 32]) };
    let welcomed = || ToAgent::Welcome(Box::new(welcome()));
    let mut agent = start(1, plain);
    for before_a_hello in [vec![welcomed()], vec![challenge(), challenge()], vec![ToAgent::Drain]] {
        let mut peer = agent.orchestrator.arrival().await;
        peer.say(before_a_hello).await;
        assert_eq!(peer.try_message().await, None);
    }
    for instead_of_a_welcome in [challenge(), ToAgent::Token { token: Secret::new("t") }] {
        let (mut peer, _) = agent.orchestrator.accept().await;
        peer.say(vec![instead_of_a_welcome, welcomed()]).await;
        assert_eq!(peer.try_message().await, None);
    }
    let (mut peer, hello) = agent.orchestrator.welcome().await;
    assert_eq!((shown(&hello), hello.session), (("registration", "token"), None));
    peer.say(vec![challenge()]).await;
    while peer.try_message().await.is_some() {}
    let (_, hello) = agent.orchestrator.welcome().await;
    assert_eq!(hello.session, Some(session()));
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_does_not_come_is_not_waited_for_longer_than_a_connection() {
    let mut agent = start(1, |builder| builder.connect_timeout(3 * SECOND));
    let _silent = agent.orchestrator.arrival().await;
    let (_, hello) = within(4 * SECOND, agent.orchestrator.accept()).await;
    assert_eq!(shown(&hello), ("registration", "token"));
}

#[tokio::test(start_paused = true)]
async fn slots_are_never_exceeded_and_the_rest_waits_in_order() {
    let mut agent = start(2, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "gate"), (2, "gate"), (3, "gate"), (4, "gate"), (5, "gate")]).await;
    for _ in 0..5 {
        agent.actor.gate.add_permits(1);
        while !matches!(peer.report().await.1, RunEvent::Ended(_)) {}
        peer.record().await;
    }
    assert_eq!(agent.actor.most.load(Ordering::SeqCst), 2);
    assert_eq!(*agent.actor.started.borrow(), [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_quick_job_is_one_report_and_a_long_one_is_announced() {
    let mut agent = start(2, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "ok"), (2, "gate")]).await;
    assert_eq!(peer.report().await, (1, succeeded("ok")));
    assert_eq!(within(SECOND, peer.report()).await, (2, RunEvent::Started));
    agent.actor.gate.add_permits(1);
    assert_eq!(peer.report().await, (2, succeeded("gate")));
}

#[tokio::test(start_paused = true)]
async fn results_are_sent_again_after_a_cut_in_order_and_numbered_from_one() {
    let mut agent = start(3, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "ok")]).await;
    assert_eq!(peer.reports(1).await, [(1, succeeded("ok"))]);
    peer.record().await;
    peer.dispatch(&[(2, "ok"), (3, "gate")]).await;
    assert_eq!(peer.reports(2).await, [(2, succeeded("ok")), (3, RunEvent::Started)]);
    // Nothing of that is on record when the link breaks, and the attempt goes on meanwhile.
    drop(peer);
    agent.handle.wait_until(|status| !status.is_connected).await;
    agent.actor.gate.add_permits(1);
    agent.actor.until_running(0).await;
    let (mut peer, hello) = agent.orchestrator.welcome().await;
    assert_eq!(hello.runs, [run(2), run(3)]);
    let expected = [(2, succeeded("ok")), (3, RunEvent::Started), (3, succeeded("gate"))];
    assert_eq!(peer.reports(3).await, expected);
    peer.record().await;
    agent.handle.wait_until(|status| status.unsent == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_dispatch_is_ignored_whatever_became_of_the_run() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "gate"), (1, "gate"), (2, "gate"), (2, "gate")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    peer.dispatch(&[(1, "gate"), (2, "gate")]).await;
    agent.actor.gate.add_permits(10);
    assert_eq!(peer.reports(2).await, [(1, succeeded("gate")), (2, succeeded("gate"))]);
    peer.dispatch(&[(1, "gate"), (2, "gate")]).await;
    peer.stays_silent(20 * SECOND).await;
    assert_eq!(*agent.actor.started.borrow(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn cancelling_works_on_queued_polite_and_stubborn_attempts() {
    let mut agent = start(2, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "polite"), (2, "stubborn"), (3, "ok")]).await;
    assert_eq!(peer.reports(2).await, [(1, RunEvent::Started), (2, RunEvent::Started)]);
    let cancel = |n| ToAgent::Cancel { run: run(n), grace: 5 * SECOND };
    peer.say(vec![cancel(3), cancel(1), cancel(2), cancel(99)]).await;
    assert_eq!(peer.reports(2).await, [(3, CANCELLED), (1, CANCELLED)]);
    peer.stays_silent(4 * SECOND).await;
    assert_eq!(*agent.actor.running.borrow(), 1);
    assert_eq!(within(2 * SECOND, peer.report()).await, (2, CANCELLED));
    assert_eq!(*agent.actor.running.borrow(), 0);
    assert_eq!(*agent.actor.started.borrow(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn killed_runs_end_at_once_and_are_never_spoken_of() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "stubborn"), (2, "ok"), (3, "ok")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    peer.say(vec![ToAgent::Kill { runs: vec![run(1), run(2)] }]).await;
    assert_eq!(peer.report().await, (3, succeeded("ok")));
    peer.stays_silent(20 * SECOND).await;
    assert_eq!(*agent.actor.running.borrow(), 0);
    drop(peer);
    assert_eq!(agent.orchestrator.welcome().await.1.runs, [run(3)]);
}

#[tokio::test(start_paused = true)]
async fn verdicts_stop_lost_runs_and_cancel_unwanted_ones() {
    let mut agent = start(3, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "stubborn"), (2, "polite"), (3, "stubborn")]).await;
    peer.reports(3).await;
    let verdicts = [Verdict::Stale, Verdict::CancelRequested, Verdict::Missing];
    peer.record_with((1..).map(run).zip(verdicts).collect()).await;
    assert_eq!(peer.report().await, (2, CANCELLED));
    agent.actor.until_running(0).await;
    peer.stays_silent(20 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn only_runs_that_were_not_started_can_be_retracted() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "gate"), (2, "gate"), (3, "gate")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    peer.say(vec![ToAgent::Retract { runs: vec![run(1), run(3), run(9)] }]).await;
    assert_eq!(peer.report().await, (3, RunEvent::Released));
    agent.actor.gate.add_permits(9);
    assert_eq!(peer.report().await, (1, succeeded("gate")));
    assert_eq!(peer.report().await, (2, succeeded("gate")));
}

#[tokio::test(start_paused = true)]
async fn panics_timeouts_and_deadlines_are_failures_with_a_code() {
    let mut agent = start(5, |builder| builder.cancel_grace(3 * SECOND));
    let (mut peer, _) = agent.orchestrator.welcome().await;
    let timed = |n, what| Dispatched { timeout: Some(60 * SECOND), ..dispatched(n, what) };
    let due = |n, what, left| Dispatched { deadline_in: Some(left), ..dispatched(n, what) };
    peer.say(vec![ToAgent::Dispatch(vec![
        dispatched(1, "panic"),
        timed(2, "polite"),
        timed(3, "stubborn"),
        due(4, "ok", Duration::ZERO),
        due(5, "stubborn", 10 * SECOND),
    ])])
    .await;
    let mut ends = Vec::new();
    let begun = tokio::time::Instant::now();
    while ends.len() < 5 {
        let (n, event) = peer.report().await;
        peer.record().await;
        if event != RunEvent::Started {
            ends.push((n, code_of(&event).to_owned(), begun.elapsed().as_secs()));
        }
    }
    ends.sort();
    let expected =
        [(1, "panicked", 0), (2, "timeout", 60), (3, "timeout", 63), (4, "deadline", 0), (5, "deadline", 13)];
    assert_eq!(ends, expected.map(|(n, code, at)| (n, code.to_owned(), at)));
    assert!(!agent.actor.started.borrow().contains(&4));
}

#[tokio::test(start_paused = true)]
async fn logs_wait_while_too_much_is_unsent_and_arrive_whole() {
    let mut agent = start(1, |builder| builder.max_unsent_log_bytes(64 * 1024));
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "chatter")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    // Nothing is on record: no more than the budget is ever sent.
    for n in 0..64 {
        let (_, RunEvent::Log { offset, .. }) = peer.report().await else { panic!("no log") };
        assert_eq!(offset, n * 1024);
    }
    peer.stays_silent(20 * SECOND).await;
    drop(peer);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    let mut end = 0;
    loop {
        match peer.report().await.1 {
            RunEvent::Log { offset, bytes, .. } => {
                assert_eq!(offset, end);
                end = offset + bytes.len() as u64;
                peer.record().await;
            }
            RunEvent::Ended(_) => break,
            _ => {}
        }
    }
    assert_eq!(end, 1000 * 1024);
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_progress_is_sent() {
    let mut agent = start(1, plain);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "progress")]).await;
    assert_eq!(peer.report().await, (1, RunEvent::Started));
    let (_, RunEvent::Progress(progress)) = peer.report().await else { panic!("no progress") };
    assert_eq!(progress.percent, Some(100.0));
    peer.stays_silent(10 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_records_what_was_never_sent_is_left() {
    let mut agent = start(1, plain);
    let (peer, _) = agent.orchestrator.welcome().await;
    peer.say(vec![ToAgent::Recorded { through: u64::MAX, exceptions: Vec::new() }]).await;
    within(SECOND, agent.orchestrator.welcome()).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_recorded_survives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let kept = |builder: AgentRuntimeBuilder| builder.state_directory(directory.path());
    let mut agent = start(2, kept);
    let (mut peer, _) = agent.orchestrator.welcome().await;
    peer.dispatch(&[(1, "ok"), (2, "command ok"), (3, "command stubborn")]).await;
    peer.say(vec![ToAgent::Dispatch(vec![dispatched(4, "stubborn")])]).await;
    let mut ended = 0;
    while ended < 3 {
        ended += usize::from(matches!(peer.report().await.1, RunEvent::Ended(_)));
    }
    agent.actor.until_running(1).await;
    // The process dies: nothing is closed or said.
    agent.ended.abort();
    assert!(agent.ended.await.is_err());

    let mut agent = start(2, kept);
    let (mut peer, hello) = agent.orchestrator.welcome().await;
    assert_eq!(shown(&hello), ("agent", "issued"));
    assert_eq!((hello.session, hello.runs), (Some(session()), vec![run(1), run(2), run(3)]));
    let mut reports = peer.reports(3).await;
    reports.sort_by_key(|(n, _)| *n);
    let expected = [(1, succeeded("ok")), (2, succeeded("command ok")), (3, succeeded("command stubborn"))];
    assert_eq!(reports, expected);
    peer.record().await;
    agent.shutdown.cancel();
    assert_eq!(agent.ended.await.unwrap().unwrap().unsent, 0);

    let mut agent = start(2, kept);
    assert_eq!(agent.orchestrator.welcome().await.1.runs, []);
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_are_refused() {
    let (connector, _orchestrator) = orchestrator();
    let error = AgentRuntime::builder(Actor::new(1), connector.clone()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let error = AgentRuntime::builder(Actor::new(0), connector).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_runtime_can_be_spawned() {
    let (connector, _orchestrator) = orchestrator();
    let runtime =
        AgentRuntime::builder(Actor::new(1), connector).registration(Secret::new("token")).build().unwrap();
    let stopped = is_send(runtime.run(std::future::ready(()))).await.unwrap();
    assert_eq!(stopped.reason, StopReason::Shutdown);
}
