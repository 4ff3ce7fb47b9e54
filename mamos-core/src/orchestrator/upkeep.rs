//! What has to be done from time to time: promoting, rescuing, burying, renewing, pruning, rebalancing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::engine::Engine;
use super::registry::{LaneNews, Link};
use super::{dispatch, settle};
use crate::Result;
use crate::agent::state::Liveness;
use crate::clock::Timestamp;
use crate::event::What;
use crate::job::state::JobState;
use crate::lease::SessionRef;
use crate::protocol::ToAgent;
use crate::store::SessionEnd;

/// How many jobs a sweep touches at most, of each sort. Small enough that the store answers others in
/// between.
const SWEEP_LIMIT: u32 = 1000;
/// How many ended jobs are pruned at once.
const PRUNE_LIMIT: u32 = 1000;
/// Renewals wait this long for others, at most a hundredth of the lease: two thirds of it are still left, and
/// ten thousand agents that beat cost a few transactions a second instead of a thousand.
const RENEW_GATHER: Duration = Duration::from_millis(250);
/// The most sessions that are renewed at once.
const MAX_RENEWALS: usize = 4096;
/// How many silent links are compared with the store at once. The others are when these are gone.
const MAX_VERIFIED: usize = 64;
/// No two sweeps follow each other faster, however often something falls due.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// Sweeps when something is due, and at the latest every `sweep_every` or quarter of a lease, until the
/// orchestrator stops.
pub(crate) async fn run(engine: Arc<Engine>) {
    let mut failures = 0;
    let mut tended_at = Timestamp::EPOCH;
    let mut swept_at = engine.now();
    loop {
        engine.due.reset();
        let is_back = engine.now().since(swept_at) >= engine.settings.lease_ttl / 2;
        // Failed before means that the store was away, and not this orchestrator alone.
        let adopts = is_back.then_some(if failures > 0 { Adopt::All } else { Adopt::Own });
        match sweep_after(&engine, adopts).await {
            Ok(()) => {
                failures = 0;
                swept_at = engine.now();
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(target: "mamos::upkeep", %error, failures, "the sweep failed; trying again");
                engine.back_off(failures).await;
                engine.due.no_later_than(engine.now());
            }
        }
        let now = engine.now();
        if now.since(tended_at) >= engine.settings.sweep_every || now < tended_at {
            tended_at = now;
            tend(&engine, now);
            // Lanes too: another program may have stored jobs that nobody told this one about.
            let done = async {
                learn_lanes(&engine, LaneNews::Heard).await?;
                end_moved(&engine, now).await?;
                prune(&engine, now).await
            };
            let done = done.await;
            if let Err(error) = done {
                tracing::warn!(target: "mamos::upkeep", %error, "upkeep failed; it is tried again later");
            }
        }
        if !rest(&engine).await {
            return;
        }
    }
}

/// Sweeps. After a pause, a jump of the clock or an outage of the store that could have cost agents
/// their leases, it first gives them the time to come back: it was not they who were away.
async fn sweep_after(engine: &Engine, adopts: Option<Adopt>) -> Result<()> {
    if let Some(whose) = adopts {
        tracing::warn!(target: "mamos::upkeep", ?whose, "back after a pause; agents get the time of a lease to return");
        let _no_claims = engine.claiming.lock().await;
        adopt(engine, whose).await?;
    }
    renew_silent(engine).await?;
    sweep(engine).await
}

/// Makes leases last for their whole length from the last sign of their agent on. Not every sign is written
/// down: of an agent that was heard of after that, and went silent, it is made up for here.
async fn renew_silent(engine: &Engine) -> Result<()> {
    let (now, ttl) = (engine.now(), engine.settings.lease_ttl);
    let mut silent: BTreeMap<Timestamp, Vec<SessionRef>> = BTreeMap::new();
    {
        let mut registry = engine.registry();
        let is_due =
            |link: &&Link| link.heard_at > link.renewed_at && now.since(link.renewed_at) >= ttl * 2 / 3;
        let due: Vec<SessionRef> = registry.links().filter(is_due).map(|link| link.session).collect();
        for session in due {
            if let Some(link) = registry.current(session) {
                link.renewed_at = link.heard_at;
                silent.entry(link.heard_at).or_default().push(session);
            }
        }
    }
    for (heard_at, sessions) in silent {
        renew_from(engine, sessions, heard_at).await?;
    }
    Ok(())
}

/// Renews leases as of the time when their agents were last heard of. Those that are over stay so.
pub(crate) async fn renew_from(
    engine: &Engine,
    sessions: Vec<SessionRef>,
    heard_at: Timestamp,
) -> Result<()> {
    let now = engine.now();
    let left = (heard_at + engine.settings.lease_ttl).since(now);
    if !left.is_zero() {
        engine.store.renew(sessions, left, now).await?;
    }
    Ok(())
}

/// Waits until something is due. False if the orchestrator stops.
async fn rest(engine: &Engine) -> bool {
    let pause = SWEEP_PAUSE.min(engine.settings.sweep_every);
    tokio::select! {
        biased;
        () = engine.stopping.cancelled() => return false,
        () = tokio::time::sleep(pause) => {}
    }
    // Well before a sweep would think that it had been away: then no short lease would ever run out.
    let longest = engine.settings.sweep_every.min(engine.settings.lease_ttl / 4);
    let longest = tokio::time::Instant::now() + longest;
    loop {
        let earlier = engine.due.earlier.notified();
        let left = engine.due.at().since(engine.now());
        if left.is_zero() {
            return true;
        }
        tokio::select! {
            biased;
            () = engine.stopping.cancelled() => return false,
            () = earlier => {}
            () = tokio::time::sleep(left) => {}
            () = tokio::time::sleep_until(longest) => return true,
        }
    }
}

/// Does everything that is due in the store.
pub(crate) async fn sweep(engine: &Engine) -> Result<()> {
    loop {
        let now = engine.now();
        let swept = engine.store.sweep(SWEEP_LIMIT, now).await?;
        if let Some(next_due) = swept.next_due {
            engine.due.no_later_than(next_due);
        }
        for (session, agent) in swept.lost {
            tracing::warn!(target: "mamos::upkeep", agent_id = %agent, "the session of an agent expired");
            let link = engine.registry().link(session).map(|link| link.session);
            match link {
                Some(link) => dispatch::cut(engine, link),
                None => engine.neighbours.sessions(vec![session]),
            }
            engine.tell(What::AgentLost { agent, session });
        }
        for (run, state) in swept.rescued {
            settle::taken_away(engine, run, state, now);
        }
        for run in swept.overdue {
            settle::taken_away(engine, run, JobState::Dead, now);
        }
        {
            let mut registry = engine.registry();
            swept.lanes.iter().for_each(|lane| registry.lane_ready(lane));
        }
        if !swept.lanes.is_empty() {
            engine.dispatch.notify_one();
        }
        if !swept.has_more {
            return Ok(());
        }
    }
}

/// Marks links that have gone quiet, and takes back what would wait while others idle.
fn tend(engine: &Engine, now: Timestamp) {
    let mut registry = engine.registry();
    let ttl = engine.settings.lease_ttl;
    let quiet: Vec<SessionRef> = registry
        .links()
        .filter(|link| !link.is_suspect && Liveness::of(link.heard_at, ttl, now) != Liveness::Live)
        .map(|link| link.session)
        .collect();
    for session in quiet {
        registry.change(session, |link| link.is_suspect = true);
    }
    for (outbox, runs) in registry.rebalance() {
        outbox.order(ToAgent::Retract { runs });
    }
}

/// Ends links that hang half open while their sessions go on at another orchestrator: those of links that are
/// silent for longer than a lease, and yet were not lost. Usually a neighbour says so much earlier.
async fn end_moved(engine: &Engine, now: Timestamp) -> Result<()> {
    let silent: Vec<SessionRef> = {
        let registry = engine.registry();
        let is_silent = |link: &&Link| now.since(link.heard_at) > engine.settings.lease_ttl;
        registry.links().filter(is_silent).map(|link| link.session).take(MAX_VERIFIED).collect()
    };
    for linked in silent {
        let stored = engine.store.session(linked.id).await?;
        if stored.is_none_or(|stored| stored.end.is_some() || stored.session.link > linked.link) {
            end_stale(engine, linked).await;
        }
    }
    Ok(())
}

async fn prune(engine: &Engine, now: Timestamp) -> Result<()> {
    engine.store.prune_documents(now, PRUNE_LIMIT).await?;
    let Some(keep) = engine.settings.keep_ended else { return Ok(()) };
    // A quarter of the time at most: what is left waits for the next turn.
    let until = tokio::time::Instant::now() + engine.settings.sweep_every / 4;
    while engine.store.prune(now - keep, PRUNE_LIMIT).await? == PRUNE_LIMIT
        && tokio::time::Instant::now() < until
    {}
    Ok(())
}

/// Renews the sessions that ask for it, in batches, until nobody can ask any more.
pub(crate) async fn renew(engine: Arc<Engine>, mut requests: mpsc::Receiver<SessionRef>) {
    while let Some(first) = requests.recv().await {
        let mut batch = BTreeMap::from([(first.id, first)]);
        let end = tokio::time::Instant::now() + RENEW_GATHER.min(engine.settings.lease_ttl / 100);
        while batch.len() < MAX_RENEWALS
            && let Ok(Some(next)) = tokio::time::timeout_at(end, requests.recv()).await
        {
            batch.insert(next.id, next);
        }
        let sessions: Vec<SessionRef> = batch.into_values().collect();
        let now = engine.now();
        match engine.store.renew(sessions.clone(), engine.settings.lease_ttl, now).await {
            Ok(verdicts) => {
                for (session, verdict) in sessions.into_iter().zip(verdicts) {
                    if !verdict.is_applied() {
                        end_stale(&engine, session).await;
                    }
                }
            }
            Err(error) => {
                // The next heartbeat asks again: a lease holds for several.
                tracing::warn!(target: "mamos::upkeep", %error, "renewing sessions failed");
                for session in sessions {
                    let mut registry = engine.registry();
                    registry.change(session, |link| link.renewed_at = Timestamp::EPOCH);
                }
            }
        }
    }
}

/// The session went on elsewhere or ended: this link is of no use any more.
pub(crate) async fn end_stale(engine: &Engine, session: SessionRef) {
    let end = engine.store.session(session.id).await.ok().flatten().and_then(|record| record.end);
    // Superseded: a newer process of the same agent took over, and this one must not fight it.
    let last = (end == Some(SessionEnd::Superseded)).then_some(ToAgent::Superseded);
    if let Some(link) = engine.registry().disconnect(session) {
        link.outbox.close(last);
    }
}

/// Whose sessions are adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adopt {
    /// Those of this orchestrator: it was away.
    Own,
    /// Those of all orchestrators: the store was away, and with it the leases of everybody's agents.
    All,
}

/// Gives agents the time of a lease to come back, after a start, a pause or an outage of the store: it was
/// not they who were away, and what they run is not touched. Links of sessions that went on elsewhere
/// meanwhile are ended.
pub(crate) async fn adopt(engine: &Engine, whose: Adopt) -> Result<()> {
    let sessions = engine.store.sessions().await?.into_iter();
    let adopted =
        sessions.filter(|session| whose == Adopt::All || session.orchestrator == engine.settings.name);
    let mut adopted: Vec<SessionRef> = adopted.map(|session| session.session).collect();
    let here: Vec<SessionRef> = engine.registry().links().map(|link| link.session).collect();
    adopted.extend(here);
    adopted.sort_unstable();
    adopted.dedup();
    for sessions in adopted.chunks(MAX_RENEWALS) {
        let verdicts = engine.store.adopt(sessions.to_vec(), engine.settings.lease_ttl, engine.now()).await?;
        for (session, _) in sessions.iter().zip(verdicts).filter(|(_, verdict)| !verdict.is_applied()) {
            end_stale(engine, *session).await;
        }
    }
    Ok(())
}

/// Learns the lanes that hold ready jobs: of an earlier life, or of other orchestrators.
pub(crate) async fn learn_lanes(engine: &Engine, news: LaneNews) -> Result<()> {
    let lanes = engine.store.ready_lanes().await?;
    let mut registry = engine.registry();
    lanes.iter().for_each(|lane| registry.lane_ready_as(lane, news));
    drop(registry);
    engine.dispatch.notify_one();
    Ok(())
}
