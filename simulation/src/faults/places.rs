//! At which orchestrator agents are, as the store has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use mamos_core::{AgentId, Store};

use super::fleet::Fleet;

/// Longer than it takes any agent that comes back at all.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks at the open sessions.
pub(super) struct Places {
    store: Arc<dyn Store>,
}

/// An orchestrator to which something is done, and the agents that it had just before.
pub(super) struct Manned {
    name: String,
    agents: BTreeSet<AgentId>,
    since: Instant,
}

impl Places {
    pub(super) fn in_store(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Notes who is at this orchestrator. To be asked right before something is done to it.
    pub(super) async fn at(&self, name: &str) -> anyhow::Result<Manned> {
        let sessions = self.store.sessions().await?.into_iter();
        let open = sessions.filter(|session| session.end.is_none() && session.orchestrator == name);
        let agents: BTreeSet<AgentId> = open.map(|session| session.agent).collect();
        anyhow::ensure!(!agents.is_empty(), "no agent is at {name}, so none could come back from it");
        Ok(Manned { name: name.to_owned(), agents, since: Instant::now() })
    }

    /// Which of so many orchestrators has the most agents.
    pub(super) async fn busiest(&self, orchestrators: usize) -> anyhow::Result<usize> {
        let sessions = self.store.sessions().await?;
        let at = |number: usize| {
            let name = Fleet::name_of(number);
            sessions.iter().filter(|session| session.end.is_none() && session.orchestrator == name).count()
        };
        (0..orchestrators).max_by_key(|number| at(*number)).context("there are no orchestrators")
    }

    /// Waits until everyone who was there has a session at another orchestrator. Gives how long that took from
    /// when it was noted who was there.
    pub(super) async fn left(&self, manned: &Manned) -> anyhow::Result<Duration> {
        let Manned { name, agents, since } = manned;
        loop {
            let sessions = self.store.sessions().await?.into_iter();
            let elsewhere = sessions.filter(|session| session.end.is_none() && session.orchestrator != *name);
            let back: BTreeSet<AgentId> = elsewhere.map(|session| session.agent).collect();
            if agents.is_subset(&back) {
                return Ok(since.elapsed());
            }
            anyhow::ensure!(
                since.elapsed() < PATIENCE,
                "{} of {} agents of {name} are at no other orchestrator after {PATIENCE:?}",
                agents.difference(&back).count(),
                agents.len()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Manned {
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn agents(&self) -> usize {
        self.agents.len()
    }
}
