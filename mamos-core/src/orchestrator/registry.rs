//! The agents that have a link to this orchestrator, and what each of them holds.
//!
//! Plain functions over plain state: no clock, no store, no task. Who fits which lane, and who is served
//! next, is in [`matching`].

mod link;
mod loads;
mod matching;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub(crate) use self::link::{Held, Link, NewLink};
use self::loads::LoadHistory;
pub(crate) use self::matching::LaneNews;
use self::matching::{Line, Matching};
use super::outbox::Outbox;
use crate::clock::Timestamp;
use crate::id::{AgentId, JobKind, QueueName, SessionId};
use crate::job::labels::Labels;
use crate::job::lane::{Lane, LaneId};
use crate::lease::{RunRef, SessionRef};
use crate::store::{ClaimGroup, Taker};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    matching: Matching,
    links: BTreeMap<SessionId, Link>,
    /// The session of each agent that has a link.
    sessions: HashMap<AgentId, SessionId>,
    /// Links for which a claim failed that may have been done all the same.
    uncertain: BTreeSet<SessionId>,
}

impl Registry {
    /// Adds a link. An earlier link of the same session is replaced and returned, as are other links
    /// of the same agent.
    pub(crate) fn connect(&mut self, new: NewLink) -> Vec<Link> {
        let of_agent = self.sessions.get(&new.agent).copied();
        let of_session = self.links.contains_key(&new.session.id).then_some(new.session.id);
        let replaced: BTreeSet<SessionId> = of_agent.into_iter().chain(of_session).collect();
        let replaced = replaced.into_iter().filter_map(|id| self.remove(id)).collect();
        self.matching.join(new.session.id, &new.profile.kinds, &new.labels);
        let link = Link {
            session: new.session,
            agent: new.agent,
            outbox: new.outbox,
            slots: new.profile.slots,
            profile: new.profile,
            labels: new.labels,
            prefetch: new.prefetch,
            is_draining: new.is_draining,
            is_suspect: false,
            entered_at: new.now,
            heard_at: new.now,
            renewed_at: new.now,
            loads: LoadHistory::default(),
            instance: new.instance,
            hello_number: new.hello_number,
            renew_at: new.renew_at,
            held_bytes: new.held.iter().map(|(_, held)| u64::from(held.bytes)).sum(),
            usual_bytes: None,
            runs: new.held.into_iter().map(|(run, held)| (run.job, held)).collect(),
            is_uncertain: false,
        };
        self.sessions.insert(link.agent.clone(), new.session.id);
        self.links.insert(new.session.id, link);
        self.stand_in_line(new.session.id);
        replaced
    }

    /// Removes the link, unless a later link of the session has taken its place.
    pub(crate) fn disconnect(&mut self, session: SessionRef) -> Option<Link> {
        if self.links.get(&session.id)?.session != session {
            return None;
        }
        self.remove(session.id)
    }

    /// The link of a session.
    pub(crate) fn link(&self, session: SessionId) -> Option<&Link> {
        self.links.get(&session)
    }

    /// The link of a session, if it still is that link.
    pub(crate) fn current(&mut self, session: SessionRef) -> Option<&mut Link> {
        self.links.get_mut(&session.id).filter(|link| link.session == session)
    }

    /// All links in the order of their sessions.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The link of an agent.
    pub(crate) fn link_of(&self, agent: &AgentId) -> Option<&Link> {
        self.links.get(self.sessions.get(agent)?)
    }

    /// Gives the link of an agent, if it has one, other labels.
    pub(crate) fn relabel(&mut self, agent: &AgentId, labels: Labels) {
        let Some(session) = self.sessions.get(agent) else { return };
        let session = *session;
        let Some(link) = self.links.get_mut(&session) else { return };
        self.matching.leave(session);
        self.matching.join(session, &link.profile.kinds, &labels);
        link.labels = labels;
        self.stand_in_line(session);
    }

    /// The link that holds a run.
    pub(crate) fn holder(&self, run: RunRef) -> Option<&Link> {
        self.links.values().find(|link| link.holds(run.job).is_some_and(|held| held.epoch == run.epoch))
    }

    /// Notes that a lane may have ready jobs.
    pub(crate) fn lane_ready(&mut self, lane: &Arc<Lane>) {
        self.lane_ready_as(lane, LaneNews::Own);
    }

    /// The same, with where the news came from.
    pub(crate) fn lane_ready_as(&mut self, lane: &Arc<Lane>, news: LaneNews) {
        self.matching.lane_ready(lane, news);
    }

    /// Notes that a lane that is known may have ready jobs. False if it is not known.
    pub(crate) fn lane_ready_by_id(&mut self, lane: LaneId) -> bool {
        self.lane_ready_by_id_as(lane, LaneNews::Own)
    }

    /// The same, with where the news came from.
    pub(crate) fn lane_ready_by_id_as(&mut self, lane: LaneId, news: LaneNews) -> bool {
        self.matching.lane_ready_by_id(lane, news)
    }

    /// Lanes with ready jobs for which nobody here has a free slot, each once.
    pub(crate) fn short_lanes(&mut self) -> Vec<LaneId> {
        self.matching.short_lanes()
    }

    /// For which kinds of jobs agents here have free slots and nothing is ready, and how many.
    pub(crate) fn idle_kinds(&self) -> Vec<(JobKind, u32)> {
        let mut kinds: BTreeMap<&JobKind, u32> = BTreeMap::new();
        for (kind, session) in self.matching.idle_kinds() {
            let slots = self.links.get(&session).map_or(0, Link::free_slots);
            let sum = kinds.entry(kind).or_default();
            *sum = sum.saturating_add(slots);
        }
        kinds.into_iter().map(|(kind, slots)| (kind.clone(), slots)).collect()
    }

    /// Notes for which kinds of jobs agents of other orchestrators have free slots: those are not prefetched
    /// here, and what was is taken back. True if somebody here may get a prefetch again.
    pub(crate) fn set_idle_elsewhere(&mut self, kinds: BTreeMap<JobKind, u32>) -> bool {
        self.matching.set_idle_elsewhere(kinds)
    }

    /// A lane, if it is known.
    pub(crate) fn lane(&self, lane: LaneId) -> Option<&Arc<Lane>> {
        self.matching.lane(lane)
    }

    /// The lane of a run that a link holds.
    pub(crate) fn lane_of(&self, session: SessionId, run: RunRef) -> Option<LaneId> {
        let held = self.links.get(&session)?.runs.get(&run.job)?;
        (held.epoch == run.epoch).then_some(held.lane)
    }

    /// Notes that every known lane of a queue may have ready jobs.
    pub(crate) fn queue_ready(&mut self, queue: &QueueName) {
        self.matching.queue_ready(queue);
    }

    /// Plans the next claim, or gives nothing if no lane that may have ready jobs has a link with room.
    ///
    /// The lanes that it names count as empty until someone says otherwise.
    pub(crate) fn plan(&mut self) -> Vec<ClaimGroup> {
        let links = &self.links;
        let nobody = |id| Taker { session: SessionRef { id, link: 0 }, limit: 0 };
        self.matching.plan(|id, line| links.get(&id).map_or_else(|| nobody(id), |link| link.taker(line)))
    }

    /// Notes that jobs are on their way to a link. False if that link is gone, even if the session has
    /// a later one: what was claimed for the earlier link has been given back by then.
    pub(crate) fn dispatched(
        &mut self,
        session: SessionRef,
        jobs: impl ExactSizeIterator<Item = (RunRef, LaneId, usize)>,
    ) -> bool {
        let Some(link) = self.current(session) else { return false };
        let (count, mut sum) = (jobs.len() as u64, 0);
        for (run, lane, bytes) in jobs {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            sum += u64::from(bytes);
            let held = Held { epoch: run.epoch, lane, is_started: false, started_at: None, bytes };
            // In the place of an earlier run of the job, whose end is on record and was not heard of yet.
            let replaced = link.runs.insert(run.job, held).map_or(0, |earlier| u64::from(earlier.bytes));
            link.held_bytes = (link.held_bytes + u64::from(bytes)).saturating_sub(replaced);
        }
        link.usual_bytes = Some(sum / count.max(1));
        // To the end of the line: whoever was named in the claim and got nothing is first in the next one.
        self.matching.stand(session.id, None);
        self.stand_in_line(session.id);
        true
    }

    /// Notes that a run has started.
    pub(crate) fn started(&mut self, session: SessionId, run: RunRef, now: Timestamp) {
        if let Some(held) = self.links.get_mut(&session).and_then(|link| link.runs.get_mut(&run.job))
            && held.epoch == run.epoch
        {
            held.is_started = true;
            held.started_at.get_or_insert(now);
        }
    }

    /// Notes that a link no longer holds a run. Gives what it held.
    pub(crate) fn ended(&mut self, session: SessionId, run: RunRef) -> Option<Held> {
        let link = self.links.get_mut(&session)?;
        if link.runs.get(&run.job)?.epoch != run.epoch {
            return None;
        }
        let held = link.runs.remove(&run.job)?;
        link.held_bytes = link.held_bytes.saturating_sub(u64::from(held.bytes));
        self.stand_in_line(session);
        Some(held)
    }

    /// Changes a link, and serves it again if that gave it room.
    pub(crate) fn change(&mut self, session: SessionRef, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.current(session) {
            change(link);
            self.stand_in_line(session.id);
        }
    }

    /// Notes that a claim for these sessions failed, and may have been done all the same.
    pub(crate) fn claim_failed(&mut self, groups: &[ClaimGroup]) {
        for group in groups {
            for lane in &group.lanes {
                self.matching.lane_ready_by_id(*lane, LaneNews::Own);
            }
            for taker in &group.takers {
                self.uncertain.insert(taker.session.id);
                self.change(taker.session, |link| link.is_uncertain = true);
            }
        }
    }

    /// The links of which a failed claim may have been done, with the runs that they are known to hold.
    pub(crate) fn uncertain(&self) -> Vec<(SessionRef, Vec<RunRef>)> {
        let links = self.uncertain.iter().filter_map(|session| self.links.get(session));
        links.filter(|link| link.is_uncertain).map(|link| (link.session, link.runs())).collect()
    }

    /// Notes that what a link holds is known again.
    pub(crate) fn certain(&mut self, session: SessionRef) {
        if self.current(session).is_some() {
            self.uncertain.remove(&session.id);
        }
        self.change(session, |link| link.is_uncertain = false);
    }

    /// Which runs to take back so that agents without work get some: of links that hold more than they
    /// can start, for links that fit and have free slots, here or at another orchestrator. At most as many
    /// as there are free slots.
    pub(crate) fn rebalance(&self) -> Vec<(Arc<Outbox>, Vec<RunRef>)> {
        let slots = |sessions: Vec<SessionId>| -> u32 {
            sessions.iter().filter_map(|session| self.links.get(session)).map(Link::free_slots).sum()
        };
        let mut free: BTreeMap<u64, u32> =
            self.matching.idle().into_iter().map(|(class, sessions)| (class, slots(sessions))).collect();
        let mut elsewhere = self.matching.idle_elsewhere().clone();
        let mut retracted = Vec::new();
        for link in self.links.values().filter(|link| link.runs.len() > link.slots as usize) {
            if free.is_empty() && elsewhere.is_empty() {
                break;
            }
            let surplus = link.runs.len() - link.slots as usize;
            let waiting = link.runs().into_iter().rev();
            let mut taken = Vec::new();
            for run in waiting {
                if (free.is_empty() && elsewhere.is_empty()) || taken.len() == surplus {
                    break;
                }
                let Some(held) = link.holds(run.job).filter(|held| !held.is_started) else { continue };
                let mut fitting = self.matching.classes_of(held.lane);
                if let Some(class) = fitting.find(|class| free.contains_key(class)) {
                    taken.push(run);
                    match free.get_mut(&class) {
                        Some(left) if *left > 1 => *left -= 1,
                        _ => drop(free.remove(&class)),
                    }
                } else if let Some(kind) = self.matching.lane(held.lane).map(|lane| lane.kind())
                    && let Some(left) = elsewhere.get_mut(kind)
                {
                    taken.push(run);
                    *left -= 1;
                    if *left == 0 {
                        elsewhere.remove(kind);
                    }
                }
            }
            if !taken.is_empty() {
                retracted.push((Arc::clone(&link.outbox), taken));
            }
        }
        retracted
    }

    /// Puts a link into the line that it belongs to.
    fn stand_in_line(&mut self, session: SessionId) {
        let Some(link) = self.links.get(&session) else { return };
        let line = match (link.credit(), link.free_slots()) {
            (0, _) => None,
            (_, 0) => Some(Line::Roomy),
            _ => Some(Line::Free),
        };
        self.matching.stand(session, line);
    }

    fn remove(&mut self, session: SessionId) -> Option<Link> {
        self.matching.leave(session);
        self.uncertain.remove(&session);
        let link = self.links.remove(&session)?;
        if self.sessions.get(&link.agent) == Some(&session) {
            self.sessions.remove(&link.agent);
        }
        Some(link)
    }
}

#[cfg(test)]
mod tests;
