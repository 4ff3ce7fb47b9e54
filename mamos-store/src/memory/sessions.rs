//! Sessions, and what each of them holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, SessionId};
use mamos_core::lease::SessionRef;
use mamos_core::store::{SessionEnd, SessionRecord};

use super::hash::IdMap;
use super::slab::Slot;

/// How many ended sessions can still be looked up; the oldest are forgotten first.
const MAX_ENDED: usize = 10_000;

/// All open sessions, and some that ended.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: IdMap<SessionId, Session>,
    /// The open ones.
    by_expiry: BTreeSet<(Timestamp, SessionId)>,
    /// Those that are open or still hold something.
    by_agent: BTreeMap<AgentId, Vec<SessionId>>,
    ended: VecDeque<SessionId>,
}

/// A session, and the jobs that it holds in no particular order.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) record: SessionRecord,
    pub(super) held: Vec<Slot>,
}

impl Sessions {
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.table.get(&id)
    }

    pub(super) fn held_mut(&mut self, id: SessionId) -> Option<&mut Vec<Slot>> {
        self.table.get_mut(&id).map(|session| &mut session.held)
    }

    /// May the session claim and renew?
    pub(super) fn is_current(&self, session: SessionRef, now: Timestamp) -> bool {
        self.is_open(session) && self.get(session.id).is_some_and(|found| found.record.expires_at > now)
    }

    /// Is this the newest link of a session that has not ended?
    pub(super) fn is_open(&self, session: SessionRef) -> bool {
        self.get(session.id)
            .is_some_and(|found| found.record.end.is_none() && found.record.session.link == session.link)
    }

    pub(super) fn open(&mut self, record: SessionRecord) {
        self.by_expiry.insert((record.expires_at, record.session.id));
        self.by_agent.entry(record.agent.clone()).or_default().push(record.session.id);
        self.table.insert(record.session.id, Session { record, held: Vec::new() });
    }

    /// Gives an open session its next link.
    pub(super) fn resume(&mut self, id: SessionId, orchestrator: String) {
        if let Some(session) = self.table.get_mut(&id) {
            session.record.session.link = session.record.session.link.saturating_add(1);
            session.record.orchestrator = orchestrator;
        }
    }

    pub(super) fn set_expiry(&mut self, id: SessionId, at: Timestamp) {
        if let Some(session) = self.table.get_mut(&id) {
            self.by_expiry.remove(&(session.record.expires_at, id));
            session.record.expires_at = at;
            self.by_expiry.insert((at, id));
        }
    }

    /// Ends an open session. What it holds stays with it until it is given back.
    pub(super) fn end(&mut self, id: SessionId, end: SessionEnd) {
        let Some(session) = self.table.get_mut(&id) else { return };
        session.record.end = Some(end);
        self.by_expiry.remove(&(session.record.expires_at, id));
        self.ended.push_back(id);
        if session.held.is_empty() {
            self.forget_empty(id);
        }
    }

    /// Notes that an ended session holds nothing any more, and forgets the oldest ended ones.
    pub(super) fn forget_empty(&mut self, id: SessionId) {
        if let Some(session) = self.get(id)
            && session.record.end.is_some()
            && session.held.is_empty()
        {
            let agent = session.record.agent.clone();
            if let Some(ids) = self.by_agent.get_mut(&agent) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_agent.remove(&agent);
                }
            }
        }
        while self.ended.len() > MAX_ENDED
            && let Some(oldest) = self.ended.front()
            && self.get(*oldest).is_none_or(|session| session.held.is_empty())
        {
            self.table.remove(oldest);
            self.ended.pop_front();
        }
    }

    /// The agent's sessions that are open or still hold something.
    pub(super) fn of_agent(&self, agent: &AgentId) -> Vec<SessionId> {
        self.by_agent.get(agent).cloned().unwrap_or_default()
    }

    /// The session that expires next.
    pub(super) fn next_expiry(&self) -> Option<(Timestamp, SessionId)> {
        self.by_expiry.first().copied()
    }

    /// The open sessions, in the order of their ids.
    pub(super) fn open_sessions(&self) -> Vec<SessionRecord> {
        let mut ids: Vec<SessionId> = self.by_expiry.iter().map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids.iter().filter_map(|id| self.get(*id)).map(|session| session.record.clone()).collect()
    }
}
