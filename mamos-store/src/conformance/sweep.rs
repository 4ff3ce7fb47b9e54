//! Promises about what a sweep does.

use std::collections::HashSet;
use std::sync::Arc;

use mamos_core::agent::state::AgentState;
use mamos_core::job::{AttemptEnd, Counters, NewJob};
use mamos_core::store::{Report, SessionEnd};
use mamos_core::{JobState, Store};

use super::scene::{
    SECOND, TTL, agent_id, at, cancel_request, claim, enqueue, job, job_id, job_in, lane, leased, record,
    report, running, session, session_at, settle, state, succeeded,
};

pub async fn due_jobs_become_ready(store: &Arc<dyn Store>) {
    let (a, b) = (lane("a", "k"), lane("b", "k"));
    let jobs = vec![
        NewJob { run_at: Some(at(10)), ..job_in(1, Arc::clone(&a)) },
        NewJob { run_at: Some(at(11)), ..job_in(2, Arc::clone(&b)) },
        NewJob { run_at: Some(at(10)), needs_approval: true, ..job_in(3, Arc::clone(&a)) },
    ];
    enqueue(store, jobs, at(0)).await;
    let early = store.sweep(10, at(9)).await.unwrap();
    assert_eq!((early.promoted, early.next_due, early.has_more), (0, Some(at(10)), false));
    assert!(early.lanes.is_empty());
    let swept = store.sweep(10, at(10)).await.unwrap();
    assert_eq!((swept.promoted, swept.next_due), (1, Some(at(11))));
    assert_eq!(swept.lanes.iter().map(|lane| lane.id()).collect::<Vec<_>>(), [a.id()]);
    assert_eq!(state(store, job_id(1)).await, JobState::Ready);
    assert_eq!(record(store, job_id(1)).await.run_at, at(10), "its time stays as it was");
    assert_eq!(state(store, job_id(2)).await, JobState::Scheduled);
    assert_eq!(state(store, job_id(3)).await, JobState::Blocked);
}

pub async fn a_sweep_with_nothing_to_do_says_so(store: &Arc<dyn Store>) {
    let swept = store.sweep(10, at(0)).await.unwrap();
    assert_eq!(swept, mamos_core::store::Swept::default());
}

pub async fn a_sweep_keeps_to_its_limit_and_says_that_there_is_more(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    enqueue(store, (0..7).map(job).collect(), at(0)).await;
    assert_eq!(claim(store, session, 7, at(0)).await.len(), 7);
    enqueue(store, (10..17).map(|n| NewJob { run_at: Some(at(5)), ..job(n) }).collect(), at(0)).await;
    let overdue = (20..27).map(|n| NewJob { deadline: Some(at(5)), needs_approval: true, ..job(n) });
    enqueue(store, overdue.collect(), at(0)).await;

    let now = at(0) + TTL;
    let (mut promoted, mut rescued, mut buried) = (0, HashSet::new(), HashSet::new());
    let mut lost = Vec::new();
    for round in 0.. {
        assert!(round < 20, "the sweeps come to an end");
        let swept = store.sweep(3, now).await.unwrap();
        assert!(swept.promoted <= 3 && swept.rescued.len() <= 3 && swept.overdue.len() <= 3);
        promoted += swept.promoted;
        rescued.extend(swept.rescued.iter().map(|(run, _)| run.job));
        buried.extend(swept.overdue.iter().map(|run| run.job));
        lost.extend(swept.lost);
        if promoted < 7 || rescued.len() < 7 || buried.len() < 7 {
            assert!(swept.has_more, "round {round}");
        }
        if !swept.has_more {
            break;
        }
    }
    assert_eq!((promoted, rescued.len(), buried.len()), (7, 7, 7));
    assert_eq!(lost, [(session.id, agent_id(1))], "a session is lost once");
    assert!(store.held(session.id).await.unwrap().is_empty());
}

pub async fn a_lost_session_gives_its_jobs_back(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let started = running(store, session, job(1), at(0)).await;
    let waiting = leased(store, session, job_in(2, lane("other", "k")), at(0)).await;
    let before = store.sweep(10, at(0) + TTL - SECOND).await.unwrap();
    assert!(before.lost.is_empty() && before.rescued.is_empty());
    assert_eq!(before.next_due, Some(at(0) + TTL));

    let now = at(0) + TTL;
    let swept = store.sweep(10, now).await.unwrap();
    assert_eq!(swept.lost, [(session.id, agent_id(1))]);
    let rescued: HashSet<_> = swept.rescued.iter().copied().collect();
    assert_eq!(rescued, HashSet::from([(started, JobState::Ready), (waiting, JobState::Ready)]));
    let lanes: HashSet<_> = swept.lanes.iter().map(|lane| lane.id()).collect();
    assert_eq!(lanes, HashSet::from([job(1).lane.id(), lane("other", "k").id()]));

    let crashed = record(store, job_id(1)).await;
    assert_eq!(crashed.counters, Counters { attempt: 1, crashes: 1, deliveries: 0 });
    assert_eq!((crashed.state, crashed.run_at), (JobState::Ready, now));
    assert_eq!(crashed.failure.map(|failure| failure.code), Some("crashed".to_owned()));
    let returned = record(store, job_id(2)).await;
    assert_eq!(returned.counters, Counters { attempt: 1, crashes: 0, deliveries: 1 });

    let lost = store.session(session.id).await.unwrap().unwrap();
    assert_eq!(lost.end, Some(SessionEnd::Lost));
    assert!(store.sessions().await.unwrap().is_empty());
    let agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
    assert_eq!((agent.state, agent.changed_at), (AgentState::Failed, now));
    // Once is enough.
    let again = store.sweep(10, now).await.unwrap();
    assert!(again.lost.is_empty() && again.rescued.is_empty());
}

pub async fn a_job_that_kills_its_agents_is_buried(store: &Arc<dyn Store>) {
    for n in 1..=3 {
        let start = at(100 * n);
        let session = session_at(store, n, start).await;
        if n == 1 {
            enqueue(store, vec![job(1)], start).await;
        }
        let run = claim(store, session, 1, start).await[0].run;
        report(store, session, run, Report::Started, start).await;
        let swept = store.sweep(10, start + TTL).await.unwrap();
        let wanted = if n == 3 { JobState::Dead } else { JobState::Ready };
        assert_eq!(swept.rescued, [(run, wanted)], "crash {n}");
        assert_eq!(record(store, job_id(1)).await.counters.crashes, n as u32);
    }
    let session = session_at(store, 9, at(900)).await;
    assert!(claim(store, session, 1, at(900)).await.is_empty());
}

pub async fn a_run_that_is_to_be_cancelled_ends_with_its_session(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    store.cancel(vec![job_id(1)], cancel_request(), at(1)).await.unwrap();
    let swept = store.sweep(10, at(0) + TTL).await.unwrap();
    assert_eq!(swept.rescued, [(run, JobState::Cancelled)]);
    assert!(swept.lanes.is_empty(), "no lane got a ready job");
}

pub async fn the_report_of_a_rescued_run_is_stale(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    store.sweep(10, at(0) + TTL).await.unwrap();
    let late = settle(store, session, run, succeeded(), at(31)).await;
    assert_eq!((late.verdict, late.state), (mamos_core::lease::Verdict::Stale, Some(JobState::Ready)));
}

/// Losing a session is what a sweep decides, not a clock: until then its results count.
pub async fn a_session_that_expired_but_was_not_swept_may_still_settle(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let settled = settle(store, session, run, succeeded(), at(9999)).await;
    assert_eq!(
        (settled.verdict, settled.state),
        (mamos_core::lease::Verdict::Applied, Some(JobState::Succeeded))
    );
}

pub async fn overdue_jobs_are_buried_whatever_they_do(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let due = |n| NewJob { deadline: Some(at(20)), ..job(n) };
    let run = running(store, session, due(1), at(0)).await;
    let held = leased(store, session, due(2), at(0)).await;
    let jobs = vec![
        due(3),
        NewJob { run_at: Some(at(99)), ..due(4) },
        NewJob { needs_approval: true, ..due(5) },
        NewJob { deadline: Some(at(21)), ..job(6) },
    ];
    enqueue(store, jobs, at(0)).await;
    assert_eq!(store.sweep(10, at(19)).await.unwrap().next_due, Some(at(20)));
    let swept = store.sweep(10, at(20)).await.unwrap();
    let overdue: HashSet<_> = swept.overdue.iter().copied().collect();
    assert_eq!(overdue.len(), 5);
    assert!(overdue.contains(&run) && overdue.contains(&held));
    assert_eq!(swept.next_due, Some(at(21)));
    for n in 1..=5 {
        let read = record(store, job_id(n)).await;
        assert_eq!((read.state, read.finished_at), (JobState::Dead, Some(at(20))), "job {n}");
        assert_eq!(read.failure.map(|failure| failure.code), Some("deadline".to_owned()), "job {n}");
    }
    assert_eq!(state(store, job_id(6)).await, JobState::Ready);
    let history = store.attempts(job_id(1)).await.unwrap();
    assert_eq!((history.len(), history[0].end), (1, Some(AttemptEnd::Overdue)));
    assert!(store.held(session.id).await.unwrap().is_empty());
    let late = settle(store, session, run, succeeded(), at(21)).await;
    assert_eq!((late.verdict, late.state), (mamos_core::lease::Verdict::Stale, Some(JobState::Dead)));
}

pub async fn a_job_that_ended_in_time_is_not_overdue(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, NewJob { deadline: Some(at(20)), ..job(1) }, at(0)).await;
    settle(store, session, run, succeeded(), at(19)).await;
    let swept = store.sweep(10, at(29)).await.unwrap();
    assert!(swept.overdue.is_empty());
    assert_eq!(swept.next_due, Some(at(0) + TTL), "only the session is left to watch");
    assert_eq!(state(store, job_id(1)).await, JobState::Succeeded);
}
