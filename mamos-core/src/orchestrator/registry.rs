//! The agents that have a link to this orchestrator, the lanes it knows, and which fits which.
//!
//! Plain functions over plain state: no clock, no store, no task. Agents with the same kinds and labels
//! form a *class*; a lane is matched to classes once, when one of the two appears, so that planning a
//! claim looks only at lanes that may have ready jobs and at links that may have room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::outbox::Outbox;
use crate::agent::{AgentProfile, HostLoad};
use crate::clock::Timestamp;
use crate::id::{AgentId, JobId, JobKind, QueueName, SessionId};
use crate::job::labels::Labels;
use crate::job::lane::{Lane, LaneId};
use crate::lease::{Epoch, RunRef, SessionRef};
use crate::store::{ClaimGroup, Taker};

/// The most sessions that one claim serves: enough for whole batches, few enough that ten thousand
/// idle agents cost a claim nothing.
const MAX_TAKERS: usize = 32;
/// The most jobs that one session gets from one claim, so that the next session is not kept waiting.
const MAX_JOBS: u32 = 512;
/// The most lanes that one claim names.
const MAX_LANES: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    lanes: BTreeMap<LaneId, LaneEntry>,
    /// Lanes that may have ready jobs. Cleared *before* a claim looks, so that a job that arrives
    /// while it looks sets it again.
    ready: BTreeSet<LaneId>,
    classes: Vec<Class>,
    class_of: BTreeMap<(Vec<JobKind>, Labels), usize>,
    links: BTreeMap<SessionId, Link>,
    next_ticket: Ticket,
}

#[derive(Debug)]
struct LaneEntry {
    lane: Arc<Lane>,
    classes: Vec<usize>,
}

#[derive(Debug)]
struct Class {
    kinds: Vec<JobKind>,
    labels: Labels,
    /// Links with free slots, the next to be served first.
    free: BTreeMap<Ticket, SessionId>,
    /// Links that only have room for a prefetch: served when no link has a free slot.
    roomy: BTreeMap<Ticket, SessionId>,
}

/// A place in a line: whoever has waited longer has a smaller one.
type Ticket = u64;

/// An agent's link, as the registry knows it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) session: SessionRef,
    pub(crate) agent: AgentId,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) profile: AgentProfile,
    pub(crate) labels: Labels,
    pub(crate) slots: u32,
    pub(crate) prefetch: u32,
    pub(crate) is_draining: bool,
    pub(crate) is_suspect: bool,
    pub(crate) heard_at: Timestamp,
    pub(crate) renewed_at: Timestamp,
    pub(crate) load: Option<Box<HostLoad>>,
    runs: HashMap<JobId, Held, foldhash::fast::FixedState>,
    /// A claim for it failed, and may have been done all the same.
    is_uncertain: bool,
    class: usize,
    /// Its place in one of the lines of its class.
    place: Option<(Line, Ticket)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Free,
    Roomy,
}

/// A run that a link holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    pub(crate) lane: LaneId,
    pub(crate) is_started: bool,
}

/// What a new link is made from.
#[derive(Debug)]
pub(crate) struct NewLink {
    pub(crate) session: SessionRef,
    pub(crate) agent: AgentId,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) profile: AgentProfile,
    pub(crate) labels: Labels,
    pub(crate) prefetch: u32,
    pub(crate) is_draining: bool,
    pub(crate) held: Vec<(RunRef, LaneId, bool)>,
    pub(crate) now: Timestamp,
}

impl Link {
    /// How many more jobs it may be sent.
    fn credit(&self) -> u32 {
        if self.is_draining || self.is_suspect || self.is_uncertain || self.slots == 0 {
            return 0;
        }
        let held = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        self.slots.saturating_add(self.prefetch).saturating_sub(held)
    }

    /// How many attempts it could start right now.
    pub(crate) fn free_slots(&self) -> u32 {
        self.slots.saturating_sub(u32::try_from(self.runs.len()).unwrap_or(u32::MAX))
    }

    /// How many runs it holds.
    pub(crate) fn held_count(&self) -> usize {
        self.runs.len()
    }

    /// The run of a job that it holds.
    pub(crate) fn holds(&self, job: JobId) -> Option<Held> {
        self.runs.get(&job).copied()
    }

    /// Every run that it holds, sorted.
    pub(crate) fn runs(&self) -> Vec<RunRef> {
        let mut runs: Vec<RunRef> =
            self.runs.iter().map(|(job, held)| RunRef { job: *job, epoch: held.epoch }).collect();
        runs.sort_unstable();
        runs
    }
}

impl Registry {
    /// Adds a link. An earlier link of the same session is replaced and returned, as are other links
    /// of the same agent.
    pub(crate) fn connect(&mut self, new: NewLink) -> Vec<Link> {
        let replaced: Vec<SessionId> = self
            .links
            .values()
            .filter(|link| link.agent == new.agent || link.session.id == new.session.id)
            .map(|link| link.session.id)
            .collect();
        let replaced = replaced.into_iter().filter_map(|id| self.remove(id)).collect();
        let class = self.class(&new.profile.kinds, &new.labels);
        let runs = new
            .held
            .into_iter()
            .map(|(run, lane, is_started)| (run.job, Held { epoch: run.epoch, lane, is_started }));
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
            heard_at: new.now,
            renewed_at: new.now,
            load: None,
            runs: runs.collect(),
            is_uncertain: false,
            class,
            place: None,
        };
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

    /// The link that holds a run.
    pub(crate) fn holder(&self, run: RunRef) -> Option<&Link> {
        self.links.values().find(|link| link.holds(run.job).is_some_and(|held| held.epoch == run.epoch))
    }

    /// Notes that a lane may have ready jobs.
    pub(crate) fn lane_ready(&mut self, lane: &Arc<Lane>) {
        self.learn(lane);
        self.ready.insert(lane.id());
    }

    /// The same, for a lane that is known.
    pub(crate) fn lane_ready_by_id(&mut self, lane: LaneId) -> bool {
        let is_known = self.lanes.contains_key(&lane);
        if is_known {
            self.ready.insert(lane);
        }
        is_known
    }

    /// Notes that every lane of a queue may have ready jobs.
    pub(crate) fn queue_ready(&mut self, queue: &QueueName) {
        let lanes = self.lanes.values().filter(|entry| entry.lane.queue() == queue);
        self.ready.extend(lanes.map(|entry| entry.lane.id()));
    }

    /// Plans the next claim, or gives nothing if no lane that may have ready jobs has a link with room.
    ///
    /// The lanes that it names count as empty until someone says otherwise.
    pub(crate) fn plan(&mut self) -> Vec<ClaimGroup> {
        let mut wanted: BTreeMap<usize, Vec<LaneId>> = BTreeMap::new();
        for lane in &self.ready {
            for class in self.lanes.get(lane).map_or(&[][..], |entry| &entry.classes) {
                let lanes = wanted.entry(*class).or_default();
                if lanes.len() < MAX_LANES && self.classes[*class].has_room() {
                    lanes.push(*lane);
                }
            }
        }
        let mut groups = Vec::new();
        for (class, lanes) in wanted {
            let takers = self.takers(class);
            if !takers.is_empty() && !lanes.is_empty() {
                groups.push(ClaimGroup { lanes, takers });
            }
        }
        for lane in groups.iter().flat_map(|group| &group.lanes) {
            self.ready.remove(lane);
        }
        groups
    }

    /// Is there a lane that may have ready jobs and a link with room for them?
    #[cfg(test)]
    fn could_plan(&self) -> bool {
        let ready = self.ready.iter().filter_map(|lane| self.lanes.get(lane));
        ready.flat_map(|entry| &entry.classes).any(|class| self.classes[*class].has_room())
    }

    /// Notes that jobs are on their way to a link. False if that link is gone, even if the session has
    /// a later one: what was claimed for the earlier link has been given back by then.
    pub(crate) fn dispatched(
        &mut self,
        session: SessionRef,
        runs: impl Iterator<Item = (RunRef, LaneId)>,
    ) -> bool {
        let Some(link) = self.current(session) else { return false };
        link.runs
            .extend(runs.map(|(run, lane)| (run.job, Held { epoch: run.epoch, lane, is_started: false })));
        self.stand_in_line(session.id);
        true
    }

    /// Notes that a run has started.
    pub(crate) fn started(&mut self, session: SessionId, run: RunRef) {
        if let Some(held) = self.links.get_mut(&session).and_then(|link| link.runs.get_mut(&run.job))
            && held.epoch == run.epoch
        {
            held.is_started = true;
        }
    }

    /// Notes that a link no longer holds a run. Gives the lane that it came from.
    pub(crate) fn ended(&mut self, session: SessionId, run: RunRef) -> Option<LaneId> {
        let link = self.links.get_mut(&session)?;
        if link.runs.get(&run.job)?.epoch != run.epoch {
            return None;
        }
        let lane = link.runs.remove(&run.job).map(|held| held.lane);
        self.stand_in_line(session);
        lane
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
            self.ready.extend(&group.lanes);
            for taker in &group.takers {
                self.change(taker.session, |link| link.is_uncertain = true);
            }
        }
    }

    /// The links of which a failed claim may have been done, with the runs that they are known to hold.
    pub(crate) fn uncertain(&self) -> Vec<(SessionRef, Vec<RunRef>)> {
        let uncertain = self.links.values().filter(|link| link.is_uncertain);
        uncertain.map(|link| (link.session, link.runs())).collect()
    }

    /// Notes that what a link holds is known again.
    pub(crate) fn certain(&mut self, session: SessionRef) {
        self.change(session, |link| link.is_uncertain = false);
    }

    /// Which runs to take back so that agents without work get some: of links that hold more than they
    /// can start, for links of the same class with free slots. At most as many as there are free slots.
    pub(crate) fn rebalance(&self) -> Vec<(Arc<Outbox>, Vec<RunRef>)> {
        let mut free: BTreeMap<usize, u32> = BTreeMap::new();
        for link in self.links.values().filter(|link| link.credit() > 0) {
            *free.entry(link.class).or_default() += link.free_slots();
        }
        let mut retracted = Vec::new();
        for link in self.links.values() {
            let Some(free) = free.get_mut(&link.class).filter(|free| **free > 0) else { continue };
            let surplus =
                u32::try_from(link.runs.len()).unwrap_or(u32::MAX).saturating_sub(link.slots).min(*free);
            // Only while there is nothing ready: otherwise the free ones get that.
            if surplus == 0 || self.ready.iter().any(|lane| self.lanes[lane].classes.contains(&link.class)) {
                continue;
            }
            let waiting = link.runs().into_iter().rev();
            let waiting = waiting.filter(|run| link.holds(run.job).is_some_and(|held| !held.is_started));
            let runs: Vec<RunRef> = waiting.take(surplus as usize).collect();
            *free -= u32::try_from(runs.len()).unwrap_or(*free);
            if !runs.is_empty() {
                retracted.push((Arc::clone(&link.outbox), runs));
            }
        }
        retracted
    }

    /// Who is next: links with free slots; if there are none, links with room for a prefetch. Each goes
    /// to the end of its line.
    fn takers(&mut self, class: usize) -> Vec<Taker> {
        let has_free = !self.classes[class].free.is_empty();
        let line = if has_free { &self.classes[class].free } else { &self.classes[class].roomy };
        let next: Vec<SessionId> = line.values().take(MAX_TAKERS).copied().collect();
        let mut takers = Vec::with_capacity(next.len());
        for id in next {
            let Some(link) = self.links.get(&id) else { continue };
            let room = if has_free { link.free_slots().min(link.credit()) } else { link.credit() };
            takers.push(Taker { session: link.session, limit: room.min(MAX_JOBS) });
            self.leave_line(id);
            self.stand_in_line(id);
        }
        takers
    }

    /// Puts a link into the line that it belongs to, unless it stands there already.
    fn stand_in_line(&mut self, session: SessionId) {
        let Some(link) = self.links.get(&session) else { return };
        let line = match (link.credit(), link.free_slots()) {
            (0, _) => None,
            (_, 0) => Some(Line::Roomy),
            _ => Some(Line::Free),
        };
        if link.place.map(|(line, _)| line) == line {
            return;
        }
        self.leave_line(session);
        let Some((line, link)) = line.zip(self.links.get_mut(&session)) else { return };
        self.next_ticket += 1;
        link.place = Some((line, self.next_ticket));
        self.classes[link.class].line(line).insert(self.next_ticket, session);
    }

    fn leave_line(&mut self, session: SessionId) {
        if let Some(link) = self.links.get_mut(&session)
            && let Some((line, ticket)) = link.place.take()
        {
            self.classes[link.class].line(line).remove(&ticket);
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Link> {
        self.leave_line(session);
        self.links.remove(&session)
    }

    fn learn(&mut self, lane: &Arc<Lane>) {
        if self.lanes.contains_key(&lane.id()) {
            return;
        }
        let classes = self.classes.iter().enumerate().filter(|(_, class)| class.fits(lane));
        let classes = classes.map(|(index, _)| index).collect();
        self.lanes.insert(lane.id(), LaneEntry { lane: Arc::clone(lane), classes });
    }

    fn class(&mut self, kinds: &[JobKind], labels: &Labels) -> usize {
        let mut kinds = kinds.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        if let Some(index) = self.class_of.get(&(kinds.clone(), labels.clone())) {
            return *index;
        }
        let index = self.classes.len();
        let class = Class {
            kinds: kinds.clone(),
            labels: labels.clone(),
            free: BTreeMap::new(),
            roomy: BTreeMap::new(),
        };
        for entry in self.lanes.values_mut().filter(|entry| class.fits(&entry.lane)) {
            entry.classes.push(index);
        }
        self.class_of.insert((kinds, labels.clone()), index);
        self.classes.push(class);
        index
    }
}

impl Class {
    fn has_room(&self) -> bool {
        !(self.free.is_empty() && self.roomy.is_empty())
    }

    fn line(&mut self, line: Line) -> &mut BTreeMap<Ticket, SessionId> {
        match line {
            Line::Free => &mut self.free,
            Line::Roomy => &mut self.roomy,
        }
    }

    fn fits(&self, lane: &Lane) -> bool {
        self.kinds.binary_search(lane.kind()).is_ok() && lane.selector().matches(&self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AgentKind;

    fn lane(kind: &str, selector: &str) -> Arc<Lane> {
        Arc::new(Lane::new(QueueName::default_queue(), kind.parse().unwrap(), selector.parse().unwrap()))
    }

    fn new_link(key: &str, kinds: &[&str], labels: &[(&str, &str)], slots: u32) -> NewLink {
        let kind = AgentKind::new("test").unwrap();
        let mut profile = AgentProfile::new(kind.clone(), key);
        profile.kinds = kinds.iter().map(|kind| kind.parse().unwrap()).collect();
        profile.slots = slots;
        let mut hash = [0; 32];
        hash[..key.len()].copy_from_slice(key.as_bytes());
        NewLink {
            session: SessionRef { id: SessionId::from_key(key), link: 1 },
            agent: AgentId::from_secret_hash(kind, &hash),
            outbox: Arc::default(),
            profile,
            labels: Labels::new(labels.iter().copied()).unwrap(),
            prefetch: 0,
            is_draining: false,
            held: Vec::new(),
            now: Timestamp::EPOCH,
        }
    }

    fn run(n: u32) -> RunRef {
        RunRef { job: JobId::from_key(&n.to_string()), epoch: Epoch::from_number(1) }
    }

    fn takers(groups: &[ClaimGroup]) -> Vec<(SessionId, u32)> {
        groups.iter().flat_map(|group| &group.takers).map(|taker| (taker.session.id, taker.limit)).collect()
    }

    #[test]
    fn a_claim_names_only_lanes_and_links_that_fit() {
        let mut registry = Registry::default();
        registry.connect(new_link("eu", &["mail"], &[("zone", "eu")], 2));
        registry.connect(new_link("us", &["mail", "scan"], &[("zone", "us")], 3));
        registry.lane_ready(&lane("mail", "zone=eu"));
        registry.lane_ready(&lane("other", ""));
        let groups = registry.plan();
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].lanes, [lane("mail", "zone=eu").id()]);
        assert_eq!(takers(&groups), [(SessionId::from_key("eu"), 2)]);
        assert!(registry.plan().is_empty(), "the lane counts as empty until someone says otherwise");
    }

    #[test]
    fn a_lane_that_was_there_before_its_agents_is_found() {
        let mut registry = Registry::default();
        registry.lane_ready(&lane("mail", ""));
        assert!(registry.plan().is_empty());
        registry.connect(new_link("a", &["mail"], &[], 1));
        assert_eq!(takers(&registry.plan()).len(), 1);
    }

    #[test]
    fn credit_is_slots_and_prefetch_less_what_is_held() {
        let mut registry = Registry::default();
        registry.connect(NewLink { prefetch: 1, ..new_link("a", &["mail"], &[], 2) });
        let (mail, session) = (lane("mail", ""), SessionId::from_key("a"));
        let reference = SessionRef { id: session, link: 1 };
        registry.lane_ready(&mail);
        // The slots first, the prefetch when nobody has a free slot.
        assert_eq!(takers(&registry.plan()), [(session, 2)]);
        registry.dispatched(reference, (0..3).map(|n| (run(n), mail.id())));
        registry.lane_ready(&mail);
        assert!(registry.plan().is_empty());
        assert!(!registry.could_plan());
        assert_eq!(registry.ended(session, RunRef { epoch: Epoch::from_number(9), ..run(1) }), None);
        assert_eq!(registry.ended(session, run(1)), Some(mail.id()));
        assert!(registry.could_plan());
        assert_eq!(takers(&registry.plan()), [(session, 1)]);
    }

    #[test]
    fn all_links_are_served_in_turn() {
        let mut registry = Registry::default();
        for n in 0..100 {
            registry.connect(new_link(&n.to_string(), &["mail"], &[], 1));
        }
        let mail = lane("mail", "");
        let mut served = BTreeSet::new();
        for _ in 0..4 {
            registry.lane_ready(&mail);
            let takers = takers(&registry.plan());
            assert!(takers.len() <= MAX_TAKERS);
            served.extend(takers.into_iter().map(|(session, _)| session));
        }
        assert_eq!(served.len(), 100);
    }

    #[test]
    fn draining_suspect_and_uncertain_links_get_nothing() {
        let mut registry = Registry::default();
        let link = new_link("a", &["mail"], &[], 1);
        let session = link.session;
        registry.connect(link);
        let mail = lane("mail", "");
        registry.lane_ready(&mail);
        for change in [
            (|link: &mut Link| link.is_draining = true) as fn(&mut Link),
            |link| link.is_suspect = true,
            |link| link.slots = 0,
        ] {
            registry.change(session, change);
            assert!(registry.plan().is_empty());
            registry.change(session, |link| {
                (link.is_draining, link.is_suspect, link.slots) = (false, false, 1);
            });
        }
        let groups = registry.plan();
        registry.claim_failed(&groups);
        assert!(registry.plan().is_empty());
        assert_eq!(registry.uncertain(), [(session, vec![])]);
        registry.certain(session);
        assert_eq!(takers(&registry.plan()).len(), 1);
    }

    #[test]
    fn a_newer_link_replaces_an_older_one_but_not_the_other_way_round() {
        let mut registry = Registry::default();
        registry.connect(new_link("a", &["mail"], &[], 1));
        let older = SessionRef { id: SessionId::from_key("a"), link: 1 };
        let newer = SessionRef { link: 2, ..older };
        let replaced = registry.connect(NewLink { session: newer, ..new_link("a", &["mail"], &[], 1) });
        assert_eq!(replaced.len(), 1);
        assert!(registry.disconnect(older).is_none());
        assert!(registry.disconnect(newer).is_some());
    }

    #[test]
    fn what_one_agent_cannot_start_is_taken_back_for_an_idle_one() {
        let mut registry = Registry::default();
        let mail = lane("mail", "");
        registry.connect(NewLink { prefetch: 4, ..new_link("busy", &["mail"], &[], 1) });
        let busy = SessionRef { id: SessionId::from_key("busy"), link: 1 };
        registry.dispatched(busy, (0..5).map(|n| (run(n), mail.id())));
        registry.started(busy.id, run(0));
        assert!(registry.rebalance().is_empty(), "nobody is idle");
        registry.connect(new_link("idle", &["mail"], &[], 2));
        let retracted = registry.rebalance();
        assert_eq!(retracted.len(), 1);
        assert_eq!(retracted[0].1.len(), 2);
        assert!(!retracted[0].1.contains(&run(0)), "it was started");
    }
}
