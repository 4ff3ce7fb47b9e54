//! Listening to neighbours: what they name is looked at in the store, and what that shows is done here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::hint::Hint;
use super::tell::heed_idle;
use crate::agent::state::AgentState;
use crate::hint::{Heard, HintListener};
use crate::id::{AgentId, JobId, QueueName, SessionId};
use crate::job::lane::LaneId;
use crate::orchestrator::engine::Engine;
use crate::orchestrator::registry::LaneNews;
use crate::orchestrator::{agents, session, upkeep};
use crate::protocol::ToAgent;
use crate::{ErrorKind, Result};

/// How many hints are looked at together.
const MAX_TOGETHER: usize = 256;

/// What hints name, each thing once.
#[derive(Debug, Default)]
struct Named {
    lanes: BTreeSet<LaneId>,
    queues: BTreeSet<QueueName>,
    jobs: BTreeSet<JobId>,
    sessions: BTreeSet<SessionId>,
    agents: BTreeSet<AgentId>,
    everything: bool,
}

/// Listens until nobody needs the orchestrator any more.
pub(crate) async fn listen(engine: Arc<Engine>) {
    let Some(hints) = engine.neighbours.hints.clone() else { return };
    let mut failures = 0;
    loop {
        let listening = async {
            match hints.listen().await {
                Ok(mut listener) => {
                    failures = 0;
                    // What was told before is not known.
                    look(&engine, Named { everything: true, ..Named::default() }).await;
                    hear(&engine, &mut *listener).await;
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(target: "mamos::neighbours", %error, failures, "hints are not heard; trying again");
                    engine.back_off(failures).await;
                }
            }
        };
        if engine.gone.run_until_cancelled(listening).await.is_none() {
            return;
        }
    }
}

/// Hears until no hint will come any more.
async fn hear(engine: &Engine, listener: &mut dyn HintListener) {
    loop {
        let mut named = Named::default();
        let mut next = Some(listener.next().await);
        let mut count = 0;
        while let Some(heard) = next {
            match heard {
                Heard::Hint(bytes) => take(engine, &bytes, &mut named),
                Heard::Gap => named.everything = true,
                Heard::Closed => return,
            }
            count += 1;
            next = if count < MAX_TOGETHER { listener.next().now_or_never() } else { None };
        }
        look(engine, named).await;
    }
}

/// Takes in what one hint says.
fn take(engine: &Engine, bytes: &Bytes, named: &mut Named) {
    let neighbours = &engine.neighbours;
    let (from, hint) = Hint::decode(bytes);
    if from == Some(neighbours.life) {
        return;
    }
    match hint {
        Hint::Present { name, idle } => {
            let Some(life) = from else { return };
            let is_new = neighbours.state().heard_of(life, idle, Instant::now());
            neighbours.forget_gone();
            heed_idle(engine);
            if is_new {
                welcome(engine, &name);
            }
        }
        Hint::Leaving => {
            let Some(life) = from else { return };
            neighbours.state().left(life);
            neighbours.forget_gone();
            heed_idle(engine);
        }
        Hint::Watched(jobs) => {
            let mut state = neighbours.state();
            let watched = state.watch(jobs, Instant::now());
            drop(state);
            neighbours.watched.store(watched, Ordering::Relaxed);
            neighbours.news.notify_one();
        }
        Hint::Lanes(lanes) => named.lanes.extend(lanes),
        Hint::Queues(queues) => named.queues.extend(queues),
        Hint::Jobs(jobs) => named.jobs.extend(jobs),
        Hint::Sessions(sessions) => named.sessions.extend(sessions),
        Hint::Agents(agents) => named.agents.extend(agents),
        Hint::Everything => named.everything = true,
    }
}

/// A new neighbour is told that this one is there, too.
fn welcome(engine: &Engine, name: &str) {
    tracing::info!(target: "mamos::neighbours", name, "another orchestrator is on this store");
    if name == engine.settings.name && engine.neighbours.is_running() {
        tracing::error!(
            target: "mamos::neighbours",
            name,
            "another orchestrator on this store has the same name; give each its own, or each takes the other's agents for its own"
        );
    }
    engine.neighbours.greet();
}

/// Looks at what was named, and does here what the store shows.
async fn look(engine: &Engine, mut named: Named) {
    if named.everything {
        // With what all links hold, everything that could have been named.
        let registry = engine.registry();
        for link in registry.links() {
            named.sessions.insert(link.session.id);
            named.agents.insert(link.agent.clone());
        }
        drop(registry);
        engine.waiters.wake_all();
        engine.neighbours.watch(engine.waiters.jobs());
    }
    engine.waiters.wake(named.jobs.iter().copied());
    let mut is_unknown = named.everything;
    {
        let mut registry = engine.registry();
        for lane in &named.lanes {
            is_unknown |= !registry.lane_ready_by_id_as(*lane, LaneNews::Heard);
        }
        named.queues.iter().for_each(|queue| registry.queue_ready(queue));
    }
    let result = async {
        if is_unknown {
            upkeep::learn_lanes(engine, LaneNews::Heard).await?;
        } else if !named.lanes.is_empty() || !named.queues.is_empty() {
            engine.dispatch.notify_one();
        }
        for agent in &named.agents {
            look_at_agent(engine, agent).await?;
        }
        for session in &named.sessions {
            look_at_session(engine, *session).await?;
        }
        Ok::<_, crate::Error>(())
    };
    if let Err(error) = result.await {
        tracing::warn!(target: "mamos::neighbours", %error, "what a neighbour named was not looked at");
    }
}

/// An operator changed the agent elsewhere: if it is linked here, it hears of it here.
async fn look_at_agent(engine: &Engine, agent: &AgentId) -> Result<()> {
    if engine.registry().link_of(agent).is_none() {
        return Ok(());
    }
    let Some(record) = engine.store.agent(agent).await? else { return Ok(()) };
    let dismissed = if record.state == AgentState::Decommissioned {
        Some(agents::decommissioned_message())
    } else {
        record.revocation.as_ref().map(agents::revoked_message)
    };
    if let Some(message) = dismissed {
        let last = ToAgent::Refused { is_final: true, message };
        if let Some(session) = session::dismiss(engine, agent, last) {
            // Whoever decided it may have met a link that has moved here since.
            match engine.store.detach(session, engine.now()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => drop(result?),
            }
        }
        return Ok(());
    }
    let labels = record.effective_labels();
    let mut registry = engine.registry();
    let Some(link) = registry.link_of(agent) else { return Ok(()) };
    let (session, was_draining) = (link.session, link.is_draining);
    if link.labels != labels {
        registry.relabel(agent, labels);
    }
    registry.change(session, |link| {
        link.is_draining = record.is_draining;
        if record.is_draining && !was_draining {
            link.outbox.order(ToAgent::Drain);
        }
    });
    drop(registry);
    engine.dispatch.notify_one();
    Ok(())
}

/// The session may have ended or moved, or hold a job that is to be cancelled.
async fn look_at_session(engine: &Engine, id: SessionId) -> Result<()> {
    let Some(linked) = engine.registry().link(id).map(|link| link.session) else { return Ok(()) };
    let stored = engine.store.session(id).await?;
    if stored.is_none_or(|stored| stored.end.is_some() || stored.session.link > linked.link) {
        upkeep::end_stale(engine, linked).await;
        return Ok(());
    }
    for held in engine.store.held(id).await? {
        if let Some(cancel) = held.cancel
            && let Some(link) = engine.registry().current(linked)
        {
            link.outbox.cancel(held.claimed.run, cancel.grace);
        }
    }
    Ok(())
}
