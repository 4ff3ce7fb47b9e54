//! The agents that have a link to this orchestrator, and what each of them holds.
//!
//! Plain functions over plain state: no clock, no store, no task. Who fits which lane, and who is served
//! next, is in [`matching`].

mod loads;
mod matching;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::loads::LoadHistory;
pub(crate) use self::matching::LaneNews;
use self::matching::{Line, Matching};
use super::outbox::Outbox;
use crate::agent::AgentProfile;
use crate::clock::Timestamp;
use crate::id::{AgentId, InstanceId, JobId, JobKind, QueueName, SessionId};
use crate::job::labels::Labels;
use crate::job::lane::{Lane, LaneId};
use crate::lease::{Epoch, RunRef, SessionRef};
use crate::store::{ClaimGroup, Taker};

/// The most jobs that one session gets from one claim, so that the next session is not kept waiting.
const MAX_JOBS: u32 = 256;
/// The most jobs that it gets while nobody knows yet how large they are.
const FIRST_JOBS: u32 = 64;
/// A link that holds payloads of so many bytes gets no more until some of them have ended.
const MAX_HELD_BYTES: u64 = 32 * 1024 * 1024;

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
    /// Since when it is here.
    pub(crate) entered_at: Timestamp,
    pub(crate) heard_at: Timestamp,
    pub(crate) renewed_at: Timestamp,
    pub(crate) loads: LoadHistory,
    pub(crate) instance: InstanceId,
    pub(crate) hello_number: u64,
    /// When the agent's token should be renewed.
    pub(crate) renew_at: Option<Timestamp>,
    runs: HashMap<JobId, Held, foldhash::fast::FixedState>,
    held_bytes: u64,
    /// How large the payloads were that it got last, on average.
    usual_bytes: Option<u64>,
    is_uncertain: bool,
}

/// A run that a link holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    pub(crate) lane: LaneId,
    pub(crate) is_started: bool,
    /// When its agent said so, if that was to this link.
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) bytes: u32,
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
    pub(crate) held: Vec<(RunRef, Held)>,
    pub(crate) instance: InstanceId,
    pub(crate) hello_number: u64,
    pub(crate) renew_at: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

impl Link {
    /// How many more jobs it may be sent.
    fn credit(&self) -> u32 {
        let is_closed = self.is_draining || self.is_suspect || self.is_uncertain || self.slots == 0;
        if is_closed || self.held_bytes >= MAX_HELD_BYTES {
            return 0;
        }
        let held = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        self.slots.saturating_add(self.prefetch).saturating_sub(held)
    }

    /// How many attempts it could start right now.
    pub(crate) fn free_slots(&self) -> u32 {
        self.slots.saturating_sub(u32::try_from(self.runs.len()).unwrap_or(u32::MAX))
    }

    /// What it takes of the next claim.
    fn taker(&self, line: Line) -> Taker {
        let room = match line {
            Line::Free => self.free_slots().min(self.credit()),
            Line::Roomy => self.credit(),
        };
        let within_bytes = match self.usual_bytes {
            Some(usual) => (MAX_HELD_BYTES - self.held_bytes.min(MAX_HELD_BYTES)) / usual.max(1),
            None => u64::from(FIRST_JOBS),
        };
        let within_bytes = u32::try_from(within_bytes).unwrap_or(u32::MAX).max(1);
        Taker { session: self.session, limit: room.min(MAX_JOBS).min(within_bytes) }
    }

    /// How many runs it holds.
    pub(crate) fn held_count(&self) -> usize {
        self.runs.len()
    }

    /// The run of a job that it holds.
    pub(crate) fn holds(&self, job: JobId) -> Option<Held> {
        self.runs.get(&job).copied()
    }

    /// Does it not hold this run yet, nor a later one of the job? An earlier one it may hold still: of one
    /// that has just ended the store may have said so to nobody.
    pub(crate) fn is_news(&self, run: RunRef) -> bool {
        self.runs.get(&run.job).is_none_or(|held| held.epoch < run.epoch)
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
            agent: AgentId::from_public_key(kind, &hash),
            outbox: Arc::default(),
            profile,
            labels: Labels::new(labels.iter().copied()).unwrap(),
            prefetch: 0,
            is_draining: false,
            held: Vec::new(),
            instance: InstanceId::from_key(key),
            hello_number: 1,
            renew_at: None,
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
        registry.dispatched(reference, (0..3).map(|n| (run(n), mail.id(), 10)));
        registry.lane_ready(&mail);
        assert!(registry.plan().is_empty());
        assert!(!registry.matching.could_plan());
        assert_eq!(registry.ended(session, RunRef { epoch: Epoch::from_number(9), ..run(1) }), None);
        assert_eq!(registry.ended(session, run(1)).map(|held| held.lane), Some(mail.id()));
        assert!(registry.matching.could_plan());
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
            assert!(takers.len() <= 32);
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
    fn large_payloads_leave_less_room() {
        let mut registry = Registry::default();
        let link = new_link("a", &["mail"], &[], 1000);
        let session = link.session;
        registry.connect(link);
        let mail = lane("mail", "");
        registry.lane_ready(&mail);
        assert_eq!(takers(&registry.plan())[0].1, FIRST_JOBS, "nobody knows yet how large they are");
        registry.dispatched(session, (0..8).map(|n| (run(n), mail.id(), 1 << 20)));
        registry.lane_ready(&mail);
        assert_eq!(takers(&registry.plan())[0].1, 24, "of a megabyte each");
        registry.dispatched(session, (8..32).map(|n| (run(n), mail.id(), 1 << 20)));
        registry.lane_ready(&mail);
        assert!(registry.plan().is_empty());
        registry.ended(session.id, run(3));
        assert_eq!(takers(&registry.plan())[0].1, 1);
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
        registry.lane_ready(&mail);
        registry.plan();
        registry.dispatched(busy, (0..5).map(|n| (run(n), mail.id(), 10)));
        registry.started(busy.id, run(0), Timestamp::EPOCH);
        assert!(registry.rebalance().is_empty(), "nobody is idle");
        registry.connect(new_link("idle", &["mail"], &[], 2));
        let retracted = registry.rebalance();
        assert_eq!(retracted.len(), 1);
        assert_eq!(retracted[0].1.len(), 2);
        assert!(!retracted[0].1.contains(&run(0)), "it was started");
    }

    #[test]
    fn a_surplus_is_taken_back_for_an_agent_of_another_class_that_fits() {
        let mut registry = Registry::default();
        let (all, own) = (lane("mail", ""), lane("mail", "host=a"));
        registry.connect(NewLink { prefetch: 4, ..new_link("busy", &["mail"], &[("host", "a")], 1) });
        registry.connect(new_link("idle", &["mail"], &[("host", "b")], 3));
        let busy = SessionRef { id: SessionId::from_key("busy"), link: 1 };
        registry.lane_ready(&all);
        registry.lane_ready(&own);
        while !registry.plan().is_empty() {}
        registry.dispatched(busy, (0..5).map(|n| (run(n), if n < 3 { own.id() } else { all.id() }, 10)));
        let mut expected = vec![run(3), run(4)];
        expected.sort();
        let mut retracted = registry.rebalance().remove(0).1;
        retracted.sort();
        assert_eq!(retracted, expected, "only what the idle one can run");
    }

    #[test]
    fn the_next_run_of_a_job_takes_the_place_of_the_one_whose_end_was_not_heard_of() {
        let mut registry = Registry::default();
        registry.connect(new_link("a", &["mail"], &[], 4));
        let session = SessionRef { id: SessionId::from_key("a"), link: 1 };
        let (lane, first) = (lane("mail", ""), run(0));
        let next = RunRef { epoch: first.epoch.next(), ..first };
        registry.dispatched(session, [(first, lane.id(), 10)].into_iter());
        let link = registry.link(session.id).unwrap();
        assert!(!link.is_news(first) && link.is_news(next) && link.is_news(run(1)));
        registry.dispatched(session, [(next, lane.id(), 30)].into_iter());
        let link = registry.link(session.id).unwrap();
        assert!(!link.is_news(first) && !link.is_news(next));
        assert_eq!((link.held_count(), link.held_bytes, link.usual_bytes), (1, 30, Some(30)));
        assert_eq!(registry.ended(session.id, first), None, "that was the earlier one");
        assert!(registry.ended(session.id, next).is_some());
        assert_eq!(registry.link(session.id).unwrap().held_bytes, 0);
    }

    #[test]
    fn whoever_got_something_waits_behind_those_who_did_not() {
        let mut registry = Registry::default();
        let mail = lane("mail", "");
        for key in ["a", "b", "c"] {
            registry.connect(new_link(key, &["mail"], &[], 9));
        }
        let mut got = Vec::new();
        for n in 0..6 {
            registry.lane_ready(&mail);
            // One job comes at a time, and the first taker gets it.
            let first = registry.plan()[0].takers[0].session;
            registry.dispatched(first, [(run(n), mail.id(), 10)].into_iter());
            got.push(first.id);
        }
        let each_once: BTreeSet<SessionId> = got[..3].iter().copied().collect();
        assert_eq!(each_once.len(), 3);
        assert_eq!(got[..3], got[3..]);
    }
}
