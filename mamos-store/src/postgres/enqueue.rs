//! Storing jobs.

use std::borrow::Cow;
use std::collections::HashMap;

use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::lane::LaneId;
use mamos_core::store::{EnqueueResult, Enqueued};
use sqlx::postgres::PgConnection;
use sqlx::{Acquire, AssertSqlSafe, Row};
use uuid::Uuid;

use super::connect::{Plans, quoted};
use super::drain::Batch;
use super::errors::{Fault, RETRIES};
use super::rows::{self, Cells, Details, scoped_key, state_number};
use super::tx::Tx;

/// How many jobs one statement stores at most.
const MAX_JOBS: usize = 5000;
/// How many bytes of payloads one statement stores at most, but for the first job. The server takes 1 GiB.
const MAX_PAYLOADS: usize = 16 * 1024 * 1024;

/// See [`mamos_core::store::JobStore::enqueue`].
pub(super) struct Enqueue {
    pub(super) jobs: Vec<NewJob>,
    pub(super) now: Timestamp,
}

/// A job and the time at which it is stored.
type Timed<'a> = (&'a NewJob, Timestamp);

/// A job that was not stored, and whether its id was free when its turn was.
type Refused<'a> = (&'a NewJob, bool);

impl Batch for Enqueue {
    type Answer = Vec<Enqueued>;
    const NAME: &'static str = "store.enqueue";
    const MOST: usize = 512;
    const PLANS: Plans = Plans::WITHOUT_LOOPS;

    async fn run_all(operations: &[Self], tx: &mut Tx<'_>) -> Result<Vec<Self::Answer>, Fault> {
        let jobs: Vec<Timed<'_>> =
            operations.iter().flat_map(|each| each.jobs.iter().map(|job| (job, each.now))).collect();
        let lanes = tx.known.lane_numbers(tx.connection, jobs.iter().map(|(job, _)| &job.lane)).await?;
        let results = store(tx.connection, &jobs, &lanes).await?;
        let mut results = jobs.iter().zip(results).map(|((job, _), result)| Enqueued { id: job.id, result });
        Ok(operations.iter().map(|each| results.by_ref().take(each.jobs.len()).collect()).collect())
    }
}

/// Stores jobs on a connection of the host, within whatever transaction is open there.
pub(super) async fn store_in(
    connection: &mut PgConnection,
    schema: &str,
    jobs: &[NewJob],
    lanes: &HashMap<LaneId, i64>,
    now: Timestamp,
) -> Result<Vec<Enqueued>, Fault> {
    // A savepoint if a transaction is open: an error leaves it as it was, the search path too.
    let mut own = connection.begin().await?;
    let before = sqlx::query("SELECT current_setting('search_path')").fetch_one(&mut *own).await?;
    let before: String = before.try_get(0)?;
    let path = format!("SET LOCAL search_path = {}", quoted(schema));
    sqlx::query(AssertSqlSafe(path)).execute(&mut *own).await?;
    let timed: Vec<Timed<'_>> = jobs.iter().map(|job| (job, now)).collect();
    let results = insert_whole(&mut own, &timed, lanes).await?;
    sqlx::query("SELECT set_config('search_path', $1, true)").bind(before).execute(&mut *own).await?;
    own.commit().await?;
    Ok(jobs.iter().zip(results).map(|(job, result)| Enqueued { id: job.id, result }).collect())
}

/// Stores them in as few statements as their sizes allow: in one, and without a transaction around it,
/// unless they are very many.
async fn store(
    connection: &mut PgConnection,
    jobs: &[Timed<'_>],
    lanes: &HashMap<LaneId, i64>,
) -> Result<Vec<EnqueueResult>, Fault> {
    if cut(jobs) == jobs.len() && jobs.iter().all(|(job, _)| job.unique_key.is_none()) {
        // Most batches have nothing but new jobs.
        match insert(connection, jobs, lanes, PLAIN).await {
            Ok(_) => return Ok(jobs.iter().map(stored).collect()),
            Err(fault) if fault.code().as_deref() == Some("23505") => {}
            Err(fault) => return Err(fault),
        }
    }
    let mut transaction = connection.begin().await?;
    let results = insert_whole(&mut transaction, jobs, lanes).await?;
    transaction.commit().await?;
    Ok(results)
}

/// Stores those whose id and key nobody has, and says of the others who has it.
async fn insert_whole(
    connection: &mut PgConnection,
    jobs: &[Timed<'_>],
    lanes: &HashMap<LaneId, i64>,
) -> Result<Vec<EnqueueResult>, Fault> {
    let mut results = Vec::with_capacity(jobs.len());
    let mut left = jobs;
    while !left.is_empty() {
        let (part, rest) = left.split_at(cut(left));
        results.extend(insert_part(connection, part, lanes).await?);
        left = rest;
    }
    Ok(results)
}

async fn insert_part(
    connection: &mut PgConnection,
    jobs: &[Timed<'_>],
    lanes: &HashMap<LaneId, i64>,
) -> Result<Vec<EnqueueResult>, Fault> {
    let mut results: Vec<Option<EnqueueResult>> = vec![None; jobs.len()];
    let mut left: Vec<usize> = (0..jobs.len()).collect();
    for _ in 0..RETRIES {
        let part: Vec<Timed<'_>> = left.iter().map(|index| jobs[*index]).collect();
        for place in insert(connection, &part, lanes, WHAT_MAY_BE).await? {
            let index = left[place];
            results[index] = Some(stored(&jobs[index]));
        }
        left.retain(|index| results[*index].is_none());
        if left.is_empty() {
            break;
        }
        // An id may stand twice in the list: what a later one stored did not keep an earlier one out.
        let mut later: HashMap<JobId, usize> = HashMap::new();
        for (index, _) in results.iter().enumerate().filter(|(_, result)| result.is_some()) {
            later.insert(jobs[index].0.id, index);
        }
        let refused: Vec<Refused<'_>> = left
            .iter()
            .map(|index| {
                let job = jobs[*index].0;
                (job, later.get(&job.id).is_some_and(|stored| stored > index))
            })
            .collect();
        for (index, result) in left.iter().zip(look_up(connection, &refused, lanes).await?) {
            results[*index] = result;
        }
        // Whoever held the key may have ended meanwhile.
        left.retain(|index| results[*index].is_none());
        if left.is_empty() {
            break;
        }
    }
    let all: Option<Vec<EnqueueResult>> = results.into_iter().collect();
    all.ok_or_else(|| {
        let message = "jobs with the same unique keys come and go too fast; try again";
        Fault::Refused(mamos_core::ErrorKind::Unavailable, message)
    })
}

fn stored((job, now): &Timed<'_>) -> EnqueueResult {
    EnqueueResult::Stored(job.first_state(*now))
}

/// How many of the jobs fit into one statement.
fn cut(jobs: &[Timed<'_>]) -> usize {
    let mut bytes = 0_usize;
    let within = jobs.iter().take(MAX_JOBS).take_while(|(job, _)| {
        let is_first = bytes == 0;
        bytes = bytes.saturating_add(job.payload.len()).saturating_add(1);
        is_first || bytes <= MAX_PAYLOADS
    });
    within.count()
}

macro_rules! insert_jobs {
    ($conflict:literal) => {
        concat!(
            "WITH i AS MATERIALIZED (SELECT nextval('mamos_job_seq') AS seq, u.* FROM unnest($1::uuid[], $2::int[], \
             $3::smallint[], $4::bigint[], $5::smallint[], $6::bigint[], $7::text[], $8::bigint[], $9::bytea[], \
             $10::text[]) WITH ORDINALITY AS u(id, lane, priority, run_at, state, deadline, unique_key, created_at, payload, \
             details, place)), \
             j AS (INSERT INTO mamos_job (id, seq, lane, priority, run_at, state, deadline, unique_key) \
             SELECT id, seq, lane, priority, run_at, state, deadline, unique_key FROM i ",
            $conflict,
            "INSERT INTO mamos_spec (seq, id, created_at, payload, details) \
             SELECT i.seq, i.id, i.created_at, i.payload, i.details::json FROM i "
        )
    };
}

/// Stores all, or fails.
const PLAIN: &str = insert_jobs!(") ");
/// Stores what may be stored, and gives the places of that.
const WHAT_MAY_BE: &str = concat!(
    insert_jobs!("ON CONFLICT DO NOTHING RETURNING seq), s AS ("),
    "WHERE i.seq IN (SELECT seq FROM j)) SELECT i.place FROM i JOIN j USING (seq)"
);

async fn insert(
    connection: &mut PgConnection,
    jobs: &[Timed<'_>],
    lanes: &HashMap<LaneId, i64>,
    statement: &'static str,
) -> Result<Vec<usize>, Fault> {
    let details: Vec<Option<String>> =
        jobs.iter().map(|(job, _)| Details::encode(job)).collect::<Result<_, _>>()?;
    let number = |job: &NewJob| lanes.get(&job.lane.id()).copied().unwrap_or_default() as i32;
    let query = sqlx::query(statement)
        .bind(jobs.iter().map(|(job, _)| *job.id.as_uuid()).collect::<Vec<Uuid>>())
        .bind(jobs.iter().map(|(job, _)| number(job)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(job, _)| job.priority.0).collect::<Vec<i16>>())
        .bind(jobs.iter().map(|(job, now)| job.run_at.unwrap_or(*now).as_micros()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(job, now)| state_number(job.first_state(*now)) as i16).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(job, _)| job.deadline.map(Timestamp::as_micros)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(job, _)| key(job)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(_, now)| now.as_micros()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(job, _)| job.payload.as_ref()).collect::<Vec<&[u8]>>())
        .bind(details);
    let found = query.fetch_all(connection).await?;
    found.iter().map(|row| Ok((row.int(0)? as usize).saturating_sub(1))).collect()
}

fn key(job: &NewJob) -> Option<String> {
    scoped_key(job).map(|key| match rows::clean(&key) {
        Cow::Borrowed(_) => key,
        Cow::Owned(clean) => clean,
    })
}

/// Why jobs were not stored; `None` if that is no more so.
async fn look_up(
    connection: &mut PgConnection,
    jobs: &[Refused<'_>],
    lanes: &HashMap<LaneId, i64>,
) -> Result<Vec<Option<EnqueueResult>>, Fault> {
    const BY_ID: &str = "SELECT j.id, j.lane, j.state, \
                         (SELECT payload FROM mamos_spec s WHERE s.seq = j.seq) \
                         FROM mamos_job j WHERE j.id = ANY($1)";
    const BY_KEY: &str = "SELECT unique_key, id FROM mamos_job \
                          WHERE unique_key IS NOT NULL AND state < 5 AND unique_key = ANY($1)";
    let ids: Vec<Uuid> = jobs.iter().map(|(job, _)| *job.id.as_uuid()).collect();
    let mut by_id = HashMap::new();
    for row in &sqlx::query(BY_ID).bind(ids).fetch_all(&mut *connection).await? {
        let payload = row.maybe_bytes(3)?.map(<[u8]>::to_vec);
        by_id.insert(JobId::from_uuid(row.uuid(0)?), (row.int(1)?, rows::job_state(row.int(2)?)?, payload));
    }
    let keys: Vec<String> = jobs.iter().filter_map(|(job, _)| key(job)).collect();
    let mut by_key: HashMap<String, JobId> = HashMap::new();
    if !keys.is_empty() {
        for row in &sqlx::query(BY_KEY).bind(keys).fetch_all(connection).await? {
            by_key.insert(row.text(0)?.to_owned(), JobId::from_uuid(row.uuid(1)?));
        }
    }
    let results = jobs.iter().map(|(job, was_free)| {
        if let Some((lane, state, payload)) = by_id.get(&job.id).filter(|_| !was_free) {
            let is_repeat =
                lanes.get(&job.lane.id()) == Some(lane) && payload.as_deref() == Some(&job.payload[..]);
            return Some(if is_repeat { EnqueueResult::Repeat(*state) } else { EnqueueResult::IdTaken });
        }
        let by = *by_key.get(&key(job)?)?;
        Some(EnqueueResult::UniqueKeyTaken { by })
    });
    Ok(results.collect())
}
