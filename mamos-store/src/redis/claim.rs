//! Leasing ready jobs to sessions.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, SessionId};
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::rules::Next;
use mamos_core::job::state::JobState;
use mamos_core::job::{AttemptEnd, ClaimedJob, Failure};
use mamos_core::store::{ClaimGroup, Claimed};
use redis::Value;
use uuid::Uuid;

use super::Core;
use super::changes::{Changes, Job};
use super::codec::{self, Run, Spec, first_record, kept, open_session, time};
use super::errors::{Fault, corrupt};
use super::keys::Key;
use super::link::{Args, Way, array, number, string};
use super::tx::{Operation, Tx, read_head};

/// How many jobs one claim takes at most for each group, however many its takers want: it bounds memory and the time
/// for which Redis does nothing else.
const MAX_JOBS: usize = 5_000;

/// How many bytes of specs one claim takes at most for each group of takers, but for the first job.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The end of the record of a run that the script buries: no agent, no progress, and why.
const BROKEN: &[u8] =
    b"\0\0\0\0{\"failure\":{\"code\":\"corrupt\",\"message\":\"its record cannot be understood\"}}";

pub(super) const NAME: &str = "store.claim";

/// See [`mamos_core::store::JobStore::claim`].
pub(super) async fn claim(core: &Core, groups: &[ClaimGroup], now: Timestamp) -> Result<Claimed, Fault> {
    let wanted: HashSet<LaneId> = groups.iter().flat_map(|group| &group.lanes).copied().collect();
    core.lanes.learn(&core.link, wanted).await?;
    let mut keys = vec![
        Key::Sessions,
        Key::Queues,
        Key::Ready,
        Key::Jobs,
        Key::Runs,
        Key::History,
        Key::Due,
        Key::Ended,
    ];
    let args = arguments(core, groups, now, &mut keys);
    let answer = array(core.link.eval(Way::Claim, &core.link.scripts.claim, &keys, &args).await?)?;
    let [next_due, has_more, stale, lists] =
        <[Value; 4]>::try_from(answer).map_err(|_| corrupt("answer", "it has another number of parts"))?;
    let mut claimed = Claimed {
        jobs: Vec::new(),
        stale: array(stale)?.into_iter().map(|id| session_id(&string(id)?)).collect::<Result<_, _>>()?,
        next_due: read_head(next_due)?,
        has_more: number(&has_more)? != 0,
    };
    let mut broken = Vec::new();
    for list in array(lists)? {
        let list = read_list(core, list, now, &mut broken).await?;
        claimed.jobs.extend(Some(list).filter(|(_, jobs)| !jobs.is_empty()));
    }
    if !broken.is_empty() {
        // The buried ones stood where others might have.
        claimed.has_more = true;
        core.transact(&Bury { broken, now }, Way::Claim).await?;
    }
    Ok(claimed)
}

fn arguments(core: &Core, groups: &[ClaimGroup], now: Timestamp, keys: &mut Vec<Key>) -> Args {
    let mut args = Args::default();
    args.add(&time(now)).add_number(MAX_JOBS).add_number(MAX_BYTES).add(BROKEN);
    for group in groups {
        let mut seen = HashSet::new();
        // A lane that nobody knows holds no job.
        let lanes: Vec<Arc<Lane>> = group
            .lanes
            .iter()
            .filter(|lane| seen.insert(**lane))
            .filter_map(|lane| core.lanes.known(*lane))
            .collect();
        args.add_number(lanes.len());
        for lane in &lanes {
            args.add(&codec::lane(lane.id()));
        }
        for lane in &lanes {
            args.add(lane.queue().as_str().as_bytes());
        }
        args.add_number(group.takers.len());
        for taker in &group.takers {
            let held = Key::Held(taker.session.id);
            let known = keys.iter().position(|key| *key == held);
            let index = known.unwrap_or_else(|| {
                keys.push(held);
                keys.len() - 1
            });
            args.add(taker.session.id.as_bytes()).add(&open_session(taker.session.link));
            args.add_number(taker.limit as usize).add_number(index + 1);
        }
    }
    args
}

/// A claimed job that cannot be understood.
type Broken = (JobId, Fault);

/// What one session got. What cannot be understood is set apart.
async fn read_list(
    core: &Core,
    list: Value,
    now: Timestamp,
    broken: &mut Vec<Broken>,
) -> Result<(SessionId, Vec<ClaimedJob>), Fault> {
    let mut parts = array(list)?.into_iter();
    let mut next = || parts.next().map(string).transpose();
    let too_short = || corrupt("answer", "it is too short");
    let session = session_id(&next()?.ok_or_else(too_short)?)?;
    // With its length before it.
    let agent = kept(next()?.ok_or_else(too_short)?);
    let agent = agent.slice(2.min(agent.len())..);
    let (mut jobs, mut remembered) = (Vec::new(), Vec::new());
    while let Some(id) = next()? {
        let id = JobId::from_uuid(uuid(&id)?);
        let (spec, record) = (kept(next()?.ok_or_else(too_short)?), next()?.ok_or_else(too_short)?);
        match decode(core, id, &spec, &record, session, &agent, now).await {
            Ok((claimed, job)) => {
                jobs.push(claimed);
                remembered.push(job);
            }
            Err(fault @ Fault::Corrupt(_)) => broken.push((id, fault)),
            Err(fault) => return Err(fault),
        }
    }
    core.remember(remembered);
    Ok((session, jobs))
}

async fn decode(
    core: &Core,
    id: JobId,
    spec: &Bytes,
    record: &[u8],
    session: SessionId,
    agent: &Bytes,
    now: Timestamp,
) -> Result<(ClaimedJob, Job), Fault> {
    let spec = Spec::decode(spec)?;
    let run = if record.is_empty() { first_record(&spec, session, agent, now) } else { Run::decode(record)? };
    let lane = match core.lanes.known(spec.lane) {
        Some(lane) => lane,
        None => core.lanes.get(&core.link, spec.lane).await?,
    };
    let claimed = ClaimedJob {
        run: run.of(id),
        lane: lane.id(),
        kind: lane.kind().clone(),
        payload: spec.payload.clone(),
        counters: run.counters,
        timeout: spec.details.timeout,
        deadline: run.deadline,
        ready_since: run.run_at,
        traceparent: spec.details.traceparent.clone(),
    };
    let job = Job::held(id, run, core.policy(&spec.details))?;
    Ok((claimed, job))
}

fn uuid(bytes: &[u8]) -> Result<Uuid, Fault> {
    Uuid::from_slice(bytes).map_err(|error| corrupt("id", error))
}

fn session_id(bytes: &[u8]) -> Result<SessionId, Fault> {
    uuid(bytes).map(SessionId::from_uuid)
}

/// Buries jobs that were leased before anybody saw that they cannot be understood.
struct Bury {
    broken: Vec<Broken>,
    now: Timestamp,
}

impl Operation for Bury {
    type Answer = ();
    const NAME: &'static str = NAME;

    async fn plan(&self, core: &Core) -> Result<(Tx, ()), Fault> {
        let ids: Vec<JobId> = self.broken.iter().map(|(id, _)| *id).collect();
        let mut changes = Changes::read_or_bury(core, &ids, self.now).await?;
        for (id, why) in &self.broken {
            // Those whose records cannot be read are buried by that.
            let Some(index) = changes.find(*id).filter(|index| changes.run(*index).state.is_held()) else {
                continue;
            };
            tracing::error!(target: "mamos::store", %id, %why, "a job cannot be understood and is buried");
            let failure = Failure::new("corrupt", format!("its record cannot be understood: {why}"));
            let counters = changes.run(index).counters;
            let end = AttemptEnd::Buried;
            let state = JobState::Dead;
            let next = Next { state, run_at: None, counters, end, failure: Some(failure), output: None };
            changes.end_run(index, next, self.now);
        }
        let mut tx = Tx::default();
        changes.write(&mut tx)?;
        Ok((tx, ()))
    }
}
