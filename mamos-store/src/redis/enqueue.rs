//! Storing jobs.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::lane::LaneId;
use mamos_core::job::state::JobState;
use mamos_core::store::{EnqueueResult, Enqueued};
use uuid::Uuid;

use super::Core;
use super::codec::{self, Run, Spec, encode_spec, kept, optional_time, scoped_key, time};
use super::errors::{Fault, corrupt};
use super::keys::Key;
use super::link::{Args, Way, array, number, string};
use super::writer::Mergeable;

/// How many jobs the script stores with one command.
const PART: usize = 1000;

/// See [`mamos_core::store::JobStore::enqueue`].
pub(super) struct Enqueue {
    pub(super) jobs: Vec<NewJob>,
    pub(super) now: Timestamp,
}

/// A job and the time at which it is stored.
type Timed<'a> = (&'a NewJob, Timestamp);

impl Mergeable for Enqueue {
    type Answer = Vec<Enqueued>;
    const NAME: &'static str = "store.enqueue";

    fn weight(&self) -> usize {
        self.jobs.len()
    }

    async fn run_all(operations: &[Self], core: &Core) -> Result<Vec<Self::Answer>, Fault> {
        let jobs: Vec<Timed<'_>> =
            operations.iter().flat_map(|each| each.jobs.iter().map(|job| (job, each.now))).collect();
        let results = store(core, &jobs).await?;
        let mut results = jobs.iter().zip(results).map(|((job, _), result)| Enqueued { id: job.id, result });
        Ok(operations.iter().map(|each| results.by_ref().take(each.jobs.len()).collect()).collect())
    }
}

async fn store(core: &Core, jobs: &[Timed<'_>]) -> Result<Vec<EnqueueResult>, Fault> {
    const KEYS: [Key; 9] = [
        Key::Meta,
        Key::Jobs,
        Key::Runs,
        Key::Unique,
        Key::Lanes,
        Key::Order,
        Key::Ready,
        Key::Due,
        Key::Deadlines,
    ];
    let mut seen = HashSet::with_capacity(jobs.len());
    // An id that comes twice must be seen the second time, so that each job is a part of its own.
    let part = if jobs.iter().all(|(job, _)| seen.insert(job.id)) { PART } else { 1 };
    let args = arguments(jobs, part)?;
    let answer = array(core.link.eval(Way::Enqueue, &core.link.scripts.enqueue, &KEYS, &args).await?)?;

    let mut results: Vec<EnqueueResult> =
        jobs.iter().map(|(job, now)| EnqueueResult::Stored(job.first_state(*now))).collect();
    let mut answer = answer.into_iter();
    while let (Some(index), Some(spec), Some(other)) = (answer.next(), answer.next(), answer.next()) {
        let index = usize::try_from(number(&index)? - 1).unwrap_or(usize::MAX);
        let (Some((job, _)), Some(result)) = (jobs.get(index), results.get_mut(index)) else {
            return Err(corrupt("answer", "it names a job that was not asked for"));
        };
        *result = refusal(job, kept(string(spec)?), string(other)?)?;
    }
    Ok(results)
}

/// Why a job was not stored.
fn refusal(job: &NewJob, spec: Bytes, other: Vec<u8>) -> Result<EnqueueResult, Fault> {
    if spec.is_empty() {
        let by = Uuid::from_slice(&other).map_err(|error| corrupt("holder of a unique key", error))?;
        return Ok(EnqueueResult::UniqueKeyTaken { by: JobId::from_uuid(by) });
    }
    let spec = Spec::decode(&spec)?;
    let state = if other.is_empty() { spec.state } else { Run::decode(&other)?.state };
    let is_repeat = spec.lane == job.lane.id() && spec.payload == job.payload;
    Ok(if is_repeat { EnqueueResult::Repeat(state) } else { EnqueueResult::IdTaken })
}

fn arguments(jobs: &[Timed<'_>], part: usize) -> Result<Args, Fault> {
    let mut args = Args::default();
    let mut lanes = HashMap::new();
    for (job, _) in jobs {
        lanes.entry(job.lane.id()).or_insert(&job.lane);
    }
    args.add_number(jobs.len()).add_number(lanes.len());
    for (id, lane) in lanes {
        let text = format!("{}\n{}\n{}", lane.queue(), lane.kind(), lane.selector());
        args.add(&codec::lane(id)).add(text.as_bytes());
    }
    for chunk in jobs.chunks(part) {
        args.add_number(chunk.len());
        for (job, _) in chunk {
            args.add(job.id.as_bytes());
        }
        for (job, now) in chunk {
            args.add(&encode_spec(job, *now)?);
        }
        let keyed: Vec<(usize, String)> = (1..)
            .zip(chunk)
            .filter_map(|(number, (job, _))| {
                Some((number, scoped_key(job.lane.kind(), job.unique_key.as_ref()?)))
            })
            .collect();
        args.add_number(keyed.len());
        for (number, key) in &keyed {
            args.add_number(*number).add(key.as_bytes());
        }
        add_places(&mut args, chunk);
    }
    Ok(args)
}

/// The orders in which the jobs of a part stand in the lines.
fn add_places(args: &mut Args, jobs: &[Timed<'_>]) {
    /// A place in a list: the key, and the number of the job in two bytes.
    type Place<const N: usize> = [u8; N];
    let mut ready: Vec<(LaneId, Place<12>)> = Vec::with_capacity(jobs.len());
    let (mut due, mut deadlines): (Vec<Place<10>>, Vec<Place<10>>) = (Vec::new(), Vec::new());
    for (number, (job, now)) in (1_u16..).zip(jobs) {
        let timed = |at: [u8; 8]| {
            let mut place = [0; 10];
            place[..8].copy_from_slice(&at);
            place[8..].copy_from_slice(&number.to_be_bytes());
            place
        };
        let run_at = job.run_at.unwrap_or(*now);
        match job.first_state(*now) {
            JobState::Ready => {
                let mut place = [0; 12];
                place[..2].copy_from_slice(&codec::priority(job.priority));
                place[2..].copy_from_slice(&timed(time(run_at)));
                ready.push((job.lane.id(), place));
            }
            JobState::Scheduled => due.push(timed(time(run_at))),
            _ => {}
        }
        if job.deadline.is_some() {
            deadlines.push(timed(optional_time(job.deadline)));
        }
    }
    // A number in the place keeps the order of equal keys; most lists are in order already.
    ready.sort_unstable();
    due.sort_unstable();
    deadlines.sort_unstable();
    let lanes: Vec<&[(LaneId, Place<12>)]> = ready.chunk_by(|a, b| a.0 == b.0).collect();
    args.add_number(lanes.len());
    for lane in lanes {
        let places: Vec<u8> = lane.iter().flat_map(|(_, place)| *place).collect();
        args.add(&codec::lane(lane[0].0)).add(&places);
    }
    args.add(due.as_flattened()).add(deadlines.as_flattened());
}
