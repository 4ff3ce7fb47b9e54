//! All jobs and the indexes over them. Every change of state goes through here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use mamos_core::JobState;
use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, JobKind, QueueName};
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::state::JobEvent;
use mamos_core::job::{CancelRequest, NewJob, UniqueKey};
use mamos_core::store::{
    CancelVerdict, ChangeVerdict, Cursor, EnqueueResult, Enqueued, JobFilter, Page, PageRequest, QueueRecord,
};
use mamos_core::{Error, ErrorKind, Result};

use super::hash::IdMap;
use super::job::{Job, ReadyKey};
use super::line::Line;
use super::slab::{Slab, Slot};

/// When something is due, and the order in which the jobs were stored.
type DueKey = (Timestamp, u64);

/// All jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    table: Slab<Job>,
    by_id: IdMap<JobId, Slot>,
    by_sequence: BTreeMap<u64, Slot>,
    by_unique_key: HashMap<(JobKind, UniqueKey), Slot>,
    lanes: IdMap<LaneId, LaneEntry>,
    scheduled: Line<DueKey>,
    deadlines: Line<DueKey>,
    finished: Line<DueKey>,
    last_sequence: u64,
    /// Every queue that was ever paused, and whether it is.
    paused: BTreeMap<QueueName, bool>,
}

/// A lane with a job in it.
#[derive(Debug)]
struct LaneEntry {
    lane: Arc<Lane>,
    ready: Line<ReadyKey>,
    /// Jobs in any state.
    jobs: usize,
}

impl Jobs {
    pub(super) fn slot(&self, id: JobId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, slot: Slot) -> &Job {
        &self.table[slot]
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Job {
        &mut self.table[slot]
    }

    pub(super) fn enqueue(&mut self, spec: NewJob, now: Timestamp) -> Enqueued {
        let id = spec.id;
        let result = self.try_enqueue(spec, now);
        Enqueued { id, result }
    }

    fn try_enqueue(&mut self, mut spec: NewJob, now: Timestamp) -> EnqueueResult {
        if let Some(slot) = self.slot(spec.id) {
            let stored = &self.table[slot];
            return if stored.spec.is_repeat_of(&spec) {
                EnqueueResult::Repeat(stored.state)
            } else {
                EnqueueResult::IdTaken
            };
        }
        if let Some(by) = self.holder_of_key(&spec) {
            return EnqueueResult::UniqueKeyTaken { by };
        }
        let entry = self.lanes.entry(spec.lane.id()).or_insert_with(|| LaneEntry {
            lane: Arc::clone(&spec.lane),
            ready: Line::default(),
            jobs: 0,
        });
        entry.jobs += 1;
        // One lane in memory, however many equal ones enqueuers made.
        spec.lane = Arc::clone(&entry.lane);
        self.last_sequence += 1;
        let job = Job::new(spec, self.last_sequence, now);
        let (id, state, sequence) = (job.spec.id, job.state, job.sequence);
        let slot = self.table.insert(job);
        self.by_id.insert(id, slot);
        self.by_sequence.insert(sequence, slot);
        self.live(slot);
        self.enter(slot, state, now);
        EnqueueResult::Stored(state)
    }

    /// The other job that has the unique key, and has not ended.
    fn holder_of_key(&self, spec: &NewJob) -> Option<JobId> {
        let key = unique_key(spec)?;
        self.by_unique_key.get(&key).map(|slot| self.table[*slot].spec.id)
    }

    /// Enters a job that has not ended into the indexes of such jobs.
    fn live(&mut self, slot: Slot) {
        let job = &self.table[slot];
        if let Some(deadline) = job.spec.deadline {
            self.deadlines.push((deadline, job.sequence), slot);
        }
        if let Some(key) = unique_key(&job.spec) {
            self.by_unique_key.insert(key, slot);
        }
    }

    /// Takes a job out of the index of its state.
    fn leave(&mut self, slot: Slot) {
        let job = &self.table[slot];
        match job.state {
            JobState::Ready => {
                let key = job.ready_key();
                if let Some(entry) = self.lanes.get_mut(&job.spec.lane.id()) {
                    entry.ready.remove(key);
                }
            }
            JobState::Scheduled => self.scheduled.remove((job.run_at, job.sequence)),
            JobState::Succeeded | JobState::Dead | JobState::Cancelled => {
                if let Some(at) = job.finished_at {
                    self.finished.remove((at, job.sequence));
                }
            }
            // Sessions know what they hold; nobody waits for blocked jobs.
            JobState::Blocked | JobState::Leased | JobState::Running => {}
        }
    }

    /// Puts a job that is in no index of a state into a state and its index.
    pub(super) fn enter(&mut self, slot: Slot, state: JobState, now: Timestamp) {
        let job = &mut self.table[slot];
        job.state = state;
        match state {
            JobState::Ready => {
                let key = job.ready_key();
                if let Some(entry) = self.lanes.get_mut(&job.spec.lane.id()) {
                    entry.ready.push(key, slot);
                }
            }
            JobState::Scheduled => self.scheduled.push((job.run_at, job.sequence), slot),
            JobState::Succeeded | JobState::Dead | JobState::Cancelled => {
                job.finished_at = Some(now);
                self.finished.push((now, job.sequence), slot);
                if let Some(deadline) = job.spec.deadline {
                    self.deadlines.remove((deadline, job.sequence));
                }
                if let Some(key) = unique_key(&job.spec) {
                    self.by_unique_key.remove(&key);
                }
            }
            JobState::Blocked | JobState::Leased | JobState::Running => {}
        }
    }

    /// Moves a job that is not held by an event, if that can happen to it.
    pub(super) fn change(
        &mut self,
        slot: Slot,
        event: JobEvent,
        now: Timestamp,
    ) -> Result<JobState, JobState> {
        let from = self.table[slot].state;
        let to = from.after(event).map_err(|_| from)?;
        self.leave(slot);
        self.enter(slot, to, now);
        Ok(to)
    }

    /// Takes up to `wanted` ready jobs out of their lanes, in the order of claim.
    pub(super) fn take_ready(&mut self, lanes: &[LaneId], wanted: usize) -> Vec<Slot> {
        let mut heads = BinaryHeap::with_capacity(lanes.len());
        for id in lanes {
            if let Some(entry) = self.lanes.get(id)
                && let Some((key, _)) = entry.ready.first()
                && !self.is_paused(entry.lane.queue())
            {
                heads.push(Reverse((key, *id)));
            }
        }
        let mut taken = Vec::new();
        while taken.len() < wanted
            && let Some(Reverse((key, id))) = heads.pop()
        {
            let Some(entry) = self.lanes.get_mut(&id) else { continue };
            // A lane that was named twice has two heads here, and one of them is out of date.
            let is_fresh = entry.ready.first().is_some_and(|(first, _)| first == key);
            while is_fresh && taken.len() < wanted {
                let Some((_, slot)) = entry.ready.pop_first() else { break };
                taken.push(slot);
                // Nothing else can come before as long as this lane is the only one.
                if !heads.is_empty() {
                    break;
                }
            }
            if !heads.is_empty()
                && let Some((key, _)) = entry.ready.first()
            {
                heads.push(Reverse((key, id)));
            }
        }
        taken
    }

    fn is_paused(&self, queue: &QueueName) -> bool {
        !self.paused.is_empty() && self.paused.get(queue).copied().unwrap_or(false)
    }

    /// The next scheduled job that is due, or when the next one will be.
    pub(super) fn next_scheduled(&self) -> Option<(Timestamp, Slot)> {
        self.scheduled.first().map(|((at, _), slot)| (at, slot))
    }

    /// The job with the next deadline.
    pub(super) fn next_deadline(&self) -> Option<(Timestamp, Slot)> {
        self.deadlines.first().map(|((at, _), slot)| (at, slot))
    }

    pub(super) fn cancel(&mut self, id: JobId, request: &CancelRequest, now: Timestamp) -> CancelVerdict {
        let Some(slot) = self.slot(id) else { return CancelVerdict::Missing };
        let job = &mut self.table[slot];
        match (job.state.is_held(), job.session) {
            (true, Some(session)) => {
                job.request_cancel(request);
                CancelVerdict::Requested { run: job.run(), session }
            }
            _ => match self.change(slot, JobEvent::Cancel, now) {
                Ok(_) => {
                    self.table[slot].request_cancel(request);
                    CancelVerdict::Cancelled
                }
                Err(state) => CancelVerdict::AlreadyEnded(state),
            },
        }
    }

    pub(super) fn redrive(&mut self, id: JobId, now: Timestamp) -> ChangeVerdict {
        let Some(slot) = self.slot(id) else { return ChangeVerdict::Missing };
        let job = &self.table[slot];
        let Ok(state) = job.state.after(JobEvent::Redrive) else {
            return ChangeVerdict::Refused(job.state);
        };
        if let Some(by) = self.holder_of_key(&job.spec) {
            return ChangeVerdict::UniqueKeyTaken { by };
        }
        self.leave(slot);
        self.table[slot].start_afresh(now);
        self.live(slot);
        self.enter(slot, state, now);
        ChangeVerdict::Ready(self.table[slot].spec.lane.id())
    }

    pub(super) fn approve(&mut self, id: JobId, now: Timestamp) -> ChangeVerdict {
        let Some(slot) = self.slot(id) else { return ChangeVerdict::Missing };
        let job = &mut self.table[slot];
        let Ok(state) = job.state.after(JobEvent::Unblock) else {
            return ChangeVerdict::Refused(job.state);
        };
        job.run_at = now;
        self.enter(slot, state, now);
        ChangeVerdict::Ready(self.table[slot].spec.lane.id())
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: u32) -> u32 {
        let mut pruned = 0;
        while pruned < limit
            && let Some(((at, _), slot)) = self.finished.first()
            && at < before
        {
            self.finished.pop_first();
            if let Some(job) = self.table.remove(slot) {
                self.by_id.remove(&job.spec.id);
                self.by_sequence.remove(&job.sequence);
                let lane = job.spec.lane.id();
                if let Some(entry) = self.lanes.get_mut(&lane) {
                    entry.jobs -= 1;
                    if entry.jobs == 0 {
                        self.lanes.remove(&lane);
                    }
                }
            }
            pruned += 1;
        }
        pruned
    }

    pub(super) fn page(
        &self,
        filter: &JobFilter,
        page: &PageRequest,
    ) -> Result<Page<mamos_core::job::JobRecord>> {
        let end = match &page.after {
            None => u64::MAX,
            Some(Cursor(text)) => text.parse().map_err(|_| {
                Error::new(ErrorKind::Invalid, "store.jobs", "this cursor is not of this list; begin again")
            })?,
        };
        let limit = page.bounded_limit() as usize;
        let mut fitting = self
            .by_sequence
            .range(..end)
            .rev()
            .map(|(_, slot)| &self.table[*slot])
            .filter(|job| fits(job, filter));
        let mut items = Vec::new();
        let mut last = end;
        for job in fitting.by_ref().take(limit) {
            last = job.sequence;
            items.push(job.record());
        }
        let next = fitting.next().map(|_| Cursor(last.to_string()));
        Ok(Page { items, next })
    }

    pub(super) fn queues(&self) -> Vec<QueueRecord> {
        let empty = |queue: &QueueName, is_paused| QueueRecord {
            queue: queue.clone(),
            is_paused,
            counts: [0; JobState::ALL.len()],
            oldest_ready: None,
        };
        let mut queues: BTreeMap<&QueueName, QueueRecord> =
            self.paused.iter().map(|(queue, is_paused)| (queue, empty(queue, *is_paused))).collect();
        for job in self.table.iter() {
            let queue = job.spec.lane.queue();
            let record = queues.entry(queue).or_insert_with(|| empty(queue, false));
            let count = JobState::ALL.iter().zip(&mut record.counts).find(|(state, _)| **state == job.state);
            if let Some((_, count)) = count {
                *count += 1;
            }
            if job.state == JobState::Ready {
                record.oldest_ready = Some(record.oldest_ready.map_or(job.run_at, |at| at.min(job.run_at)));
            }
        }
        queues.into_values().collect()
    }

    pub(super) fn set_paused(&mut self, queue: &QueueName, is_paused: bool) {
        if is_paused || self.paused.contains_key(queue) {
            self.paused.insert(queue.clone(), is_paused);
        }
    }

    pub(super) fn paused_queues(&self) -> Vec<QueueName> {
        self.paused.iter().filter(|(_, is_paused)| **is_paused).map(|(queue, _)| queue.clone()).collect()
    }

    pub(super) fn ready_lanes(&self) -> Vec<Arc<Lane>> {
        let ready = self.lanes.values().filter(|entry| !entry.ready.is_empty());
        sorted(ready.map(|entry| Arc::clone(&entry.lane)).collect())
    }
}

/// Lanes in the order of their numbers, each once: the same answer each time.
pub(super) fn sorted(mut lanes: Vec<Arc<Lane>>) -> Vec<Arc<Lane>> {
    let mut seen = HashSet::new();
    lanes.retain(|lane| seen.insert(lane.id()));
    lanes.sort_by_key(|lane| lane.id());
    lanes
}

fn unique_key(spec: &NewJob) -> Option<(JobKind, UniqueKey)> {
    spec.unique_key.clone().map(|key| (spec.lane.kind().clone(), key))
}

fn fits(job: &Job, filter: &JobFilter) -> bool {
    let lane = &job.spec.lane;
    (filter.states.is_empty() || filter.states.contains(&job.state))
        && filter.queue.as_ref().is_none_or(|queue| lane.queue() == queue)
        && filter.kind.as_ref().is_none_or(|kind| lane.kind() == kind)
        && filter.agent.as_ref().is_none_or(|agent| job.agent.as_ref() == Some(agent))
        && filter.labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value))
}
