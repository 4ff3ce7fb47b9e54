//! Reading: single records, lists, counts and logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use mamos_core::ErrorKind;
use mamos_core::id::{JobId, QueueName};
use mamos_core::job::lane::Lane;
use mamos_core::job::state::JobState;
use mamos_core::job::{AttemptRecord, JobRecord};
use mamos_core::lease::RunRef;
use mamos_core::store::{Cursor, HeldJob, JobFilter, LogPiece, Page, PageRequest, QueueRecord};
use sqlx::AssertSqlSafe;
use sqlx::Postgres;
use sqlx::QueryBuilder;
use sqlx::postgres::{PgConnection, PgRow};

use super::errors::{Fault, readable};
use super::known::Known;
use super::rows::{self, Cells, HotJob, clean, hot_columns, job_state, record_columns, state_number};
use crate::sql::log::{LogPage, PIECES};

/// All that is kept of a job.
const RECORD: &str = concat!(
    "SELECT ",
    hot_columns!(),
    ", ",
    record_columns!(),
    " FROM mamos_job j JOIN mamos_spec s ON s.seq = j.seq \
     LEFT JOIN mamos_session n ON n.no = j.session LEFT JOIN mamos_cancel c ON c.seq = j.seq \
     LEFT JOIN mamos_progress p ON p.seq = j.seq LEFT JOIN mamos_output o ON o.seq = j.seq \
     LEFT JOIN mamos_failure f ON f.seq = j.seq "
);

async fn record(connection: &mut PgConnection, known: &Known, row: &PgRow) -> Result<JobRecord, Fault> {
    let job = HotJob::decode(row)?;
    let lane = known.lane(connection, job.lane).await?;
    rows::job_record(row, job, lane)
}

/// One job, or `None`.
pub(super) async fn job(
    connection: &mut PgConnection,
    known: &Known,
    id: JobId,
) -> Result<Option<JobRecord>, Fault> {
    const ONE: &str = "WHERE j.id = $1";
    let query = sqlx::query(AssertSqlSafe(format!("{RECORD}{ONE}"))).bind(*id.as_uuid());
    match query.fetch_optional(&mut *connection).await? {
        None => Ok(None),
        Some(row) => record(connection, known, &row).await.map(Some),
    }
}

/// What a session holds, in the order of its runs. A job that cannot be understood is left out: its
/// agent may settle it, or it is given back and the next claim buries it.
pub(super) async fn held(
    connection: &mut PgConnection,
    known: &Known,
    session: i64,
) -> Result<Vec<HeldJob>, Fault> {
    const HELD: &str = "WHERE j.state IN (3, 4) AND j.session = $1 ORDER BY j.id, j.epoch";
    let query = sqlx::query(AssertSqlSafe(format!("{RECORD}{HELD}"))).bind(session);
    let mut held = Vec::new();
    for row in query.fetch_all(&mut *connection).await? {
        let record = record(connection, known, &row).await;
        let Some(record) = readable(record, "held job")? else { continue };
        held.push(rows::held_job(record));
    }
    Ok(held)
}

/// Jobs that fit the filter, newest first. Those that cannot be understood are left out.
pub(super) async fn jobs(
    connection: &mut PgConnection,
    known: &Known,
    filter: &JobFilter,
    page: &PageRequest,
) -> Result<Page<JobRecord>, Fault> {
    let before = match &page.after {
        None => i64::MAX,
        Some(Cursor(text)) => text.parse().map_err(|_| {
            Fault::Refused(ErrorKind::Invalid, "this cursor is not of this list; begin again")
        })?,
    };
    // Goes by the numbers in mamos_spec, from the newest on.
    let mut query = QueryBuilder::<Postgres>::new(RECORD);
    query.push("WHERE s.seq < ").push_bind(before);
    if !filter.states.is_empty() {
        let states: Vec<i16> = filter.states.iter().map(|state| state_number(*state) as i16).collect();
        query.push(" AND j.state = ANY(").push_bind(states).push(")");
    }
    if let Some(queue) = &filter.queue {
        query.push(" AND j.lane IN (SELECT no FROM mamos_lane WHERE queue = ");
        query.push_bind(queue.as_str().to_owned()).push(")");
    }
    if let Some(kind) = &filter.kind {
        query.push(" AND j.lane IN (SELECT no FROM mamos_lane WHERE kind = ");
        query.push_bind(kind.as_str().to_owned()).push(")");
    }
    if let Some(agent) = &filter.agent {
        query.push(" AND j.session IN (SELECT no FROM mamos_session WHERE agent = ");
        query.push_bind(agent.to_string()).push(")");
    }
    for (key, value) in filter.labels.iter() {
        query.push(" AND s.details -> 'labels' ->> ").push_bind(clean(key).into_owned());
        query.push(" = ").push_bind(clean(value).into_owned());
    }
    let limit = page.bounded_limit() as usize;
    query.push(" ORDER BY s.seq DESC LIMIT ").push_bind(limit as i64 + 1);
    let found = query.build().fetch_all(&mut *connection).await?;
    let mut items = Vec::with_capacity(found.len());
    for row in found.iter().take(limit) {
        items.extend(readable(record(connection, known, row).await, "job")?);
    }
    let last = found.get(limit.wrapping_sub(1)).filter(|_| found.len() > limit);
    let next = last.map(|row| row.int(0)).transpose()?.map(|seq| Cursor(seq.to_string()));
    Ok(Page { items, next })
}

/// All runs of a job in order; late evidence after the run it claims to be.
pub(super) async fn attempts(connection: &mut PgConnection, id: JobId) -> Result<Vec<AttemptRecord>, Fault> {
    let job = concat!(
        "SELECT ",
        hot_columns!(),
        ", n.id, n.agent FROM mamos_job j \
         LEFT JOIN mamos_session n ON n.no = j.session WHERE j.id = $1"
    );
    let job = sqlx::query(job).bind(*id.as_uuid());
    let Some(row) = job.fetch_optional(&mut *connection).await? else { return Ok(Vec::new()) };
    let job = HotJob::decode(&row)?;
    let past = "SELECT a.epoch, a.is_late, a.attempt, a.leased_at, a.started_at, a.ended_at, a.ended, a.code, \
                a.message, n.id, n.agent FROM mamos_attempt a LEFT JOIN mamos_session n ON n.no = a.session \
                WHERE a.seq = $1 ORDER BY a.epoch, a.is_late, a.no";
    let ends = sqlx::query(past).bind(job.seq).fetch_all(&mut *connection).await?;
    rows::attempts(&row, &job, &ends)
}

/// Pieces of a run's log.
pub(super) async fn log(
    connection: &mut PgConnection,
    run: RunRef,
    offset: u64,
    max_bytes: u32,
) -> Result<Vec<LogPiece>, Fault> {
    let Ok(from) = i64::try_from(offset) else { return Ok(Vec::new()) };
    // The piece that holds the offset begins at or before it.
    let first = "SELECT max(l.start) FROM mamos_log l JOIN mamos_job j ON j.seq = l.seq \
                 WHERE j.id = $1 AND l.epoch = $2 AND l.start <= $3";
    let first = sqlx::query(first).bind(*run.job.as_uuid()).bind(run.epoch.number() as i64).bind(from);
    let row = first.fetch_one(&mut *connection).await?;
    let mut page = LogPage::new(from, max_bytes);
    let mut start = row.maybe_int(0)?.filter(|_| max_bytes > 0);
    while let Some(from) = start {
        let next = "SELECT l.start, l.stream, l.bytes FROM mamos_job j JOIN mamos_log l ON l.seq = j.seq \
                    WHERE j.id = $1 AND l.epoch = $2 AND l.start >= $3 ORDER BY l.start LIMIT $4";
        let next = sqlx::query(next)
            .bind(*run.job.as_uuid())
            .bind(run.epoch.number() as i64)
            .bind(from)
            .bind(PIECES as i64);
        start = page.take(&next.fetch_all(&mut *connection).await?)?;
    }
    Ok(page.pieces())
}

/// Every queue that holds a job or was ever paused, by name, with the counts of its jobs.
pub(super) async fn queues(connection: &mut PgConnection, known: &Known) -> Result<Vec<QueueRecord>, Fault> {
    let empty = |queue: &QueueName, is_paused| QueueRecord {
        queue: queue.clone(),
        is_paused,
        counts: [0; JobState::ALL.len()],
        oldest_ready: None,
    };
    let mut queues: BTreeMap<QueueName, QueueRecord> = BTreeMap::new();
    for row in sqlx::query("SELECT name, is_paused FROM mamos_queue").fetch_all(&mut *connection).await? {
        let queue: QueueName = rows::parse(&row, 0, "queue")?;
        queues.insert(queue.clone(), empty(&queue, row.int(1)? != 0));
    }
    let counts = "SELECT lane, state, count(*), min(run_at) FROM mamos_job GROUP BY lane, state";
    for row in sqlx::query(counts).fetch_all(&mut *connection).await? {
        let lane = match row.int(0) {
            Ok(number) => known.lane(connection, number).await,
            Err(fault) => Err(fault),
        };
        let state = row.int(1).and_then(job_state);
        let (Some(lane), Some(state)) = (readable(lane, "lane")?, readable(state, "job")?) else { continue };
        let queue = queues.entry(lane.queue().clone()).or_insert_with(|| empty(lane.queue(), false));
        let count = JobState::ALL.iter().zip(&mut queue.counts).find(|(other, _)| **other == state);
        if let Some((_, count)) = count {
            *count += row.int(2)? as u64;
        }
        if state == JobState::Ready {
            let oldest = row.time(3)?;
            queue.oldest_ready = Some(queue.oldest_ready.map_or(oldest, |known| known.min(oldest)));
        }
    }
    Ok(queues.into_values().collect())
}

/// Jumps from lane to lane over the index of ready jobs, so that it costs by the lane and not by the
/// job.
const READY_LANES: &str = "WITH RECURSIVE lanes (lane) AS ( \
     (SELECT lane FROM mamos_job WHERE state = 2 ORDER BY lane LIMIT 1) UNION ALL \
     SELECT (SELECT j.lane FROM mamos_job j WHERE j.state = 2 AND j.lane > lanes.lane ORDER BY j.lane LIMIT 1) \
     FROM lanes WHERE lanes.lane IS NOT NULL) \
     SELECT lane FROM lanes WHERE lane IS NOT NULL";

/// The lanes that hold a ready job, in the order of their ids.
pub(super) async fn ready_lanes(
    connection: &mut PgConnection,
    known: &Known,
) -> Result<Vec<Arc<Lane>>, Fault> {
    let mut ready = Vec::new();
    for row in sqlx::query(READY_LANES).fetch_all(&mut *connection).await? {
        ready.extend(readable(known.lane(connection, row.int(0)?).await, "lane")?);
    }
    ready.sort_by_key(|lane| lane.id());
    Ok(ready)
}

/// The names of the paused queues.
pub(super) async fn paused_queues(connection: &mut PgConnection) -> Result<Vec<QueueName>, Fault> {
    let paused = "SELECT name FROM mamos_queue WHERE is_paused ORDER BY name COLLATE \"C\"";
    let found = sqlx::query(paused).fetch_all(connection).await?;
    found.iter().map(|row| rows::parse(row, 0, "queue")).collect()
}
