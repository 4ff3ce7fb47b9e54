//! Promises about sessions that are open: renewed, looked at, closed.

use std::sync::Arc;

use mamos_core::agent::state::AgentState;
use mamos_core::lease::{SessionRef, Verdict};
use mamos_core::store::SessionEnd;
use mamos_core::{JobState, Store};

use super::scene::{
    SECOND, TTL, agent_id, at, cancel_request, claim, enqueue, job, job_id, leased, record, running, session,
    session_id, state,
};

pub async fn a_renewed_session_expires_a_lease_from_now(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    for (now, ttl) in [(at(10), TTL), (at(11), 5 * SECOND), (at(15), 300 * SECOND)] {
        assert_eq!(store.renew(vec![session], ttl, now).await.unwrap(), [Verdict::Applied]);
        // Whatever was left of the old one, even if that was more.
        assert_eq!(store.session(session.id).await.unwrap().unwrap().expires_at, now + ttl);
    }
    assert_eq!(store.sweep(10, at(200)).await.unwrap().next_due, Some(at(315)));
}

pub async fn renewing_keeps_every_job_of_the_session(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    running(store, session, job(1), at(0)).await;
    leased(store, session, job(2), at(0)).await;
    for n in 1..10 {
        store.renew(vec![session], TTL, at(20 * n)).await.unwrap();
        let swept = store.sweep(10, at(20 * n + 15)).await.unwrap();
        assert!(swept.rescued.is_empty() && swept.lost.is_empty());
    }
    assert_eq!(store.held(session.id).await.unwrap().len(), 2);
}

pub async fn a_session_that_is_over_is_not_renewed(store: &Arc<dyn Store>) {
    let (expired, closed, alive) =
        (session(store, 1).await, session(store, 2).await, super::scene::session_at(store, 3, at(20)).await);
    store.detach(closed, at(1)).await.unwrap();
    let unheard_of = SessionRef { id: session_id(404), link: 1 };
    let wrong_link = SessionRef { link: 9, ..alive };
    let sessions = vec![unheard_of, expired, alive, closed, wrong_link, alive];
    // At the moment itself it is expired.
    let verdicts = store.renew(sessions, TTL, at(0) + TTL).await.unwrap();
    let wanted = [
        Verdict::Missing,
        Verdict::Stale,
        Verdict::Applied,
        Verdict::Stale,
        Verdict::Stale,
        Verdict::Applied,
    ];
    assert_eq!(verdicts, wanted);
    assert_eq!(store.session(expired.id).await.unwrap().unwrap().expires_at, at(0) + TTL);
    let lost = store.sweep(10, at(0) + TTL).await.unwrap().lost;
    assert_eq!(lost, [(expired.id, agent_id(1))]);
}

pub async fn a_session_that_expired_is_adopted_with_all_that_it_holds(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    running(store, session, job(1), at(0)).await;
    leased(store, session, job(2), at(0)).await;
    let late = at(500);
    assert_eq!(store.renew(vec![session], TTL, late).await.unwrap(), [Verdict::Stale]);
    assert_eq!(store.adopt(vec![session], TTL, late).await.unwrap(), [Verdict::Applied]);
    let adopted = store.session(session.id).await.unwrap().unwrap();
    assert_eq!((adopted.session, adopted.expires_at, adopted.end), (session, late + TTL, None));
    let swept = store.sweep(10, late).await.unwrap();
    assert!(swept.lost.is_empty() && swept.rescued.is_empty());
    assert_eq!(store.held(session.id).await.unwrap().len(), 2);
    assert_eq!(store.renew(vec![session], TTL, late).await.unwrap(), [Verdict::Applied]);
}

pub async fn a_session_that_ended_or_moved_is_not_adopted(store: &Arc<dyn Store>) {
    let (lost, closed) = (session(store, 1).await, session(store, 2).await);
    let alive = super::scene::session_at(store, 3, at(20)).await;
    store.detach(closed, at(1)).await.unwrap();
    store.sweep(10, at(0) + TTL).await.unwrap();
    let moved = SessionRef { link: alive.link - 1, ..alive };
    let unheard_of = SessionRef { id: session_id(404), link: 1 };
    let sessions = vec![unheard_of, lost, closed, moved, alive];
    let verdicts = store.adopt(sessions, 2 * TTL, at(1) + TTL).await.unwrap();
    let wanted = [Verdict::Missing, Verdict::Stale, Verdict::Stale, Verdict::Stale, Verdict::Applied];
    assert_eq!(verdicts, wanted);
    assert_eq!(store.session(lost.id).await.unwrap().unwrap().end, Some(SessionEnd::Lost));
}

pub async fn a_goodbye_gives_back_what_was_held(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    running(store, session, job(1), at(0)).await;
    leased(store, session, job(2), at(0)).await;
    running(store, session, job(3), at(0)).await;
    store.cancel(vec![job_id(3)], cancel_request(), at(0)).await.unwrap();
    assert_eq!(store.detach(session, at(5)).await.unwrap(), Verdict::Applied);

    let read = record(store, job_id(1)).await;
    assert_eq!((read.state, read.counters.crashes, read.counters.deliveries), (JobState::Ready, 0, 0));
    let read = record(store, job_id(2)).await;
    assert_eq!((read.state, read.counters.crashes, read.counters.deliveries), (JobState::Ready, 0, 1));
    assert_eq!(state(store, job_id(3)).await, JobState::Cancelled);
    assert!(store.held(session.id).await.unwrap().is_empty());
    assert_eq!(store.session(session.id).await.unwrap().unwrap().end, Some(SessionEnd::Closed));
    let agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
    assert_eq!((agent.state, agent.changed_at), (AgentState::Stopped, at(5)));

    // Once more is about a session that is over, and so is its expiry.
    assert_eq!(store.detach(session, at(6)).await.unwrap(), Verdict::Stale);
    assert!(store.sweep(10, at(99)).await.unwrap().lost.is_empty());
    let unheard_of = SessionRef { id: session_id(404), link: 1 };
    assert_eq!(store.detach(unheard_of, at(6)).await.unwrap(), Verdict::Missing);
}

pub async fn held_jobs_are_told_as_they_were_claimed(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    enqueue(store, [3, 1, 2].map(job).to_vec(), at(0)).await;
    let mut claimed = claim(store, session, 9, at(1)).await;
    claimed.sort_by_key(|claimed| claimed.run);
    super::scene::report(store, session, claimed[1].run, mamos_core::store::Report::Started, at(2)).await;
    store.cancel(vec![job_id(3)], cancel_request(), at(3)).await.unwrap();
    let held = store.held(session.id).await.unwrap();
    assert_eq!(held.iter().map(|held| held.claimed.clone()).collect::<Vec<_>>(), claimed);
    assert_eq!(held.iter().map(|held| held.is_started).collect::<Vec<_>>(), [false, true, false]);
    let cancels: Vec<_> = held.into_iter().map(|held| held.cancel).collect();
    assert_eq!(cancels, [None, None, Some(cancel_request())]);
    assert!(store.held(session_id(404)).await.unwrap().is_empty());
}

pub async fn the_open_sessions_are_those_that_have_not_ended(store: &Arc<dyn Store>) {
    let mut open = Vec::new();
    for n in 1..=6 {
        open.push(session(store, n).await);
    }
    store.detach(open.remove(0), at(1)).await.unwrap();
    let listed = store.sessions().await.unwrap();
    let mut ids: Vec<_> = listed.iter().map(|session| session.session).collect();
    ids.sort_by_key(|session| session.id);
    assert_eq!(ids, open);
    assert!(store.session(session_id(404)).await.unwrap().is_none());
}
