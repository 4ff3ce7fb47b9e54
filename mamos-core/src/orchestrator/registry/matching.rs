//! Which agents fit which lanes, and who is served next.
//!
//! Agents that fit the same known lanes form a *class*, whatever their labels. A lane is matched when it
//! or an agent appears, and planning looks only at lanes that may have ready jobs and at classes in
//! which somebody has room.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::id::{JobKind, QueueName, SessionId};
use crate::job::labels::Labels;
use crate::job::lane::{Lane, LaneId};
use crate::store::{ClaimGroup, Taker};

/// The most sessions in one group of a claim: enough for whole batches, few enough that ten thousand
/// idle agents cost a claim nothing.
const MAX_TAKERS: usize = 32;
/// The most lanes that one plan looks at. The next one goes on where it ended, so that none starves.
const MAX_LANES: usize = 256;
/// The most groups in one claim.
const MAX_GROUPS: usize = 64;
/// Beyond this many known lanes, those without ready jobs are forgotten. They are learnt again.
const MAX_KNOWN_LANES: usize = 10_000;

/// Where a link waits for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It has free slots.
    Free,
    /// It only has room for a prefetch: served when nobody who fits has a free slot.
    Roomy,
}

/// Where the news of a ready lane came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneNews {
    /// From here: other orchestrators may not know yet.
    Own,
    /// From another orchestrator or from the store: they know, or will see for themselves.
    Heard,
}

/// A place in a line: whoever has waited longer has a smaller one.
type Ticket = u64;
type ClassId = u64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Matching {
    lanes: BTreeMap<LaneId, LaneEntry>,
    /// Lanes that may have ready jobs. Cleared *before* a claim looks, so that a job that arrives
    /// while it looks sets it again.
    ready: BTreeSet<LaneId>,
    /// Those of them of which other orchestrators need not hear, because they heard or said it already.
    told: BTreeSet<LaneId>,
    /// Kinds of jobs for which agents of other orchestrators have free slots: nothing of them is prefetched.
    idle_elsewhere: BTreeMap<JobKind, u32>,
    classes: BTreeMap<ClassId, Class>,
    class_of: BTreeMap<Vec<LaneId>, ClassId>,
    members: BTreeMap<SessionId, Member>,
    /// Classes in which somebody stands in the line.
    free: BTreeSet<ClassId>,
    roomy: BTreeSet<ClassId>,
    next_class: ClassId,
    next_ticket: Ticket,
    /// Where the last plan ended.
    last_lane: Option<LaneId>,
    last_class: ClassId,
}

#[derive(Debug)]
struct LaneEntry {
    lane: Arc<Lane>,
    classes: BTreeSet<ClassId>,
}

#[derive(Debug, Default)]
struct Class {
    /// Sorted.
    lanes: Vec<LaneId>,
    members: BTreeSet<SessionId>,
    free: BTreeMap<Ticket, SessionId>,
    roomy: BTreeMap<Ticket, SessionId>,
}

#[derive(Debug)]
struct Member {
    kinds: Vec<JobKind>,
    labels: Labels,
    class: ClassId,
    place: Option<(Line, Ticket)>,
}

impl Matching {
    /// Adds an agent. It stands in no line yet.
    pub(super) fn join(&mut self, session: SessionId, kinds: &[JobKind], labels: &Labels) {
        let mut kinds = kinds.to_vec();
        kinds.sort_unstable();
        let mut member = Member { kinds, labels: labels.clone(), class: 0, place: None };
        let fitting = self.lanes.values().filter(|entry| member.fits(&entry.lane));
        let lanes = fitting.map(|entry| entry.lane.id()).collect();
        member.class = self.enter(session, lanes);
        self.members.insert(session, member);
    }

    /// Removes an agent.
    pub(super) fn leave(&mut self, session: SessionId) {
        self.stand(session, None);
        if let Some(member) = self.members.remove(&session) {
            self.exit(session, member.class);
        }
    }

    /// Puts an agent into a line, or into none. Where it stands already it keeps its place.
    pub(super) fn stand(&mut self, session: SessionId, line: Option<Line>) {
        let Some(member) = self.members.get_mut(&session) else { return };
        if member.place.map(|(line, _)| line) == line {
            return;
        }
        let Some(class) = self.classes.get_mut(&member.class) else { return };
        if let Some((line, ticket)) = member.place.take() {
            class.line(line).remove(&ticket);
        }
        if let Some(line) = line {
            self.next_ticket += 1;
            member.place = Some((line, self.next_ticket));
            class.line(line).insert(self.next_ticket, session);
        }
        self.note_lines(session);
    }

    /// Notes that a lane may have ready jobs.
    pub(super) fn lane_ready(&mut self, lane: &Arc<Lane>, news: LaneNews) {
        self.learn(lane);
        self.note_ready(lane.id(), news);
    }

    /// The same, for a lane that is known. False if it is not.
    pub(super) fn lane_ready_by_id(&mut self, lane: LaneId, news: LaneNews) -> bool {
        let is_known = self.lanes.contains_key(&lane);
        if is_known {
            self.note_ready(lane, news);
        }
        is_known
    }

    fn note_ready(&mut self, lane: LaneId, news: LaneNews) {
        let was_ready = !self.ready.insert(lane);
        match news {
            LaneNews::Own => drop(self.told.remove(&lane)),
            // What was own news and is not told yet stays so.
            LaneNews::Heard if was_ready => {}
            LaneNews::Heard => drop(self.told.insert(lane)),
        }
    }

    /// Lanes with ready jobs for which nobody here has a free slot, each once: other orchestrators may have
    /// somebody.
    pub(super) fn short_lanes(&mut self) -> Vec<LaneId> {
        let short =
            self.ready.iter().filter(|lane| !self.told.contains(lane)).filter(|lane| {
                self.lanes.get(lane).is_some_and(|entry| entry.classes.is_disjoint(&self.free))
            });
        let short: Vec<LaneId> = short.take(MAX_LANES).copied().collect();
        self.told.extend(&short);
        short
    }

    /// For which kinds of jobs somebody has free slots and nothing is ready, with who that is.
    pub(super) fn idle_kinds(&self) -> impl Iterator<Item = (&JobKind, SessionId)> {
        let members = self.members.iter().filter(|(_, member)| {
            member.place.is_some_and(|(line, _)| line == Line::Free)
                && self.classes.get(&member.class).is_some_and(|class| self.is_idle(class))
        });
        members.flat_map(|(session, member)| member.kinds.iter().map(|kind| (kind, *session)))
    }

    /// Notes for which kinds of jobs agents elsewhere have free slots. True if somebody here may get a
    /// prefetch again.
    pub(super) fn set_idle_elsewhere(&mut self, kinds: BTreeMap<JobKind, u32>) -> bool {
        let may_prefetch = self.idle_elsewhere.keys().any(|kind| !kinds.contains_key(kind));
        self.idle_elsewhere = kinds;
        may_prefetch
    }

    /// For how many jobs of kinds agents elsewhere have free slots.
    pub(super) fn idle_elsewhere(&self) -> &BTreeMap<JobKind, u32> {
        &self.idle_elsewhere
    }

    fn is_idle(&self, class: &Class) -> bool {
        !class.lanes.iter().any(|lane| self.ready.contains(lane))
    }

    /// A lane, if it is known.
    pub(super) fn lane(&self, lane: LaneId) -> Option<&Arc<Lane>> {
        self.lanes.get(&lane).map(|entry| &entry.lane)
    }

    /// Notes that every known lane of a queue may have ready jobs.
    pub(super) fn queue_ready(&mut self, queue: &QueueName) {
        let lanes = self.lanes.values().filter(|entry| entry.lane.queue() == queue);
        let lanes: Vec<LaneId> = lanes.map(|entry| entry.lane.id()).collect();
        // Whoever lets a queue go on tells the others.
        lanes.into_iter().for_each(|lane| self.note_ready(lane, LaneNews::Heard));
    }

    /// Plans the next claim; `taker` says how much a session takes. Whoever is served goes to the end of
    /// its line. The lanes that the plan names count as empty until someone says otherwise.
    pub(super) fn plan(&mut self, taker: impl Fn(SessionId, Line) -> Taker) -> Vec<ClaimGroup> {
        let mut groups: BTreeMap<Vec<LaneId>, Vec<Taker>> = BTreeMap::new();
        for (class, lanes) in self.chosen() {
            let takers = groups.entry(lanes).or_default();
            let line = if self.free.contains(&class) { Line::Free } else { Line::Roomy };
            let Some(entry) = self.classes.get_mut(&class) else { continue };
            let room = MAX_TAKERS.saturating_sub(takers.len());
            let next: Vec<SessionId> = entry.line(line).values().take(room).copied().collect();
            for session in next {
                takers.push(taker(session, line));
                self.stand(session, None);
                self.stand(session, Some(line));
            }
        }
        let groups: Vec<ClaimGroup> = groups
            .into_iter()
            .filter(|(_, takers)| !takers.is_empty())
            .map(|(lanes, takers)| ClaimGroup { lanes, takers })
            .collect();
        for lane in groups.iter().flat_map(|group| &group.lanes) {
            self.ready.remove(lane);
            self.told.remove(lane);
        }
        groups
    }

    /// Is there a lane that may have ready jobs and somebody with room for them?
    #[cfg(test)]
    pub(super) fn could_plan(&self) -> bool {
        let ready = self.ready.iter().filter_map(|lane| self.lanes.get(lane));
        ready
            .flat_map(|entry| &entry.classes)
            .any(|class| self.free.contains(class) || self.roomy.contains(class))
    }

    /// Classes in which somebody has free slots and nothing is ready for them, with who that is.
    pub(super) fn idle(&self) -> BTreeMap<u64, Vec<SessionId>> {
        let classes = self.free.iter().filter_map(|id| self.classes.get(id).map(|class| (*id, class)));
        let idle = classes.filter(|(_, class)| self.is_idle(class));
        idle.map(|(id, class)| (id, class.free.values().copied().collect())).collect()
    }

    /// The classes that fit a lane.
    pub(super) fn classes_of(&self, lane: LaneId) -> impl Iterator<Item = u64> {
        self.lanes.get(&lane).into_iter().flat_map(|entry| entry.classes.iter().copied())
    }

    /// Classes that are to be served, each with the lanes that it is to be served from.
    fn chosen(&mut self) -> BTreeMap<ClassId, Vec<LaneId>> {
        let mut chosen: BTreeMap<ClassId, Vec<LaneId>> = BTreeMap::new();
        let start = self.last_lane.map_or(Bound::Unbounded, Bound::Excluded);
        let end = self.last_lane.map_or(Bound::Excluded(LaneId::from_number(i64::MIN)), Bound::Included);
        let in_turn =
            self.ready.range((start, Bound::Unbounded)).chain(self.ready.range((Bound::Unbounded, end)));
        for lane in in_turn.take(MAX_LANES) {
            let Some(entry) = self.lanes.get(lane) else { continue };
            let mut classes = rotated(&entry.classes, &self.free, self.last_class);
            if classes.is_empty() && !self.idle_elsewhere.contains_key(entry.lane.kind()) {
                classes = rotated(&entry.classes, &self.roomy, self.last_class);
            }
            for class in classes {
                if chosen.len() < MAX_GROUPS || chosen.contains_key(&class) {
                    chosen.entry(class).or_default().push(*lane);
                }
            }
            self.last_lane = Some(*lane);
        }
        if let Some(class) = chosen.keys().next_back() {
            self.last_class = *class;
        }
        chosen.values_mut().for_each(|lanes| lanes.sort_unstable());
        chosen
    }

    fn learn(&mut self, lane: &Arc<Lane>) {
        if self.lanes.contains_key(&lane.id()) {
            return;
        }
        if self.lanes.len() >= MAX_KNOWN_LANES {
            self.forget_quiet_lanes();
        }
        let entry = LaneEntry { lane: Arc::clone(lane), classes: BTreeSet::new() };
        self.lanes.insert(lane.id(), entry);
        let fitting: Vec<SessionId> = self
            .members
            .iter()
            .filter(|(_, member)| member.fits(lane))
            .map(|(session, _)| *session)
            .collect();
        for session in fitting {
            self.move_to(session, |lanes| lanes.push(lane.id()));
        }
    }

    fn forget_quiet_lanes(&mut self) {
        let quiet: BTreeSet<LaneId> =
            self.lanes.keys().filter(|lane| !self.ready.contains(lane)).copied().collect();
        let sessions: Vec<SessionId> = self.members.keys().copied().collect();
        for session in sessions {
            self.move_to(session, |lanes| lanes.retain(|lane| !quiet.contains(lane)));
        }
        self.lanes.retain(|lane, _| !quiet.contains(lane));
    }

    /// Changes the lanes that an agent fits, and with them its class. It keeps its place.
    fn move_to(&mut self, session: SessionId, change: impl FnOnce(&mut Vec<LaneId>)) {
        let Some(member) = self.members.get(&session) else { return };
        let (from, place) = (member.class, member.place);
        let mut lanes = self.classes.get(&from).map(|class| class.lanes.clone()).unwrap_or_default();
        change(&mut lanes);
        self.stand(session, None);
        self.exit(session, from);
        let to = self.enter(session, lanes);
        if let Some(member) = self.members.get_mut(&session) {
            member.class = to;
            member.place = place;
        }
        if let (Some((line, ticket)), Some(class)) = (place, self.classes.get_mut(&to)) {
            class.line(line).insert(ticket, session);
        }
        self.note_lines(session);
    }

    fn enter(&mut self, session: SessionId, mut lanes: Vec<LaneId>) -> ClassId {
        lanes.sort_unstable();
        let id = match self.class_of.get(&lanes) {
            Some(id) => *id,
            None => {
                self.next_class += 1;
                self.class_of.insert(lanes.clone(), self.next_class);
                for lane in &lanes {
                    if let Some(entry) = self.lanes.get_mut(lane) {
                        entry.classes.insert(self.next_class);
                    }
                }
                self.next_class
            }
        };
        let class = self.classes.entry(id).or_insert_with(|| Class { lanes, ..Class::default() });
        class.members.insert(session);
        id
    }

    /// The last one to leave a class takes it along.
    fn exit(&mut self, session: SessionId, id: ClassId) {
        let Some(class) = self.classes.get_mut(&id) else { return };
        class.members.remove(&session);
        if !class.members.is_empty() {
            return;
        }
        let lanes = std::mem::take(&mut class.lanes);
        for lane in &lanes {
            if let Some(entry) = self.lanes.get_mut(lane) {
                entry.classes.remove(&id);
            }
        }
        self.class_of.remove(&lanes);
        self.classes.remove(&id);
        self.free.remove(&id);
        self.roomy.remove(&id);
    }

    fn note_lines(&mut self, session: SessionId) {
        let Some(id) = self.members.get(&session).map(|member| member.class) else { return };
        let Some(class) = self.classes.get(&id) else { return };
        for (set, is_empty) in
            [(&mut self.free, class.free.is_empty()), (&mut self.roomy, class.roomy.is_empty())]
        {
            if is_empty {
                set.remove(&id);
            } else {
                set.insert(id);
            }
        }
    }
}

impl Member {
    fn fits(&self, lane: &Lane) -> bool {
        self.kinds.binary_search(lane.kind()).is_ok() && lane.selector().matches(&self.labels)
    }
}

impl Class {
    fn line(&mut self, line: Line) -> &mut BTreeMap<Ticket, SessionId> {
        match line {
            Line::Free => &mut self.free,
            Line::Roomy => &mut self.roomy,
        }
    }
}

/// At most as many as a claim can serve of the classes that are in both sets, those after `last` first.
fn rotated(fitting: &BTreeSet<ClassId>, open: &BTreeSet<ClassId>, last: ClassId) -> Vec<ClassId> {
    let (walked, other) = if fitting.len() <= open.len() { (fitting, open) } else { (open, fitting) };
    let in_turn = walked.range(last.saturating_add(1)..).chain(walked.range(..=last));
    in_turn.filter(|class| other.contains(class)).take(MAX_TAKERS).copied().collect()
}

#[cfg(test)]
mod tests;
