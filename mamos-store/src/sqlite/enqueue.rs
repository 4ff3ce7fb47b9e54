//! Storing jobs.

use std::collections::HashMap;

use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::lane::LaneId;
use mamos_core::job::state::JobState;
use mamos_core::store::{EnqueueResult, Enqueued};
use sqlx::Row;

use super::errors::Fault;
use super::rows::{self, Details, get, scoped_key, state_number};
use super::sql::Listed;
use super::writer::{Mergeable, Tx};

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

    async fn run_all(operations: &[Self], tx: &mut Tx) -> Result<Vec<Self::Answer>, Fault> {
        let jobs: Vec<Timed<'_>> =
            operations.iter().flat_map(|each| each.jobs.iter().map(|job| (job, each.now))).collect();
        let results = match store_all(tx, &jobs).await? {
            Some(results) => results,
            None => store_those_that_may_be(tx, &jobs).await?,
        };
        let mut results = jobs.iter().zip(results).map(|((job, _), result)| Enqueued { id: job.id, result });
        Ok(operations.iter().map(|each| results.by_ref().take(each.jobs.len()).collect()).collect())
    }
}

/// Stores them all, or none and gives `None` if an id or a key is taken. Most batches have nothing but
/// new jobs, and asking for each would cost them a look-up a job.
async fn store_all(tx: &mut Tx, jobs: &[Timed<'_>]) -> Result<Option<Vec<EnqueueResult>>, Fault> {
    let first = next_seq(tx).await?;
    let numbered: Vec<(i64, Timed<'_>)> = (first..).zip(jobs.iter().copied()).collect();
    match insert(tx, &numbered).await {
        Ok(()) => {
            let stored = jobs.iter().map(|(job, now)| EnqueueResult::Stored(job.first_state(*now)));
            Ok(Some(stored.collect()))
        }
        Err(fault) if fault.is_unique_violation() => {
            // SQLite took back the statement that failed, not those before it.
            sqlx::query("DELETE FROM mamos_job WHERE seq >= ?")
                .bind(first)
                .execute(&mut tx.connection)
                .await?;
            sqlx::query("DELETE FROM mamos_spec WHERE seq >= ?")
                .bind(first)
                .execute(&mut tx.connection)
                .await?;
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// Asks for each job whether its id or key is taken, in the store or by an earlier one of the batch.
async fn store_those_that_may_be(tx: &mut Tx, jobs: &[Timed<'_>]) -> Result<Vec<EnqueueResult>, Fault> {
    static BY_ID: Listed = Listed::new(
        "SELECT j.id, j.lane, j.state, s.payload FROM mamos_job j JOIN mamos_spec s USING (seq) WHERE j.id IN (",
        1,
        ")",
    );
    static BY_KEY: Listed = Listed::new(
        "SELECT unique_key, id FROM mamos_job WHERE unique_key IS NOT NULL AND state < 5 AND unique_key IN (",
        1,
        ")",
    );
    let mut by_id: HashMap<JobId, (LaneId, JobState, Vec<u8>)> = HashMap::new();
    let found = BY_ID.fetch(&mut tx.connection, jobs, |values, (job, _)| {
        values.add(job.id.as_bytes().as_slice());
    });
    for row in found.await? {
        let id = JobId::from_uuid(rows::uuid(&row, 0)?);
        let lane = tx.lane(get(&row, 1)?).await?.id();
        by_id.insert(id, (lane, rows::job_state(get(&row, 2)?)?, get(&row, 3)?));
    }
    let keys: Vec<String> = jobs.iter().filter_map(|(job, _)| scoped_key(job)).collect();
    let mut by_key: HashMap<String, JobId> = HashMap::new();
    let found = BY_KEY.fetch(&mut tx.connection, &keys, |values, key| {
        values.add(key.as_str().to_owned());
    });
    for row in found.await? {
        by_key.insert(get(&row, 0)?, JobId::from_uuid(rows::uuid(&row, 1)?));
    }

    let mut results = Vec::with_capacity(jobs.len());
    let mut fresh = Vec::new();
    for (job, now) in jobs {
        if let Some((lane, state, payload)) = by_id.get(&job.id) {
            let is_repeat = *lane == job.lane.id() && job.payload == *payload;
            results.push(if is_repeat { EnqueueResult::Repeat(*state) } else { EnqueueResult::IdTaken });
            continue;
        }
        let key = scoped_key(job);
        if let Some(by) = key.as_ref().and_then(|key| by_key.get(key)) {
            results.push(EnqueueResult::UniqueKeyTaken { by: *by });
            continue;
        }
        let state = job.first_state(*now);
        by_id.insert(job.id, (job.lane.id(), state, job.payload.to_vec()));
        by_key.extend(key.map(|key| (key, job.id)));
        results.push(EnqueueResult::Stored(state));
        fresh.push((*job, *now));
    }
    let first = next_seq(tx).await?;
    let numbered: Vec<(i64, Timed<'_>)> = (first..).zip(fresh).collect();
    insert(tx, &numbered).await?;
    Ok(results)
}

async fn next_seq(tx: &mut Tx) -> Result<i64, Fault> {
    let row =
        sqlx::query("SELECT coalesce(max(seq), 0) + 1 FROM mamos_job").fetch_one(&mut tx.connection).await?;
    Ok(row.try_get(0)?)
}

async fn insert(tx: &mut Tx, jobs: &[(i64, Timed<'_>)]) -> Result<(), Fault> {
    static JOBS: Listed = Listed::new(
        "INSERT INTO mamos_job (seq, id, lane, priority, run_at, state, deadline, unique_key, \
         epoch, attempt, crashes, deliveries, is_cancel, settled) \
         SELECT column1, column2, column3, column4, column5, column6, column7, column8, 0, 1, 0, 0, 0, 0 \
         FROM (VALUES ",
        8,
        ") WHERE column1 IS NOT NULL",
    );
    static SPECS: Listed = Listed::new(
        "INSERT INTO mamos_spec (seq, created_at, payload, details) \
         SELECT column1, column2, column3, column4 FROM (VALUES ",
        4,
        ") WHERE column1 IS NOT NULL",
    );
    let mut hot = Vec::with_capacity(jobs.len());
    let mut specs = Vec::with_capacity(jobs.len());
    let mut last: Option<(LaneId, i64)> = None;
    for (seq, (job, now)) in jobs {
        let lane = match last {
            Some((id, number)) if id == job.lane.id() => number,
            _ => tx.lane_number(&job.lane).await?,
        };
        last = Some((job.lane.id(), lane));
        hot.push((*seq, *job, lane, *now));
        specs.push((*seq, *job, *now, Details::encode(job)?));
    }
    let jobs = JOBS.execute(&mut tx.connection, &hot, |values, (seq, job, lane, now)| {
        values
            .add(*seq)
            .add(job.id.as_bytes().as_slice())
            .add(*lane)
            .add(i64::from(job.priority.0))
            .add(job.run_at.unwrap_or(*now).as_micros())
            .add(state_number(job.first_state(*now)))
            .add(job.deadline.map(Timestamp::as_micros))
            .add(scoped_key(job));
    });
    jobs.await?;
    let specs = SPECS.execute(&mut tx.connection, &specs, |values, (seq, job, now, details)| {
        values.add(*seq).add(now.as_micros()).add(job.payload.as_ref()).add(details.clone());
    });
    specs.await?;
    Ok(())
}
