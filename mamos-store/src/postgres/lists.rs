//! Reading: single records, lists, counts and logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::id::{AgentId, JobId, QueueName, SessionId};
use mamos_core::job::lane::Lane;
use mamos_core::job::state::JobState;
use mamos_core::job::{AttemptEnd, AttemptRecord, CancelRequest, ClaimedJob, Failure, JobRecord, Progress};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::{Cursor, HeldJob, JobFilter, LogPiece, Page, PageRequest, QueueRecord};
use sqlx::Postgres;
use sqlx::QueryBuilder;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use super::errors::{Fault, readable};
use super::known::Known;
use super::rows::{
    self, Cells, Details, HotJob, attempt_end, clean, hot_columns, job_state, log_stream, small, state_number,
};

/// All that is kept of a job.
const RECORD: &str = concat!(
    "SELECT ",
    hot_columns!(),
    ", s.created_at, s.payload, s.details, n.id, n.agent, c.reason, c.grace_us, p.epoch, p.percent, p.note, \
     o.output, f.code, f.message FROM mamos_job j JOIN mamos_spec s ON s.seq = j.seq \
     LEFT JOIN mamos_session n ON n.no = j.session LEFT JOIN mamos_cancel c ON c.seq = j.seq \
     LEFT JOIN mamos_progress p ON p.seq = j.seq LEFT JOIN mamos_output o ON o.seq = j.seq \
     LEFT JOIN mamos_failure f ON f.seq = j.seq "
);

async fn record(connection: &mut PgConnection, known: &Known, row: &PgRow) -> Result<JobRecord, Fault> {
    const REST: usize = HotJob::COLUMNS;
    let job = HotJob::decode(row)?;
    let lane = known.lane(connection, job.lane).await?;
    let details = match row.maybe_text(REST + 2).and_then(Details::decode) {
        // Someone must be able to see why it was buried.
        Err(fault) if job.state == JobState::Dead && fault.is_content() => Details::default(),
        details => details?,
    };
    let spec = details.into_spec(&job, lane, row.blob(REST + 1)?)?;
    let session = row.maybe_uuid(REST + 3)?.map(SessionId::from_uuid);
    let agent = optional_agent(row, REST + 4)?;
    let cancel = match row.maybe_text(REST + 5)? {
        Some(reason) if job.is_cancel => {
            let grace = row.int(REST + 6)?;
            Some(CancelRequest {
                reason: reason.to_owned(),
                grace: Duration::from_micros(grace.max(0) as u64),
            })
        }
        _ => None,
    };
    // What an earlier run said is of no interest once a later one has begun.
    let progress = match row.maybe_int(REST + 7)? {
        Some(epoch) if epoch as u64 == job.epoch.number() => Some(Progress {
            percent: row.try_get::<Option<f64>, _>(REST + 8)?.map(|percent| percent as f32),
            note: row.text(REST + 9)?.to_owned(),
        }),
        _ => None,
    };
    let is_success = job.state == JobState::Succeeded;
    let output = row.maybe_bytes(REST + 10)?.map(Bytes::copy_from_slice);
    let failure = match row.maybe_text(REST + 11)? {
        Some(code) if !is_success => {
            Some(Failure { code: code.to_owned(), message: row.text(REST + 12)?.to_owned() })
        }
        _ => None,
    };
    Ok(JobRecord {
        spec,
        state: job.state,
        epoch: job.epoch,
        counters: job.counters,
        created_at: row.time(REST)?,
        run_at: job.run_at,
        session,
        agent,
        leased_at: job.leased_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        cancel,
        progress,
        // Empty outputs are not stored.
        output: is_success.then(|| output.unwrap_or_default()),
        failure,
    })
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
        held.push(HeldJob {
            is_started: record.state == JobState::Running,
            cancel: record.cancel,
            claimed: ClaimedJob {
                run: RunRef { job: record.spec.id, epoch: record.epoch },
                lane: record.spec.lane.id(),
                kind: record.spec.lane.kind().clone(),
                payload: record.spec.payload,
                counters: record.counters,
                timeout: record.spec.timeout,
                deadline: record.spec.deadline,
                ready_since: record.run_at,
                traceparent: record.spec.traceparent,
            },
        });
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
    let mut attempts = Vec::new();
    for row in sqlx::query(past).bind(job.seq).fetch_all(&mut *connection).await? {
        let message = row.maybe_text(8)?.unwrap_or_default().to_owned();
        attempts.push(AttemptRecord {
            run: RunRef { job: id, epoch: Epoch::from_number(row.int(0)? as u64) },
            attempt: small(row.int(2)?, "attempt")?,
            session: row.maybe_uuid(9)?.map(SessionId::from_uuid),
            agent: optional_agent(&row, 10)?,
            leased_at: row.time(3)?,
            started_at: row.maybe_time(4)?,
            ended_at: row.maybe_time(5)?,
            end: Some(attempt_end(row.int(6)?)?),
            failure: row.maybe_text(7)?.map(|code| Failure { code: code.to_owned(), message }),
            is_late: row.int(1)? != 0,
        });
    }
    // The run that goes on and the one that succeeded stand in the job.
    let is_success = job.state == JobState::Succeeded;
    if job.state.is_held() || is_success {
        attempts.push(AttemptRecord {
            run: job.run(),
            attempt: job.counters.attempt,
            session: row.maybe_uuid(HotJob::COLUMNS)?.map(SessionId::from_uuid),
            agent: optional_agent(&row, HotJob::COLUMNS + 1)?,
            leased_at: job.leased_at.unwrap_or_default(),
            started_at: job.started_at,
            ended_at: job.finished_at.filter(|_| is_success),
            end: is_success.then_some(AttemptEnd::Succeeded),
            failure: None,
            is_late: false,
        });
        attempts.sort_by_key(|attempt| (attempt.run.epoch, attempt.is_late));
    }
    Ok(attempts)
}

fn optional_agent(row: &PgRow, index: usize) -> Result<Option<AgentId>, Fault> {
    match row.maybe_text(index)? {
        None => Ok(None),
        Some(_) => rows::parse(row, index, "agent").map(Some),
    }
}

/// Pieces of a run's log.
pub(super) async fn log(
    connection: &mut PgConnection,
    run: RunRef,
    offset: u64,
    max_bytes: u32,
) -> Result<Vec<LogPiece>, Fault> {
    /// How many pieces are read at once, so that a small page of a log of large pieces stays small.
    const PIECES: i64 = 64;
    let Ok(mut from) = i64::try_from(offset) else { return Ok(Vec::new()) };
    let mut room = max_bytes as usize;
    let mut pieces = Vec::new();
    // The piece that holds the offset begins at or before it.
    let first = "SELECT max(l.start) FROM mamos_log l JOIN mamos_job j ON j.seq = l.seq \
                 WHERE j.id = $1 AND l.epoch = $2 AND l.start <= $3";
    let first = sqlx::query(first).bind(*run.job.as_uuid()).bind(run.epoch.number() as i64).bind(from);
    let row = first.fetch_one(&mut *connection).await?;
    let Some(mut start) = row.maybe_int(0)? else { return Ok(pieces) };
    while room > 0 {
        let next = "SELECT l.start, l.stream, l.bytes FROM mamos_job j JOIN mamos_log l ON l.seq = j.seq \
                    WHERE j.id = $1 AND l.epoch = $2 AND l.start >= $3 ORDER BY l.start LIMIT $4";
        let next = sqlx::query(next)
            .bind(*run.job.as_uuid())
            .bind(run.epoch.number() as i64)
            .bind(start)
            .bind(PIECES);
        let found = next.fetch_all(&mut *connection).await?;
        for row in &found {
            let begin = row.int(0)?;
            let bytes = row.blob(2)?;
            start = begin.saturating_add(1);
            let skipped = usize::try_from(from.saturating_sub(begin)).unwrap_or(0);
            let length = bytes.len().saturating_sub(skipped).min(room);
            if length == 0 {
                continue;
            }
            pieces.push(LogPiece {
                offset: from as u64,
                stream: log_stream(row.int(1)?)?,
                bytes: bytes.slice(skipped..skipped + length),
            });
            room -= length;
            from += length as i64;
        }
        if found.len() < PIECES as usize {
            break;
        }
    }
    Ok(pieces)
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
