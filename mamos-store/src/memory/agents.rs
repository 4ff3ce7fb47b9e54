//! Agents.

use std::collections::BTreeMap;
use std::ops::Bound;

use mamos_core::agent::state::AgentEvent;
use mamos_core::agent::{AgentProfile, AgentRecord};
use mamos_core::clock::Timestamp;
use mamos_core::id::AgentId;
use mamos_core::store::{Cursor, Page, PageRequest};
use mamos_core::{Error, ErrorKind, Result};

/// All agents.
#[derive(Debug, Default)]
pub(super) struct Agents {
    table: BTreeMap<AgentId, AgentRecord>,
}

impl Agents {
    pub(super) fn get(&self, id: &AgentId) -> Option<&AgentRecord> {
        self.table.get(id)
    }

    pub(super) fn insert(&mut self, agent: AgentRecord) {
        self.table.insert(agent.id.clone(), agent);
    }

    pub(super) fn page(&self, page: &PageRequest) -> Result<Page<AgentRecord>> {
        let after = match &page.after {
            None => Bound::Unbounded,
            Some(Cursor(text)) => Bound::Excluded(text.parse::<AgentId>().map_err(|_| {
                Error::new(ErrorKind::Invalid, "store.agents", "this cursor is not of this list; begin again")
            })?),
        };
        let mut agents = self.table.range((after, Bound::Unbounded)).map(|(_, agent)| agent);
        let items: Vec<AgentRecord> = agents.by_ref().take(page.bounded_limit() as usize).cloned().collect();
        let next = agents.next().and(items.last()).map(|last| Cursor(last.id.to_string()));
        Ok(Page { items, next })
    }

    pub(super) fn update(
        &mut self,
        agent: AgentRecord,
        revision: u64,
        now: Timestamp,
    ) -> Result<AgentRecord> {
        let operation = "store.update_agent";
        let stored = self
            .table
            .get_mut(&agent.id)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, operation, "there is no such agent"))?;
        if stored.revision != revision {
            let message = "someone else changed the agent; read it again";
            return Err(Error::new(ErrorKind::Conflict, operation, message));
        }
        stored.labels = agent.labels;
        stored.is_draining = agent.is_draining;
        if stored.instance != agent.instance {
            stored.instance = agent.instance;
            stored.changed_at = now;
        }
        stored.revocation = agent.revocation;
        stored.state = agent.state;
        stored.revision = revision.saturating_add(1);
        Ok(stored.clone())
    }

    /// The agent has a session now.
    pub(super) fn started(&mut self, id: &AgentId, profile: AgentProfile, now: Timestamp) -> Result<()> {
        let operation = "store.attach";
        let agent = self.table.get_mut(id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, operation, "there is no such agent; register it")
        })?;
        let state = agent.state.after(AgentEvent::Start).map_err(|refusal| {
            Error::new(ErrorKind::Denied, operation, "the agent may not start").with_source(refusal)
        })?;
        agent.state = state;
        agent.profile = profile;
        changed(agent, now);
        Ok(())
    }

    /// The agent said goodbye.
    pub(super) fn stopped(&mut self, id: &AgentId, now: Timestamp) {
        self.ended(id, AgentEvent::Stop, now);
    }

    /// The session of the agent expired.
    pub(super) fn lost(&mut self, id: &AgentId, now: Timestamp) {
        self.ended(id, AgentEvent::Fail, now);
    }

    fn ended(&mut self, id: &AgentId, event: AgentEvent, now: Timestamp) {
        let Some(agent) = self.table.get_mut(id) else { return };
        // One that was taken out of service in the meantime stays so.
        agent.state = agent.state.after(event).unwrap_or(agent.state);
        changed(agent, now);
    }
}

fn changed(agent: &mut AgentRecord, now: Timestamp) {
    agent.changed_at = now;
    agent.revision = agent.revision.saturating_add(1);
}
