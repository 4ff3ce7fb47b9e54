//! What an orchestrator knows of its neighbours, and has to tell them. Plain state: `now` is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::hint::{Hint, Life};
use crate::id::{AgentId, JobId, JobKind, QueueName, SessionId};
use crate::job::lane::LaneId;

/// A neighbour that was not heard of for this long is gone: three of its signs were lost.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(15);
/// How often an orchestrator says that it is there.
pub(super) const SIGN_EVERY: Duration = Duration::from_secs(5);
/// For how long a neighbour that wants to hear of a job is remembered: it asks again three times within
/// that.
pub(super) const WATCHED_FOR: Duration = Duration::from_secs(60);
/// How often it asks again.
pub(super) const WATCH_AGAIN_EVERY: Duration = Duration::from_secs(20);
/// How many neighbours are known. A store that serves more is shared in another way.
const MAX_NEIGHBOURS: usize = 1024;
/// How many jobs neighbours may want to hear of. Beyond it they look for themselves, every now and then.
const MAX_WATCHED: usize = 65_536;
/// How many jobs are remembered to which something happened just now, for a neighbour that asks a moment
/// too late.
const MAX_RECENT: usize = 8192;
/// How much of one sort waits to be told. Beyond it neighbours are told to look at everything.
const MAX_PENDING: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    neighbours: BTreeMap<Life, Neighbour>,
    watched: HashMap<JobId, Instant>,
    recent: Recent,
    pending: Pending,
}

/// The jobs to which something happened last.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<JobId>,
    jobs: HashSet<JobId>,
}

#[derive(Debug)]
struct Neighbour {
    heard_at: Instant,
    idle: BTreeMap<JobKind, u32>,
}

/// What has to be told.
#[derive(Debug, Default)]
struct Pending {
    lanes: BTreeSet<LaneId>,
    queues: BTreeSet<QueueName>,
    watched: BTreeSet<JobId>,
    jobs: BTreeSet<JobId>,
    sessions: BTreeSet<SessionId>,
    agents: BTreeSet<AgentId>,
    has_overflowed: bool,
}

impl State {
    /// Notes that a neighbour is there. Gives whether it is a new one.
    pub(super) fn heard_of(&mut self, life: Life, idle: Vec<(JobKind, u32)>, now: Instant) -> bool {
        self.forget_gone(now);
        if self.neighbours.len() >= MAX_NEIGHBOURS && !self.neighbours.contains_key(&life) {
            return false;
        }
        let idle = idle.into_iter().filter(|(_, slots)| *slots > 0).collect();
        let neighbour = Neighbour { heard_at: now, idle };
        self.neighbours.insert(life, neighbour).is_none()
    }

    /// Notes that a neighbour went away.
    pub(super) fn left(&mut self, life: Life) {
        self.neighbours.remove(&life);
    }

    /// How many jobs neighbours want to hear of.
    pub(super) fn watched_count(&self) -> usize {
        self.watched.len()
    }

    /// Forgets who was not heard of for long, and what nobody asked for again. Gives how many are there.
    pub(super) fn forget_gone(&mut self, now: Instant) -> usize {
        self.neighbours.retain(|_, neighbour| now.duration_since(neighbour.heard_at) < GONE_AFTER);
        self.watched.retain(|_, until| *until > now);
        self.neighbours.len()
    }

    /// For which kinds of jobs neighbours have free slots, and how many.
    pub(super) fn idle(&self) -> BTreeMap<JobKind, u32> {
        let mut all: BTreeMap<JobKind, u32> = BTreeMap::new();
        for (kind, slots) in self.neighbours.values().flat_map(|neighbour| &neighbour.idle) {
            let sum = all.entry(kind.clone()).or_default();
            *sum = sum.saturating_add(*slots);
        }
        all
    }

    /// A neighbour wants to hear of these jobs. Those to which something happened just now are told at
    /// once: the neighbour may have asked a moment too late. Gives how many are watched.
    pub(super) fn watch(&mut self, jobs: Vec<JobId>, now: Instant) -> usize {
        for job in jobs {
            if self.recent.jobs.contains(&job) {
                self.pending.jobs.insert(job);
            }
            if self.watched.len() < MAX_WATCHED || self.watched.contains_key(&job) {
                self.watched.insert(job, now + WATCHED_FOR);
            }
        }
        self.watched.len()
    }

    /// Something happened to these jobs. Gives whether a neighbour wants to hear of any of them.
    pub(super) fn happened(&mut self, jobs: impl Iterator<Item = JobId>) -> bool {
        let mut is_any_watched = false;
        for job in jobs {
            self.recent.push(job);
            if self.watched.contains_key(&job) {
                self.pending.jobs.insert(job);
                is_any_watched = true;
            }
        }
        is_any_watched
    }

    /// Has to tell this.
    pub(super) fn add(&mut self, hint: Hint) {
        let pending = &mut self.pending;
        match hint {
            Hint::Lanes(ids) => pending.lanes.extend(ids),
            Hint::Queues(names) => pending.queues.extend(names),
            Hint::Watched(ids) => pending.watched.extend(ids),
            Hint::Jobs(ids) => pending.jobs.extend(ids),
            Hint::Sessions(ids) => pending.sessions.extend(ids),
            Hint::Agents(names) => pending.agents.extend(names),
            Hint::Everything => pending.has_overflowed = true,
            // Told directly: they are about a moment.
            Hint::Present { .. } | Hint::Leaving => {}
        }
        let most = [
            pending.lanes.len(),
            pending.queues.len(),
            pending.watched.len(),
            pending.jobs.len(),
            pending.sessions.len(),
            pending.agents.len(),
        ];
        if most.into_iter().any(|count| count > MAX_PENDING) {
            *pending = Pending { has_overflowed: true, ..Pending::default() };
        }
    }

    /// Takes what has to be told.
    pub(super) fn take(&mut self) -> Vec<Hint> {
        let Pending { lanes, queues, watched, jobs, sessions, agents, has_overflowed } =
            std::mem::take(&mut self.pending);
        if has_overflowed {
            return vec![Hint::Everything];
        }
        let hints = [
            Hint::Lanes(lanes.into_iter().collect()),
            Hint::Queues(queues.into_iter().collect()),
            Hint::Watched(watched.into_iter().collect()),
            Hint::Jobs(jobs.into_iter().collect()),
            Hint::Sessions(sessions.into_iter().collect()),
            Hint::Agents(agents.into_iter().collect()),
        ];
        hints.into_iter().filter(|hint| !hint.is_empty()).collect()
    }
}

impl Recent {
    fn push(&mut self, job: JobId) {
        if !self.jobs.insert(job) {
            return;
        }
        self.order.push_back(job);
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.jobs.remove(&oldest);
        }
    }
}

impl Hint {
    fn is_empty(&self) -> bool {
        match self {
            Self::Lanes(ids) => ids.is_empty(),
            Self::Queues(names) => names.is_empty(),
            Self::Watched(ids) | Self::Jobs(ids) => ids.is_empty(),
            Self::Sessions(ids) => ids.is_empty(),
            Self::Agents(names) => names.is_empty(),
            Self::Present { .. } | Self::Leaving | Self::Everything => false,
        }
    }
}

/// Hints as bytes, all of one life.
pub(super) fn encoded(hints: Vec<Hint>, life: Life) -> Vec<Bytes> {
    hints.into_iter().flat_map(|hint| hint.encode(life)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: usize) -> JobId {
        JobId::from_key(&n.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_neighbour_that_falls_silent_is_gone() {
        let mut state = State::default();
        assert!(state.heard_of(1, Vec::new(), Instant::now()));
        tokio::time::advance(GONE_AFTER / 2).await;
        assert!(state.heard_of(2, Vec::new(), Instant::now()));
        assert!(!state.heard_of(2, Vec::new(), Instant::now()), "it is known");
        tokio::time::advance(GONE_AFTER / 2).await;
        assert_eq!(state.forget_gone(Instant::now()), 1);
        state.left(2);
        assert_eq!(state.forget_gone(Instant::now()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_slots_of_all_neighbours_count_until_they_say_otherwise() {
        let (mut state, kind) = (State::default(), JobKind::new("mail").unwrap());
        state.heard_of(1, vec![(kind.clone(), 2)], Instant::now());
        state.heard_of(2, vec![(kind.clone(), u32::MAX)], Instant::now());
        assert_eq!(state.idle(), BTreeMap::from([(kind.clone(), u32::MAX)]));
        state.heard_of(2, Vec::new(), Instant::now());
        assert_eq!(state.idle(), BTreeMap::from([(kind, 2)]));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_watched_is_told_and_what_happened_just_before_too() {
        let mut state = State::default();
        assert!(!state.happened([job(1), job(2)].into_iter()));
        assert!(state.take().is_empty());
        assert_eq!(state.watch(vec![job(1), job(3)], Instant::now()), 2);
        assert_eq!(state.take(), [Hint::Jobs(vec![job(1)])]);
        assert!(state.happened([job(2), job(3), job(4)].into_iter()), "one of them is watched");
        assert_eq!(state.take(), [Hint::Jobs(vec![job(3)])]);
        assert!(!state.happened([job(2), job(4)].into_iter()));
        tokio::time::advance(WATCHED_FOR).await;
        state.forget_gone(Instant::now());
        assert_eq!(state.watched_count(), 0);
        assert!(!state.happened([job(3)].into_iter()), "it asked no more");
    }

    #[test]
    fn what_is_too_much_to_be_named_becomes_everything() {
        let mut state = State::default();
        state.add(Hint::Agents(Vec::new()));
        assert!(state.take().is_empty());
        state.add(Hint::Jobs((0..MAX_PENDING).map(job).collect()));
        assert!(matches!(&state.take()[..], [Hint::Jobs(jobs)] if jobs.len() == MAX_PENDING));
        state.add(Hint::Jobs((0..=MAX_PENDING).map(job).collect()));
        assert_eq!(state.take(), [Hint::Everything]);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_fill_the_memory() {
        let mut state = State::default();
        for life in 0..10_000 {
            state.heard_of(life, Vec::new(), Instant::now());
        }
        assert_eq!(state.neighbours.len(), MAX_NEIGHBOURS);
        for n in 0..100 {
            state.watch((0..1000).map(|m| job(n * 1000 + m)).collect(), Instant::now());
        }
        assert_eq!(state.watched.len(), MAX_WATCHED);
        state.happened((0..10_000).map(job));
        assert_eq!((state.recent.order.len(), state.recent.jobs.len()), (MAX_RECENT, MAX_RECENT));
    }
}
