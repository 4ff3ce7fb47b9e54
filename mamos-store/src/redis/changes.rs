//! Jobs that are read, changed in memory as the rules say, and written back together.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::Failure;
use mamos_core::job::rules::{Next, RunFacts};
use mamos_core::job::state::JobState;

use super::Core;
use super::codec::{self, Policy, Run, Spec, kept, timed_item};
use super::errors::{Fault, corrupt};
use super::keys::Key;
use super::link::{Args, Way, strings};
use super::tx::Tx;

/// The code of the failure with which a job is buried that cannot be understood.
const CORRUPT: &str = "corrupt";

/// A job, as it was read and as it is to be.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) run: Run,
    policy: Arc<Policy>,
    /// What is stored of its run; nothing before its first change.
    stored: Vec<u8>,
    before: Before,
    output: Option<Bytes>,
    is_changed: bool,
}

/// What is known of where a job stands now.
#[derive(Debug, Clone)]
enum Before {
    Known(Box<Run>),
    /// Its record cannot be understood: it is in places that nobody knows.
    Broken,
}

/// The jobs that one operation changes.
#[derive(Default)]
pub(super) struct Changes {
    jobs: Vec<Job>,
    by_id: HashMap<JobId, usize>,
}

impl Changes {
    /// Reads jobs; those that do not exist are left out. Fails if one of them cannot be understood, so that
    /// whoever asks for it learns why.
    pub(super) async fn read(core: &Core, ids: &[JobId]) -> Result<Self, Fault> {
        Self::load(core, ids, None).await
    }

    /// The same, but those that cannot be understood are buried at `now`, and do not count as found.
    pub(super) async fn read_or_bury(core: &Core, ids: &[JobId], now: Timestamp) -> Result<Self, Fault> {
        Self::load(core, ids, Some(now)).await
    }

    async fn load(core: &Core, ids: &[JobId], bury_at: Option<Timestamp>) -> Result<Self, Fault> {
        /// How many at once, so that others get their turn.
        const CHUNK: usize = 1000;
        let mut changes = Self::default();
        for chunk in ids.chunks(CHUNK) {
            let mut args = Args::default();
            for id in chunk {
                args.add(id.as_bytes());
            }
            let keys = [Key::Jobs, Key::Runs];
            let mut found =
                strings(core.link.eval(Way::Other, &core.link.scripts.read, &keys, &args).await?)?
                    .into_iter();
            for id in chunk {
                let (Some(spec), Some(stored)) = (found.next(), found.next()) else {
                    return Err(corrupt("answer", "it is too short"));
                };
                if changes.by_id.contains_key(id) || spec.is_empty() && stored.is_empty() {
                    continue;
                }
                match (Job::decode(*id, &kept(spec), stored.clone()), bury_at) {
                    (Ok(job), _) => changes.insert(job),
                    (Err(fault), None) => return Err(fault),
                    (Err(fault), Some(now)) => changes.jobs.extend(Job::buried(*id, stored, &fault, now)),
                }
            }
        }
        Ok(changes)
    }

    pub(super) fn insert(&mut self, job: Job) {
        self.by_id.insert(job.id, self.jobs.len());
        self.jobs.push(job);
    }

    pub(super) fn find(&self, id: JobId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Those that can be understood.
    pub(super) fn indexes(&self) -> Vec<usize> {
        let mut indexes: Vec<usize> = self.by_id.values().copied().collect();
        indexes.sort_unstable();
        indexes
    }

    pub(super) fn job(&self, index: usize) -> &Job {
        &self.jobs[index]
    }

    pub(super) fn run(&self, index: usize) -> &Run {
        &self.jobs[index].run
    }

    /// The run, to be changed and written.
    pub(super) fn change(&mut self, index: usize) -> &mut Run {
        self.jobs[index].is_changed = true;
        &mut self.jobs[index].run
    }

    pub(super) fn facts(&self, index: usize) -> RunFacts {
        let job = &self.jobs[index];
        job.run.facts(&job.policy)
    }

    /// Kind and unique key.
    pub(super) fn unique_key(&self, index: usize) -> Option<&str> {
        self.jobs[index].policy.unique_key.as_deref()
    }

    /// Ends the current run of a held job as a rule says.
    pub(super) fn end_run(&mut self, index: usize, next: Next, now: Timestamp) {
        let job = &mut self.jobs[index];
        job.is_changed = true;
        job.output = next.output.filter(|output| !output.is_empty());
        let run = &mut job.run;
        run.state = next.state;
        run.counters = next.counters;
        run.end = Some(next.end);
        run.ended_at = Some(now);
        if let Some(run_at) = next.run_at {
            run.run_at = run_at;
        }
        if next.state.is_final() {
            run.finished_at = Some(now);
        }
        if next.failure.is_some() || run.rest.is_some() {
            let rest = run.rest();
            rest.failure = next.failure;
            rest.given_up = None;
        }
    }

    /// Plans all that was changed.
    pub(super) fn write(self, tx: &mut Tx) -> Result<(), Fault> {
        for job in self.jobs.into_iter().filter(|job| job.is_changed) {
            job.write(tx)?;
        }
        Ok(())
    }

    /// The same, and what was not changed must still be what it was: for verdicts on what was only remembered.
    pub(super) fn write_or_check(self, tx: &mut Tx) -> Result<(), Fault> {
        for job in self.jobs {
            if job.is_changed {
                job.write(tx)?;
            } else {
                tx.check(Key::Runs, job.id.as_bytes().as_slice(), job.stored);
            }
        }
        Ok(())
    }

    /// The jobs as they will be stored, for [`Core::remember`].
    pub(super) fn written(&self) -> Result<Vec<Job>, Fault> {
        let held = self.jobs.iter().filter(|job| job.run.state.is_held());
        held.map(|job| Job::held(job.id, job.run.clone(), Arc::clone(&job.policy))).collect()
    }
}

impl Job {
    /// A held job of which is known what is stored.
    pub(super) fn held(id: JobId, run: Run, policy: Arc<Policy>) -> Result<Self, Fault> {
        let stored = run.encode()?;
        let before = Before::Known(Box::new(run.clone()));
        Ok(Self { id, run, policy, stored, before, output: None, is_changed: false })
    }

    fn decode(id: JobId, spec: &Bytes, stored: Vec<u8>) -> Result<Self, Fault> {
        let spec = Spec::decode(spec)?;
        let run = if stored.is_empty() { spec.first_run() } else { Run::decode(&stored)? };
        let before = Before::Known(Box::new(run.clone()));
        let policy = Arc::new(spec.details.policy());
        Ok(Self { id, run, policy, stored, before, output: None, is_changed: false })
    }

    /// A job that cannot be understood, as it is buried; `None` if it has ended already.
    fn buried(id: JobId, stored: Vec<u8>, why: &Fault, now: Timestamp) -> Option<Self> {
        tracing::error!(target: "mamos::store", %id, %why, "a job cannot be understood and is buried");
        let known = Run::decode(&stored).ok();
        if known.as_ref().is_some_and(|run| run.state.is_final()) {
            return None;
        }
        let before = known.clone().map_or(Before::Broken, |run| Before::Known(Box::new(run)));
        let mut run = known.unwrap_or_else(|| Spec::lost().first_run());
        run.epoch = Run::epoch_of_broken(&stored);
        if run.state.is_held() {
            run.end = Some(mamos_core::job::AttemptEnd::Buried);
            run.ended_at = Some(now);
        }
        run.state = JobState::Dead;
        run.finished_at = Some(now);
        run.rest().failure = Some(Failure::new(CORRUPT, format!("its record cannot be understood: {why}")));
        let policy = Arc::default();
        Some(Self { id, run, policy, stored, before, output: None, is_changed: true })
    }

    fn write(self, tx: &mut Tx) -> Result<(), Fault> {
        let id = self.id;
        if self.stored.is_empty() {
            // It may have been pruned meanwhile, and would look just as it was read.
            tx.check_present(Key::Jobs, id.as_bytes());
        }
        let before = match &self.before {
            Before::Known(before) => places(id, before),
            Before::Broken => [None, None],
        };
        let after = places(id, &self.run);
        for place in before.iter().flatten().filter(|place| !after.contains(&Some(**place))) {
            match place.key {
                Key::Held(_) => tx.remove_member(place.key, place.item()),
                key => tx.leave(key, place.group(), place.item()),
            }
        }
        for place in after.iter().flatten().filter(|place| !before.contains(&Some(**place))) {
            match place.key {
                Key::Held(_) => tx.add_member(place.key, place.item()),
                key => tx.enter(key, place.group(), place.item()),
            }
        }
        if let Some(key) = &self.policy.unique_key {
            let was_live = matches!(&self.before, Before::Known(run) if !run.state.is_final());
            match (was_live, !self.run.state.is_final()) {
                (true, false) => tx.remove(Key::Unique, key.as_bytes()),
                (false, true) => tx.put(Key::Unique, key.as_bytes(), id.as_bytes().as_slice()),
                _ => {}
            }
        }
        if let Some(output) = self.output {
            tx.put(Key::Outputs, id.as_bytes().as_slice(), output.to_vec());
        }
        let record = self.run.encode()?;
        tx.replace(Key::Runs, id.as_bytes().as_slice(), self.stored, record);
        Ok(())
    }
}

impl Spec {
    /// Stands in for one of which nothing can be read.
    fn lost() -> Self {
        Self {
            seq: 0,
            state: JobState::Dead,
            run_at: Timestamp::default(),
            lane: mamos_core::job::lane::LaneId::from_number(0),
            priority: mamos_core::job::Priority::NORMAL,
            deadline: None,
            created_at: Timestamp::default(),
            details: codec::Details::default(),
            payload: Bytes::new(),
        }
    }
}

/// Where a job stands in an index: the key, and the group and item in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    key: Key,
    group: [u8; 8],
    item: [u8; codec::READY_ITEM],
    /// How long the item is.
    length: usize,
}

impl Place {
    fn new(key: Key, group: [u8; 8], item: &[u8]) -> Self {
        let mut padded = [0; codec::READY_ITEM];
        padded[..item.len()].copy_from_slice(item);
        Self { key, group, item: padded, length: item.len() }
    }

    fn group(&self) -> &[u8] {
        if self.key == Key::Ready { &self.group } else { &[] }
    }

    fn item(&self) -> &[u8] {
        &self.item[..self.length]
    }
}

/// Every index in which a job stands.
fn places(id: JobId, run: &Run) -> [Option<Place>; 2] {
    let timed = |key, at| Place::new(key, [0; 8], &timed_item(at, run.seq, id));
    let by_state = match run.state {
        JobState::Ready => {
            let mut item = [0; codec::READY_ITEM];
            item[..2].copy_from_slice(&codec::priority(run.priority));
            item[2..].copy_from_slice(&timed_item(run.run_at, run.seq, id));
            Some(Place::new(Key::Ready, codec::lane(run.lane), &item))
        }
        JobState::Scheduled => Some(timed(Key::Due, run.run_at)),
        JobState::Leased | JobState::Running => {
            Some(Place::new(Key::Held(run.session), [0; 8], id.as_bytes()))
        }
        JobState::Blocked | JobState::Succeeded | JobState::Dead | JobState::Cancelled => None,
    };
    let by_end = match (run.state.is_final(), run.finished_at, run.deadline) {
        (true, Some(at), _) => Some(timed(Key::Ended, at)),
        (false, _, Some(at)) => Some(timed(Key::Deadlines, at)),
        _ => None,
    };
    [by_state, by_end]
}
