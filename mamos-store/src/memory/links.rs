//! How agents come and go: attached, renewed, detached.

use std::collections::HashSet;
use std::time::Duration;

use mamos_core::clock::Timestamp;
use mamos_core::id::SessionId;
use mamos_core::job::lane::LaneId;
use mamos_core::job::rules;
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{Attach, Attached, HeldJob, SessionEnd, SessionRecord};
use mamos_core::{Error, ErrorKind, JobState, Result};

use super::State;
use super::slab::Slot;

impl State {
    pub(super) fn attach(&mut self, request: Attach, now: Timestamp) -> Result<Attached> {
        let is_own = |id: &SessionId| {
            let session = self.sessions.get(*id);
            session.is_some_and(|found| found.record.end.is_none() && found.record.agent == request.agent)
        };
        let resumed = request.resume.filter(is_own);
        // After a lost answer the fresh session is there already.
        let repeated = Some(request.fresh).filter(|_| resumed.is_none()).filter(is_own);
        if resumed.or(repeated).is_none() && self.sessions.get(request.fresh).is_some() {
            let message = "another session has the fresh id; draw a new one";
            return Err(Error::new(ErrorKind::Conflict, "store.attach", message));
        }
        // The first write, and the only one that can be refused.
        self.agents.started(&request.agent, request.profile, now)?;

        let id = resumed.or(repeated).unwrap_or(request.fresh);
        let sources = self.sessions.of_agent(&request.agent);
        if resumed.or(repeated).is_some() {
            self.sessions.resume(id, request.orchestrator);
            self.sessions.set_expiry(id, now + request.ttl);
        } else {
            self.sessions.open(SessionRecord {
                session: SessionRef { id, link: 1 },
                agent: request.agent,
                orchestrator: request.orchestrator,
                opened_at: now,
                expires_at: now + request.ttl,
                end: None,
            });
        }
        let mut superseded = Vec::new();
        for other in sources.iter().copied().filter(|other| *other != id) {
            if self.sessions.get(other).is_some_and(|session| session.record.end.is_none()) {
                self.sessions.end(other, SessionEnd::Superseded);
                superseded.push(other);
            }
        }
        let (returned, unknown) = self.reconcile(id, &sources, &request.known, now);
        let session = self.sessions.get(id).map_or(SessionRef { id, link: 1 }, |found| found.record.session);
        let held = self.held(id);
        Ok(Attached { session, is_resumed: resumed.is_some(), superseded, held, returned, unknown })
    }

    /// Compares what the agent holds with what it knows: keeps what both know, gives back the rest, and
    /// names what only the agent knows.
    fn reconcile(
        &mut self,
        id: SessionId,
        sources: &[SessionId],
        known: &[RunRef],
        now: Timestamp,
    ) -> (Vec<(RunRef, LaneId, JobState)>, Vec<RunRef>) {
        let known_runs: HashSet<RunRef> = known.iter().copied().collect();
        let mut kept = HashSet::new();
        let mut returned = Vec::new();
        for source in sources {
            for slot in self.held_slots(*source) {
                let run = self.jobs.get(slot).run();
                if known_runs.contains(&run) {
                    kept.insert(run);
                    self.hand_over(slot, id);
                } else {
                    let lane = self.jobs.get(slot).spec.lane.id();
                    let (run, state) = self.give_back(slot, rules::after_rescue, now);
                    returned.push((run, lane, state));
                }
            }
        }
        let mut seen = kept;
        let unknown = known.iter().copied().filter(|run| seen.insert(*run)).collect();
        (returned, unknown)
    }

    pub(super) fn renew(&mut self, session: SessionRef, ttl: Duration, now: Timestamp) -> Verdict {
        if self.sessions.get(session.id).is_some() && !self.sessions.is_current(session, now) {
            return Verdict::Stale;
        }
        self.adopt(session, ttl, now)
    }

    pub(super) fn adopt(&mut self, session: SessionRef, ttl: Duration, now: Timestamp) -> Verdict {
        if self.sessions.get(session.id).is_none() {
            return Verdict::Missing;
        }
        if !self.sessions.is_open(session) {
            return Verdict::Stale;
        }
        self.sessions.set_expiry(session.id, now + ttl);
        Verdict::Applied
    }

    pub(super) fn detach(&mut self, session: SessionRef, now: Timestamp) -> Verdict {
        let Some(found) = self.sessions.get(session.id) else { return Verdict::Missing };
        let agent = found.record.agent.clone();
        if !self.sessions.is_open(session) {
            return Verdict::Stale;
        }
        self.sessions.end(session.id, SessionEnd::Closed);
        self.agents.stopped(&agent, now);
        for slot in self.held_slots(session.id) {
            self.give_back(slot, rules::after_release, now);
        }
        Verdict::Applied
    }

    pub(super) fn held(&self, id: SessionId) -> Vec<HeldJob> {
        self.held_slots(id).into_iter().map(|slot| self.jobs.get(slot).held()).collect()
    }

    /// What a session holds, in the order of the runs.
    fn held_slots(&self, id: SessionId) -> Vec<Slot> {
        let mut slots = self.sessions.get(id).map(|session| session.held.clone()).unwrap_or_default();
        slots.sort_by_key(|slot| self.jobs.get(*slot).run());
        slots
    }
}
