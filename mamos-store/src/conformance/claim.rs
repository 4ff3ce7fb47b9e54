//! Promises about who gets which job.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mamos_core::JobId;
use mamos_core::Store;
use mamos_core::job::{Counters, NewJob, Priority};
use mamos_core::lease::{RunRef, SessionRef};
use mamos_core::store::Report;
use mamos_core::{JobState, Timestamp};

use super::scene::{
    SECOND, TTL, at, attach, attach_request, claim, claim_all, enqueue, epoch, group, job, job_id, job_in,
    lane, leased, main_lane, record, report, session, session_id, settle, succeeded,
};

fn ids(claimed: &[mamos_core::job::ClaimedJob]) -> Vec<JobId> {
    claimed.iter().map(|claimed| claimed.run.job).collect()
}

pub async fn a_claimed_job_is_leased_to_its_session(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let spec = NewJob {
        timeout: Some(60 * SECOND),
        deadline: Some(at(999)),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        ..job(1)
    };
    enqueue(store, vec![spec.clone()], at(0)).await;
    let claimed = claim(store, session, 5, at(1)).await;
    assert_eq!(claimed.len(), 1);
    let got = &claimed[0];
    assert_eq!(got.run, RunRef { job: job_id(1), epoch: epoch(1) });
    assert_eq!((got.lane, &got.kind, &got.payload), (spec.lane.id(), spec.lane.kind(), &spec.payload));
    assert_eq!(
        (got.timeout, got.deadline, &got.traceparent),
        (spec.timeout, spec.deadline, &spec.traceparent)
    );
    assert_eq!((got.counters, got.ready_since), (Counters::default(), at(0)));

    let read = record(store, job_id(1)).await;
    assert_eq!((read.state, read.epoch), (JobState::Leased, epoch(1)));
    assert_eq!((read.session, read.leased_at, read.started_at), (Some(session.id), Some(at(1)), None));
    assert_eq!(read.agent, Some(super::scene::agent_id(1)));
}

pub async fn no_job_is_claimed_twice_however_many_claim_at_once(store: &Arc<dyn Store>) {
    let mut sessions = Vec::new();
    for n in 0..8 {
        sessions.push(session(store, n).await);
    }
    enqueue(store, (0..400).map(job).collect(), at(0)).await;
    let tasks: Vec<_> = sessions
        .into_iter()
        .map(|session| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let claimed = claim(&store, session, 7, at(1)).await;
                    if claimed.is_empty() {
                        return (session, mine);
                    }
                    mine.extend(ids(&claimed));
                }
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for task in tasks {
        let (session, mine) = task.await.unwrap();
        assert_eq!(store.held(session.id).await.unwrap().len(), mine.len(), "it holds what it claimed");
        for id in mine {
            assert!(seen.insert(id), "{id} was claimed twice");
        }
    }
    assert_eq!(seen.len(), 400, "every job was claimed");
}

pub async fn a_claimed_job_is_not_claimed_again(store: &Arc<dyn Store>) {
    let (one, two) = (session(store, 1).await, session(store, 2).await);
    let run = leased(store, one, job(1), at(0)).await;
    assert!(claim(store, two, 9, at(1)).await.is_empty());
    report(store, one, run, Report::Started, at(2)).await;
    assert!(claim(store, two, 9, at(3)).await.is_empty());
    assert!(claim(store, one, 9, at(3)).await.is_empty());
    settle(store, one, run, succeeded(), at(4)).await;
    assert!(claim(store, two, 9, at(5)).await.is_empty());
}

pub async fn jobs_are_claimed_by_priority_then_time_then_order(store: &Arc<dyn Store>) {
    let session = super::scene::session_at(store, 1, at(100)).await;
    let (a, b) = (lane("qa", "ka"), lane("qb", "kb"));
    let with = |n, lane: &Arc<_>, priority, seconds: Option<u64>| NewJob {
        priority: Priority(priority),
        run_at: seconds.map(at),
        ..job_in(n, Arc::clone(lane))
    };
    // The ids fall while the order of storing grows, so that neither can be taken for the other.
    let jobs = vec![
        with(9, &a, 0, None),
        with(8, &b, 0, None),
        with(7, &a, 5, Some(50)),
        with(6, &b, 5, Some(40)),
        with(5, &a, -1, Some(1)),
        with(4, &b, 0, Some(30)),
        with(3, &a, 0, None),
        with(2, &b, 7, None),
    ];
    enqueue(store, jobs, at(100)).await;
    let claimed = claim_all(store, &[a.id(), b.id()], &[(session, 99)], at(100)).await;
    assert_eq!(ids(&claimed.jobs[0].1), [2, 6, 7, 4, 9, 8, 3, 5].map(job_id));
}

pub async fn the_order_of_claim_holds_from_one_claim_to_the_next(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let of = |n, priority| NewJob { priority: Priority(priority), ..job(n) };
    enqueue(store, vec![of(1, 0), of(2, 1), of(3, 0)], at(0)).await;
    let mut order = Vec::new();
    order.extend(ids(&claim(store, session, 2, at(1)).await));
    enqueue(store, vec![of(4, 1), of(5, 0)], at(2)).await;
    for _ in 0..3 {
        order.extend(ids(&claim(store, session, 1, at(3)).await));
    }
    assert_eq!(order, [2, 1, 4, 3, 5].map(job_id));
}

pub async fn jobs_are_dealt_in_rounds(store: &Arc<dyn Store>) {
    let mut sessions = Vec::new();
    for n in 1..=4 {
        sessions.push(session(store, n).await);
    }
    enqueue(store, (1..=7).map(job).collect(), at(0)).await;
    let takers = [(sessions[0], 1), (sessions[1], 9), (sessions[2], 0), (sessions[3], 2)];
    let claimed = claim_all(store, &[main_lane().id()], &takers, at(1)).await;
    let dealt: HashMap<_, _> = claimed.jobs.iter().map(|(session, jobs)| (*session, ids(jobs))).collect();
    assert_eq!(dealt.len(), 3, "sessions that got none are left out");
    assert_eq!(dealt[&session_id(1)], [1].map(job_id));
    assert_eq!(dealt[&session_id(2)], [2, 4, 6, 7].map(job_id));
    assert_eq!(dealt[&session_id(4)], [3, 5].map(job_id));
    assert!(claimed.stale.is_empty());
}

pub async fn groups_are_served_in_turn_and_from_their_own_lanes(store: &Arc<dyn Store>) {
    let (one, two) = (session(store, 1).await, session(store, 2).await);
    let (a, b) = (lane("main", "a"), lane("main", "b"));
    let jobs = vec![job_in(1, Arc::clone(&a)), job_in(2, Arc::clone(&a)), job_in(3, Arc::clone(&b))];
    enqueue(store, jobs, at(0)).await;
    let groups = vec![
        group(&[a.id()], &[(one, 1)]),
        group(&[a.id(), b.id()], &[(two, 1), (one, 5)]),
        group(&[lane("main", "unheard-of").id()], &[(two, 5)]),
    ];
    let claimed = store.claim(groups, at(1)).await.unwrap();
    let got = |session: SessionRef| -> Vec<JobId> {
        let mine: Vec<_> = claimed.jobs.iter().filter(|(id, _)| *id == session.id).collect();
        assert_eq!(mine.len(), 1, "one list a session");
        ids(&mine[0].1)
    };
    assert_eq!(got(one), [1, 3].map(job_id));
    assert_eq!(got(two), [2].map(job_id));
}

pub async fn jobs_that_wait_are_not_claimed(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let jobs = vec![NewJob { run_at: Some(at(5)), ..job(1) }, NewJob { needs_approval: true, ..job(2) }];
    enqueue(store, jobs, at(0)).await;
    // Even when its time has come: promoting is what a sweep does.
    assert!(claim(store, session, 9, at(6)).await.is_empty());
}

pub async fn a_paused_queue_gives_nothing(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let (a, b) = (lane("paused", "k"), lane("open", "k"));
    enqueue(store, vec![job_in(1, Arc::clone(&a)), job_in(2, Arc::clone(&b))], at(0)).await;
    store.set_paused(a.queue(), true).await.unwrap();
    let lanes = [a.id(), b.id()];
    let claimed = claim_all(store, &lanes, &[(session, 9)], at(1)).await;
    assert_eq!(ids(&claimed.jobs[0].1), [job_id(2)]);
    store.set_paused(a.queue(), false).await.unwrap();
    let claimed = claim_all(store, &lanes, &[(session, 9)], at(2)).await;
    assert_eq!(ids(&claimed.jobs[0].1), [job_id(1)]);
}

pub async fn a_session_that_is_not_current_gets_nothing_and_is_named(store: &Arc<dyn Store>) {
    let expired = session(store, 1).await;
    let closed = session(store, 2).await;
    let superseded = session(store, 3).await;
    let current = super::scene::session_at(store, 4, at(20)).await;
    store.detach(closed, at(1)).await.unwrap();
    attach(store, attach_request(3, 33), at(20)).await;
    let earlier_link = super::scene::session_at(store, 5, at(20)).await;
    let resume = mamos_core::store::Attach { resume: Some(earlier_link.id), ..attach_request(5, 55) };
    attach(store, resume, at(21)).await;
    let unheard_of = SessionRef { id: session_id(99), link: 1 };
    enqueue(store, (1..=20).map(job).collect(), at(0)).await;

    // Expiry is exact: at the moment itself the session is gone.
    let now = at(0) + TTL;
    let stale = [expired, closed, superseded, earlier_link, unheard_of];
    let takers: Vec<_> = stale.iter().chain([&current]).map(|session| (*session, 2)).collect();
    let claimed = claim_all(store, &[main_lane().id()], &takers, now).await;
    assert_eq!(claimed.jobs.len(), 1);
    assert_eq!((claimed.jobs[0].0, claimed.jobs[0].1.len()), (current.id, 2));
    let named: HashSet<_> = claimed.stale.iter().copied().collect();
    assert_eq!(named, stale.iter().map(|session| session.id).collect());
}

pub async fn every_claim_raises_the_epoch(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    enqueue(store, vec![job(1)], at(0)).await;
    for n in 1..=5 {
        let claimed = claim(store, session, 1, at(n)).await;
        assert_eq!(claimed[0].run.epoch, epoch(n));
        report(store, session, claimed[0].run, Report::Release, at(n)).await;
    }
}

pub async fn a_claim_says_when_the_next_scheduled_job_is_due(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let next_due = async |now: Timestamp| {
        let claimed = claim_all(store, &[main_lane().id()], &[(session, 1)], now).await;
        claimed.next_due
    };
    assert_eq!(next_due(at(0)).await, None);
    let other = NewJob { run_at: Some(at(500)), ..job_in(1, lane("other", "other")) };
    enqueue(store, vec![other, NewJob { run_at: Some(at(900)), ..job(2) }], at(0)).await;
    assert_eq!(next_due(at(1)).await, Some(at(500)), "of any lane");
    store.sweep(10, at(600)).await.unwrap();
    // The session expired in that sweep; the answer does not depend on it.
    assert_eq!(next_due(at(601)).await, Some(at(900)));
}
