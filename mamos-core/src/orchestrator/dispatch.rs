//! The dispatcher: plans claims, makes them, and sends what they gave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::engine::Engine;
use super::registry::Registry;
use crate::Result;
use crate::clock::Timestamp;
use crate::event::What;
use crate::id::SessionId;
use crate::job::ClaimedJob;
use crate::lease::{RunRef, SessionRef};
use crate::protocol::Dispatched;
use crate::store::{ClaimGroup, Claimed};

/// Runs until the orchestrator stops.
pub(crate) async fn run(engine: Arc<Engine>) {
    let mut failures = 0;
    loop {
        tokio::select! {
            biased;
            () = engine.stopping.cancelled() => return,
            () = engine.dispatch.notified() => {}
        }
        while !engine.stopping.is_cancelled() {
            match pass(&engine).await {
                Ok(true) => failures = 0,
                Ok(false) => break,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(target: "mamos::dispatch", %error, failures, "claiming failed; trying again");
                    engine.back_off(failures).await;
                }
            }
        }
    }
}

/// One claim, or nothing to do (`false`).
pub(crate) async fn pass(engine: &Engine) -> Result<bool> {
    let _one_at_a_time = engine.claiming.lock().await;
    recover(engine).await?;
    if engine.is_draining.load(Ordering::SeqCst) {
        return Ok(false);
    }
    let asked = engine.dispatch.answer();
    let (short, groups) = {
        let mut registry = engine.registry();
        let short = if engine.neighbours.are_there() { registry.short_lanes() } else { Vec::new() };
        (short, registry.plan())
    };
    if !short.is_empty() {
        engine.neighbours.lanes(short);
    }
    if groups.is_empty() {
        return Ok(false);
    }
    let now = engine.now();
    match engine.store.claim(groups.clone(), now).await {
        Ok(claimed) => {
            send(engine, &groups, claimed, now);
            if let Some(since) = asked {
                engine.tally.dispatch_lag.observe(engine.dispatch.lag(since));
            }
            Ok(true)
        }
        Err(error) => {
            // It may have been done: what these sessions hold must be read before they get more.
            engine.registry().claim_failed(&groups);
            Err(error)
        }
    }
}

/// Finds out what a failed claim did after all, and sends that.
async fn recover(engine: &Engine) -> Result<()> {
    let uncertain = engine.registry().uncertain();
    for (session, known) in uncertain {
        let held = match engine.store.held(session.id).await {
            Ok(held) => held,
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                // It stays uncertain and gets nothing; the others go on.
                tracing::error!(target: "mamos::dispatch", %error, session = %session.id, "what it holds is unreadable");
                continue;
            }
        };
        let now = engine.now();
        let mut registry = engine.registry();
        // A job that was known before the store was asked may have ended since; only one that was not
        // can be new, because nobody but this task claims for the session.
        let lost: Vec<ClaimedJob> = held
            .into_iter()
            .filter(|held| !held.is_started && known.binary_search(&held.claimed.run).is_err())
            .map(|held| held.claimed)
            .filter(|job| registry.link(session.id).is_some_and(|link| link.is_news(job.run)))
            .collect();
        hand_over(engine, &mut registry, session, lost, now);
        registry.certain(session);
    }
    Ok(())
}

fn send(engine: &Engine, groups: &[ClaimGroup], claimed: Claimed, now: Timestamp) {
    if let Some(next_due) = claimed.next_due {
        engine.due.no_later_than(next_due);
    }
    let takers: BTreeMap<SessionId, (usize, SessionRef)> = groups
        .iter()
        .enumerate()
        .flat_map(|(index, group)| {
            group.takers.iter().map(move |taker| (taker.session.id, (index, taker.session)))
        })
        .collect();
    let mut left: Vec<usize> =
        groups.iter().map(|group| group.takers.iter().map(|taker| taker.limit as usize).sum()).collect();
    let mut registry = engine.registry();
    for (session, jobs) in claimed.jobs {
        let Some((group, session)) = takers.get(&session) else { continue };
        left[*group] = left[*group].saturating_sub(jobs.len());
        // If the link is gone, its session holds the jobs until it resumes or expires.
        hand_over(engine, &mut registry, *session, jobs, now);
    }
    for (group, left) in groups.iter().zip(left) {
        let has_stale = group.takers.iter().any(|taker| claimed.stale.contains(&taker.session.id));
        if left == 0 || has_stale || claimed.has_more {
            for lane in &group.lanes {
                registry.lane_ready_by_id(*lane);
            }
        }
    }
    for session in claimed.stale {
        if let Some(link) = takers.get(&session).and_then(|(_, session)| registry.disconnect(*session)) {
            // The agent comes back with what it has, and is told what it still holds.
            link.outbox.close(None);
        }
    }
}

fn hand_over(
    engine: &Engine,
    registry: &mut Registry,
    session: SessionRef,
    jobs: Vec<ClaimedJob>,
    now: Timestamp,
) {
    if jobs.is_empty()
        || !registry.dispatched(session, jobs.iter().map(|job| (job.run, job.lane, job.payload.len())))
    {
        return;
    }
    let Some(link) = registry.link(session.id) else { return };
    let is_watched = engine.events.is_watched();
    engine.waiters.changed(jobs.iter().map(|job| job.run.job));
    for job in &jobs {
        engine.tally.wait.observe(now.since(job.ready_since));
        if is_watched {
            let (agent, counters) = (link.agent.clone(), job.counters);
            let what = What::JobDispatched { run: job.run, agent, counters };
            engine.events.tell_of(now, registry.lane(job.lane).cloned(), what);
        }
    }
    link.outbox.dispatch(jobs.into_iter().map(|job| dispatched(job, now)));
}

/// A claimed job, as its agent gets it.
pub(crate) fn dispatched(job: ClaimedJob, now: Timestamp) -> Dispatched {
    Dispatched {
        run: job.run,
        kind: job.kind,
        payload: job.payload,
        counters: job.counters,
        timeout: job.timeout,
        deadline_in: job.deadline.map(|deadline| deadline.since(now)),
        traceparent: job.traceparent,
    }
}

/// Asks an agent to stop a run. If it is not connected here, neighbours are told; false then.
pub(crate) fn cancel(engine: &Engine, session: SessionId, run: RunRef, grace: Duration) -> bool {
    let is_here = match engine.registry().link(session) {
        Some(link) => {
            link.outbox.cancel(run, grace);
            true
        }
        None => false,
    };
    if !is_here {
        engine.neighbours.sessions(vec![session]);
    }
    engine.tell(What::CancelRequested { run });
    is_here
}

/// Ends the link of a session that is no longer current.
pub(crate) fn cut(engine: &Engine, session: SessionRef) {
    if let Some(link) = engine.registry().disconnect(session) {
        link.outbox.close(None);
    }
}
