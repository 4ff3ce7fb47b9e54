//! Reading: single records, lists and counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mamos_core::ErrorKind;
use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, QueueName, SessionId};
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::state::JobState;
use mamos_core::job::{AttemptRecord, ClaimedJob, JobRecord};
use mamos_core::store::{Cursor, HeldJob, JobFilter, Page, PageRequest, QueueRecord};
use uuid::Uuid;

use super::codec::{PLAIN_ITEM, Reader, Run, Spec, kept, state_number};
use super::errors::{Fault, corrupt, readable};
use super::keys::Key;
use super::late::Late;
use super::link::{Args, Way, array, string, strings};
use super::{Core, jobs, sessions};

/// The first items of a line whose time fits, at most `limit`. They are read a few chunks at a time.
pub(super) async fn due(
    core: &Core,
    key: Key,
    width: usize,
    limit: usize,
    is_due: impl Fn([u8; 8]) -> bool,
) -> Result<Vec<Vec<u8>>, Fault> {
    const CHUNKS: usize = 16;
    let mut items = Vec::new();
    for first in (0..).step_by(CHUNKS) {
        let (from, to) = (first.to_string(), (first + CHUNKS - 1).to_string());
        let chunks = core.link.command(Way::Other, "ZRANGE", key, &[from.as_bytes(), to.as_bytes()]).await?;
        let chunks = strings(chunks)?;
        // What is no chunk is thrown away by the scripts that come across it.
        for item in
            chunks.iter().filter(|chunk| chunk.len() % width == 0).flat_map(|chunk| chunk.chunks(width))
        {
            let at = item.first_chunk().copied().unwrap_or_default();
            if items.len() >= limit || !is_due(at) {
                return Ok(items);
            }
            items.push(item.to_vec());
        }
        if chunks.len() < CHUNKS {
            break;
        }
    }
    Ok(items)
}

/// The runs of a job before the current or last one. What cannot be understood is left out.
pub(super) async fn history(core: &Core, id: JobId) -> Result<Vec<Run>, Fault> {
    let stored = core.link.field(Key::History, id.as_bytes()).await?;
    let mut reader = Reader::new("history", &stored);
    let mut runs = Vec::new();
    while !reader.is_empty() {
        let run = reader.u32().and_then(|length| reader.take(length as usize));
        let Some(run) = readable(run, "history")? else { break };
        runs.extend(readable(Run::decode(run), "history")?);
    }
    Ok(runs)
}

/// A job as it is stored; its run is empty before its first change.
struct StoredJob {
    spec: Vec<u8>,
    run: Vec<u8>,
    output: Vec<u8>,
}

async fn read_jobs(core: &Core, ids: &[JobId]) -> Result<Vec<StoredJob>, Fault> {
    let fields: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    // Runs first: what has ended meanwhile has a spec all the same, unless it was pruned.
    let runs = core.link.fields(Way::Read, Key::Runs, &fields).await?;
    let specs = core.link.fields(Way::Read, Key::Jobs, &fields).await?;
    let outputs = core.link.fields(Way::Read, Key::Outputs, &fields).await?;
    let found = specs.into_iter().zip(runs).zip(outputs);
    Ok(found.map(|((spec, run), output)| StoredJob { spec, run, output }).collect())
}

impl StoredJob {
    async fn record(self, core: &Core, id: JobId) -> Result<JobRecord, Fault> {
        let spec = Spec::decode(&kept(self.spec))?;
        let run = if self.run.is_empty() { spec.first_run() } else { Run::decode(&self.run)? };
        let lane = core.lanes.get(&core.link, spec.lane).await?;
        // Empty outputs are not stored.
        let output = (run.state == JobState::Succeeded).then(|| kept(self.output));
        Ok(JobRecord {
            created_at: spec.created_at,
            spec: spec.into_job(id, lane, run.deadline)?,
            state: run.state,
            epoch: run.epoch,
            counters: run.counters,
            run_at: run.run_at,
            session: run.was_claimed().then_some(run.session),
            agent: run.agent()?,
            leased_at: run.leased_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            cancel: run.cancel(),
            output,
            failure: run.failure(),
            progress: run.progress,
        })
    }
}

/// One job, or `None`.
pub(super) async fn job(core: &Core, id: JobId) -> Result<Option<JobRecord>, Fault> {
    let Some(stored) = read_jobs(core, &[id]).await?.pop() else { return Ok(None) };
    if stored.spec.is_empty() && stored.run.is_empty() {
        return Ok(None);
    }
    if stored.spec.is_empty() {
        return Err(corrupt("job", "there is a run and no job"));
    }
    stored.record(core, id).await.map(Some)
}

/// What sessions hold, of runs that are known, in their order. A job that cannot be understood is left out:
/// its agent may settle it, or it is given back and the next claim buries it.
pub(super) async fn held_jobs(core: &Core, runs: HashMap<JobId, Run>) -> Result<Vec<HeldJob>, Fault> {
    let mut runs: Vec<(JobId, Run)> = runs.into_iter().collect();
    runs.sort_unstable_by_key(|(id, run)| run.of(*id));
    let ids: Vec<JobId> = runs.iter().map(|(id, _)| *id).collect();
    let mut held = Vec::with_capacity(ids.len());
    for ((id, run), stored) in runs.into_iter().zip(read_jobs(core, &ids).await?) {
        let job = held_job(core, id, run, stored.spec).await;
        held.extend(readable(job, "held job")?);
    }
    Ok(held)
}

async fn held_job(core: &Core, id: JobId, run: Run, spec: Vec<u8>) -> Result<HeldJob, Fault> {
    let spec = Spec::decode(&kept(spec))?;
    let lane = core.lanes.get(&core.link, spec.lane).await?;
    Ok(HeldJob {
        is_started: run.state == JobState::Running,
        cancel: run.cancel(),
        claimed: ClaimedJob {
            run: run.of(id),
            lane: lane.id(),
            kind: lane.kind().clone(),
            payload: spec.payload,
            counters: run.counters,
            timeout: spec.details.timeout,
            deadline: run.deadline,
            ready_since: run.run_at,
            traceparent: spec.details.traceparent,
        },
    })
}

/// What a session holds, in the order of its runs.
pub(super) async fn held(core: &Core, session: SessionId) -> Result<Vec<HeldJob>, Fault> {
    let ids = sessions::held_ids(core, session).await?;
    let fields: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    let stored = core.link.fields(Way::Read, Key::Runs, &fields).await?;
    let mut runs = HashMap::with_capacity(ids.len());
    for (id, run) in ids.iter().zip(stored).filter(|(_, run)| !run.is_empty()) {
        let run = readable(Run::decode(&run), "held job")?;
        runs.extend(run.filter(|run| run.state.is_held() && run.session == session).map(|run| (*id, run)));
    }
    held_jobs(core, runs).await
}

/// All runs of a job in order, late evidence after the run it claims to be.
pub(super) async fn attempts(core: &Core, id: JobId) -> Result<Vec<AttemptRecord>, Fault> {
    let stored = core.link.field(Key::Runs, id.as_bytes()).await?;
    let last = if stored.is_empty() { None } else { Some(Run::decode(&stored)?) };
    let runs = history(core, id).await?.into_iter().chain(last.filter(Run::was_claimed));
    let mut attempts = runs.map(|run| run.attempt(id)).collect::<Result<Vec<_>, _>>()?;
    // A claim between the two reads would show its run before twice.
    attempts.dedup_by_key(|attempt| attempt.run);
    attempts.extend(Late::read(core, id).await?.into_records(id));
    attempts.sort_by_key(|attempt| (attempt.run.epoch, attempt.is_late));
    Ok(attempts)
}

/// Jobs that fit the filter, newest first, a page at a time. Those that cannot be understood are left out.
pub(super) async fn jobs(
    core: &Core,
    filter: &JobFilter,
    page: &PageRequest,
) -> Result<Page<JobRecord>, Fault> {
    let mut end = match &page.after {
        None => u64::MAX,
        Some(Cursor(text)) => text.parse().map_err(|_| {
            Fault::Refused(ErrorKind::Invalid, "this cursor is not of this list; begin again")
        })?,
    };
    let limit = page.bounded_limit() as usize;
    let mut items: Vec<JobRecord> = Vec::new();
    let mut last = end;
    loop {
        let ids = before(core, end).await?;
        let Some((oldest, _)) = ids.last().copied() else { return Ok(Page { items, next: None }) };
        let all: Vec<JobId> = ids.iter().map(|(_, id)| *id).collect();
        for ((seq, id), stored) in ids.into_iter().zip(read_jobs(core, &all).await?) {
            if stored.spec.is_empty() {
                continue;
            }
            let Some(job) = readable(stored.record(core, id).await, "job")?.filter(|job| fits(job, filter))
            else {
                continue;
            };
            if items.len() == limit {
                return Ok(Page { items, next: Some(Cursor(last.to_string())) });
            }
            items.push(job);
            last = seq;
        }
        end = oldest;
    }
}

/// The jobs of a chunk that were stored before that number, newest first.
async fn before(core: &Core, end: u64) -> Result<Vec<(u64, JobId)>, Fault> {
    let mut below = [b"(".as_slice(), &end.to_be_bytes()].concat();
    loop {
        let args: [&[u8]; 5] = [&below, b"-", b"LIMIT", b"0", b"1"];
        let found = strings(core.link.command(Way::Read, "ZREVRANGEBYLEX", Key::Order, &args).await?)?;
        let Some(chunk) = found.into_iter().next() else { return Ok(Vec::new()) };
        let (items, _) = chunk.as_chunks::<PLAIN_ITEM>();
        let mut jobs = Vec::new();
        for item in items {
            let mut reader = Reader::new("item", item);
            jobs.push((reader.u64()?, reader.job()?));
        }
        jobs.retain(|(seq, _)| *seq < end);
        jobs.sort_unstable_by(|a, b| b.cmp(a));
        if !jobs.is_empty() {
            return Ok(jobs);
        }
        // No chunk, or one that somebody else wrote.
        below = [b"(".as_slice(), &chunk].concat();
    }
}

fn fits(job: &JobRecord, filter: &JobFilter) -> bool {
    let lane = &job.spec.lane;
    (filter.states.is_empty() || filter.states.contains(&job.state))
        && filter.queue.as_ref().is_none_or(|queue| lane.queue() == queue)
        && filter.kind.as_ref().is_none_or(|kind| lane.kind() == kind)
        && filter.agent.as_ref().is_none_or(|agent| job.agent.as_ref() == Some(agent))
        && filter.labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value))
}

/// Every queue that holds a job or was ever paused, by name, with the counts of its jobs. They are counted a slice
/// at a time, so that others get their turn.
pub(super) async fn queues(core: &Core) -> Result<Vec<QueueRecord>, Fault> {
    const CHUNKS: usize = 32;
    let empty = |queue: &QueueName, is_paused| QueueRecord {
        queue: queue.clone(),
        is_paused,
        counts: [0; JobState::ALL.len()],
        oldest_ready: None,
    };
    let mut queues: BTreeMap<QueueName, QueueRecord> = BTreeMap::new();
    for (queue, is_paused) in jobs::paused(core).await? {
        let record = empty(&queue, is_paused);
        queues.insert(queue, record);
    }
    let mut counts: HashMap<(LaneId, u8), (u64, Timestamp)> = HashMap::new();
    let mut from = b"-".to_vec();
    loop {
        let mut args = Args::default();
        args.add(&from).add_number(CHUNKS);
        let keys = [Key::Order, Key::Jobs, Key::Runs];
        let answer = array(core.link.eval(Way::Read, &core.link.scripts.count, &keys, &args).await?)?;
        let mut parts = answer.into_iter().map(string);
        let (Some(last), Some(found)) = (parts.next().transpose()?, parts.next().transpose()?) else {
            return Err(corrupt("answer", "it is too short"));
        };
        if last.is_empty() {
            break;
        }
        from = [b"(".as_slice(), &last].concat();
        let mut reader = Reader::new("count", &found);
        while !reader.is_empty() {
            let lane = LaneId::from_number(reader.u64()? as i64);
            let (state, run_at) = (reader.byte()?, reader.time()?);
            let (count, oldest) = counts.entry((lane, state)).or_insert((0, run_at));
            *count += 1;
            *oldest = run_at.min(*oldest);
        }
    }
    for ((lane, number), (count, oldest)) in counts {
        let Some(lane) = readable(core.lanes.get(&core.link, lane).await, "lane")? else { continue };
        let queue = queues.entry(lane.queue().clone()).or_insert_with(|| empty(lane.queue(), false));
        for (state, counted) in JobState::ALL.iter().zip(&mut queue.counts) {
            if state_number(*state) == number {
                *counted += count;
            }
        }
        if number == state_number(JobState::Ready) {
            queue.oldest_ready = Some(queue.oldest_ready.map_or(oldest, |known| known.min(oldest)));
        }
    }
    Ok(queues.into_values().collect())
}

/// The lanes that hold a ready job, in the order of their ids.
pub(super) async fn ready_lanes(core: &Core) -> Result<Vec<Arc<Lane>>, Fault> {
    let answer = core.link.eval(Way::Read, &core.link.scripts.lanes, &[Key::Ready], &Args::default()).await?;
    let found = strings(answer)?;
    let ids =
        found.iter().filter_map(|id| id.first_chunk()).map(|id| LaneId::from_number(i64::from_be_bytes(*id)));
    let ids: Vec<LaneId> = ids.collect();
    core.lanes.learn(&core.link, ids.iter().copied()).await?;
    let mut lanes = Vec::with_capacity(ids.len());
    for id in ids {
        lanes.extend(readable(core.lanes.get(&core.link, id).await, "lane")?);
    }
    lanes.sort_by_key(|lane| lane.id());
    Ok(lanes)
}

/// An id at the end of an item.
pub(super) fn uuid(bytes: &[u8]) -> Result<Uuid, Fault> {
    Uuid::from_slice(bytes).map_err(|error| corrupt("id", error))
}
