//! Reading: single records, lists, counts and logs. Goes over connections of its own, and never waits
//! for the writer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, QueueName};
use mamos_core::job::lane::Lane;
use mamos_core::job::state::JobState;
use mamos_core::job::{AttemptEnd, AttemptRecord, CancelRequest, ClaimedJob, Failure, JobRecord, Progress};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::{Cursor, HeldJob, JobFilter, LogPiece, Page, PageRequest, QueueRecord};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::errors::{Fault, readable};
use super::known::Lanes;
use super::rows::{
    self, Details, HotJob, attempt_end, blob, get, hot_columns, job_state, log_stream, small, state_number,
    time,
};
use super::sql::Values;

/// All that is kept of a job. `mamos_spec` goes second because every job has one.
const RECORD: &str = concat!(
    "SELECT ",
    hot_columns!(),
    ", s.created_at, s.payload, s.details, n.id, n.agent, c.reason, c.grace_us, p.epoch, p.percent, p.note, \
     o.output, f.code, f.message FROM mamos_job j CROSS JOIN mamos_spec s ON s.seq = j.seq \
     LEFT JOIN mamos_session n ON n.no = j.session LEFT JOIN mamos_cancel c ON c.seq = j.seq \
     LEFT JOIN mamos_progress p ON p.seq = j.seq LEFT JOIN mamos_output o ON o.seq = j.seq \
     LEFT JOIN mamos_failure f ON f.seq = j.seq "
);

async fn record(
    connection: &mut SqliteConnection,
    lanes: &Lanes,
    row: &SqliteRow,
) -> Result<JobRecord, Fault> {
    const REST: usize = HotJob::COLUMNS;
    let job = HotJob::decode(row)?;
    let lane = lanes.lane(connection, job.lane).await?;
    let details = match get(row, REST + 2).and_then(Details::decode) {
        // Someone must be able to see why it was buried.
        Err(fault) if job.state == JobState::Dead && fault.is_content() => Details::default(),
        details => details?,
    };
    let spec = details.into_spec(&job, lane, blob(row, REST + 1)?)?;
    let session = match get::<Option<&[u8]>>(row, REST + 3)? {
        None => None,
        Some(_) => Some(rows::session_id(row, REST + 3)?),
    };
    let agent = match get::<Option<&str>>(row, REST + 4)? {
        None => None,
        Some(_) => Some(rows::parse(row, REST + 4, "agent")?),
    };
    let cancel = match get::<Option<String>>(row, REST + 5)? {
        Some(reason) if job.is_cancel => {
            let grace = get::<i64>(row, REST + 6)?;
            Some(CancelRequest { reason, grace: Duration::from_micros(grace.max(0) as u64) })
        }
        _ => None,
    };
    // What an earlier run said is of no interest once a later one has begun.
    let progress = match get::<Option<i64>>(row, REST + 7)? {
        Some(epoch) if epoch as u64 == job.epoch.number() => Some(Progress {
            percent: get::<Option<f64>>(row, REST + 8)?.map(|percent| percent as f32),
            note: get(row, REST + 9)?,
        }),
        _ => None,
    };
    let is_success = job.state == JobState::Succeeded;
    let output = get::<Option<Vec<u8>>>(row, REST + 10)?.map(Bytes::from);
    let failure = match get::<Option<String>>(row, REST + 11)? {
        Some(code) if !is_success => Some(Failure { code, message: get(row, REST + 12)? }),
        _ => None,
    };
    Ok(JobRecord {
        spec,
        state: job.state,
        epoch: job.epoch,
        counters: job.counters,
        created_at: Timestamp::from_micros(get(row, REST)?),
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
    connection: &mut SqliteConnection,
    lanes: &Lanes,
    id: JobId,
) -> Result<Option<JobRecord>, Fault> {
    const ONE: &str = "WHERE j.id = ?";
    let query = sqlx::query(AssertSqlSafe(format!("{RECORD}{ONE}"))).bind(id.as_bytes().to_vec());
    match query.fetch_optional(&mut *connection).await? {
        None => Ok(None),
        Some(row) => record(connection, lanes, &row).await.map(Some),
    }
}

/// What a session holds, in the order of its runs. A job that cannot be understood is left out: its
/// agent may settle it, or it is given back and the next claim buries it.
pub(super) async fn held(
    connection: &mut SqliteConnection,
    lanes: &Lanes,
    session: i64,
) -> Result<Vec<HeldJob>, Fault> {
    const HELD: &str = "WHERE j.state IN (3, 4) AND j.session = ? ORDER BY j.id, j.epoch";
    let query = sqlx::query(AssertSqlSafe(format!("{RECORD}{HELD}"))).bind(session);
    let mut held = Vec::new();
    for row in query.fetch_all(&mut *connection).await? {
        let record = record(connection, lanes, &row).await;
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
    connection: &mut SqliteConnection,
    lanes: &Lanes,
    filter: &JobFilter,
    page: &PageRequest,
) -> Result<Page<JobRecord>, Fault> {
    let before = match &page.after {
        None => i64::MAX,
        Some(Cursor(text)) => text.parse().map_err(|_| {
            Fault::Refused(ErrorKind::Invalid, "this cursor is not of this list; begin again")
        })?,
    };
    let mut values = Values::default();
    values.add(before);
    let mut text = format!("{RECORD}WHERE j.seq < ?");
    if !filter.states.is_empty() {
        let marks = vec!["?"; filter.states.len()].join(",");
        text += &format!(" AND j.state IN ({marks})");
        for state in &filter.states {
            values.add(state_number(*state));
        }
    }
    if let Some(queue) = &filter.queue {
        text += " AND j.lane IN (SELECT no FROM mamos_lane WHERE queue = ?)";
        values.add(queue.as_str().to_owned());
    }
    if let Some(kind) = &filter.kind {
        text += " AND j.lane IN (SELECT no FROM mamos_lane WHERE kind = ?)";
        values.add(kind.as_str().to_owned());
    }
    if let Some(agent) = &filter.agent {
        text += " AND j.session IN (SELECT no FROM mamos_session WHERE agent = ?)";
        values.add(agent.to_string());
    }
    for (key, value) in filter.labels.iter() {
        // Keys hold no quote and no backslash, so this is a valid path.
        text += " AND CASE WHEN json_valid(s.details) THEN json_extract(s.details, ?) END = ?";
        values.add(format!("$.labels.\"{key}\"")).add(value.to_owned());
    }
    let limit = page.bounded_limit() as usize;
    text += " ORDER BY j.seq DESC LIMIT ?";
    values.add(limit as i64 + 1);
    let query = sqlx::query_with(AssertSqlSafe(text), values.finish()?);
    let found = query.fetch_all(&mut *connection).await?;
    let mut items = Vec::with_capacity(found.len());
    for row in found.iter().take(limit) {
        items.extend(readable(record(connection, lanes, row).await, "job")?);
    }
    let last = found.get(limit.wrapping_sub(1)).filter(|_| found.len() > limit);
    let next = last.map(|row| get::<i64>(row, 0)).transpose()?.map(|seq| Cursor(seq.to_string()));
    Ok(Page { items, next })
}

/// All runs of a job in order; late evidence after the run it claims to be.
pub(super) async fn attempts(
    connection: &mut SqliteConnection,
    id: JobId,
) -> Result<Vec<AttemptRecord>, Fault> {
    let job = concat!(
        "SELECT ",
        hot_columns!(),
        ", n.id, n.agent FROM mamos_job j \
         LEFT JOIN mamos_session n ON n.no = j.session WHERE j.id = ?"
    );
    let job = sqlx::query(job).bind(id.as_bytes().to_vec());
    let Some(row) = job.fetch_optional(&mut *connection).await? else { return Ok(Vec::new()) };
    let job = HotJob::decode(&row)?;
    let past = "SELECT a.epoch, a.is_late, a.attempt, a.leased_at, a.started_at, a.ended_at, a.end, a.code, \
                a.message, n.id, n.agent FROM mamos_attempt a LEFT JOIN mamos_session n ON n.no = a.session \
                WHERE a.seq = ? ORDER BY a.epoch, a.is_late, a.no";
    let mut attempts = Vec::new();
    for row in sqlx::query(past).bind(job.seq).fetch_all(&mut *connection).await? {
        let code: Option<String> = get(&row, 7)?;
        let message: Option<String> = get(&row, 8)?;
        attempts.push(AttemptRecord {
            run: RunRef { job: id, epoch: Epoch::from_number(get::<i64>(&row, 0)? as u64) },
            attempt: small(get(&row, 2)?, "attempt")?,
            session: optional_session(&row, 9)?,
            agent: optional_agent(&row, 10)?,
            leased_at: Timestamp::from_micros(get(&row, 3)?),
            started_at: time(&row, 4)?,
            ended_at: time(&row, 5)?,
            end: Some(attempt_end(get(&row, 6)?)?),
            failure: code.map(|code| Failure { code, message: message.unwrap_or_default() }),
            is_late: get::<i64>(&row, 1)? != 0,
        });
    }
    // The run that goes on and the one that succeeded stand in the job.
    let is_success = job.state == JobState::Succeeded;
    if job.state.is_held() || is_success {
        attempts.push(AttemptRecord {
            run: job.run(),
            attempt: job.counters.attempt,
            session: optional_session(&row, HotJob::COLUMNS)?,
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

fn optional_session(row: &SqliteRow, index: usize) -> Result<Option<mamos_core::id::SessionId>, Fault> {
    match get::<Option<&[u8]>>(row, index)? {
        None => Ok(None),
        Some(_) => rows::session_id(row, index).map(Some),
    }
}

fn optional_agent(row: &SqliteRow, index: usize) -> Result<Option<mamos_core::id::AgentId>, Fault> {
    match get::<Option<&str>>(row, index)? {
        None => Ok(None),
        Some(_) => rows::parse(row, index, "agent").map(Some),
    }
}

/// Pieces of a run's log.
pub(super) async fn log(
    connection: &mut SqliteConnection,
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
                 WHERE j.id = ? AND l.epoch = ? AND l.start <= ?";
    let first =
        sqlx::query(first).bind(run.job.as_bytes().to_vec()).bind(run.epoch.number() as i64).bind(from);
    let row = first.fetch_one(&mut *connection).await?;
    let Some(mut start) = get::<Option<i64>>(&row, 0)? else { return Ok(pieces) };
    while room > 0 {
        let next = "SELECT l.start, l.stream, l.bytes FROM mamos_job j CROSS JOIN mamos_log l ON l.seq = j.seq \
                    WHERE j.id = ? AND l.epoch = ? AND l.start >= ? ORDER BY l.start LIMIT ?";
        let next = sqlx::query(next)
            .bind(run.job.as_bytes().to_vec())
            .bind(run.epoch.number() as i64)
            .bind(start)
            .bind(PIECES);
        let found = next.fetch_all(&mut *connection).await?;
        for row in &found {
            let begin: i64 = get(row, 0)?;
            let bytes = blob(row, 2)?;
            start = begin.saturating_add(1);
            let skipped = usize::try_from(from.saturating_sub(begin)).unwrap_or(0);
            let length = bytes.len().saturating_sub(skipped).min(room);
            if length == 0 {
                continue;
            }
            pieces.push(LogPiece {
                offset: from as u64,
                stream: log_stream(get(row, 1)?)?,
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
pub(super) async fn queues(
    connection: &mut SqliteConnection,
    lanes: &Lanes,
) -> Result<Vec<QueueRecord>, Fault> {
    let empty = |queue: &QueueName, is_paused| QueueRecord {
        queue: queue.clone(),
        is_paused,
        counts: [0; JobState::ALL.len()],
        oldest_ready: None,
    };
    let mut queues: BTreeMap<QueueName, QueueRecord> = BTreeMap::new();
    for row in sqlx::query("SELECT name, is_paused FROM mamos_queue").fetch_all(&mut *connection).await? {
        let queue: QueueName = rows::parse(&row, 0, "queue")?;
        queues.insert(queue.clone(), empty(&queue, get::<i64>(&row, 1)? != 0));
    }
    let counts = "SELECT lane, state, count(*), min(run_at) FROM mamos_job GROUP BY lane, state";
    for row in sqlx::query(counts).fetch_all(&mut *connection).await? {
        let lane = match get(&row, 0) {
            Ok(number) => lanes.lane(connection, number).await,
            Err(fault) => Err(fault),
        };
        let state = get(&row, 1).and_then(job_state);
        let (Some(lane), Some(state)) = (readable(lane, "lane")?, readable(state, "job")?) else { continue };
        let queue = queues.entry(lane.queue().clone()).or_insert_with(|| empty(lane.queue(), false));
        let count = JobState::ALL.iter().zip(&mut queue.counts).find(|(other, _)| **other == state);
        if let Some((_, count)) = count {
            *count += get::<i64>(&row, 2)? as u64;
        }
        if state == JobState::Ready {
            let oldest = Timestamp::from_micros(get(&row, 3)?);
            queue.oldest_ready = Some(queue.oldest_ready.map_or(oldest, |known| known.min(oldest)));
        }
    }
    Ok(queues.into_values().collect())
}

/// Jumps from lane to lane over the index of ready jobs, so that it costs by the lane and not by the
/// job.
pub(super) const READY_LANES: &str = "WITH RECURSIVE lanes (lane) AS ( \
     SELECT (SELECT lane FROM mamos_job WHERE state = 2 ORDER BY lane LIMIT 1) UNION ALL \
     SELECT (SELECT j.lane FROM mamos_job j WHERE j.state = 2 AND j.lane > lanes.lane ORDER BY j.lane LIMIT 1) \
     FROM lanes WHERE lanes.lane IS NOT NULL) \
     SELECT lane FROM lanes WHERE lane IS NOT NULL";

/// The lanes that hold a ready job, in the order of their ids.
pub(super) async fn ready_lanes(
    connection: &mut SqliteConnection,
    lanes: &Lanes,
) -> Result<Vec<Arc<Lane>>, Fault> {
    let mut ready = Vec::new();
    for row in sqlx::query(READY_LANES).fetch_all(&mut *connection).await? {
        ready.extend(readable(lanes.lane(connection, get(&row, 0)?).await, "lane")?);
    }
    ready.sort_by_key(|lane| lane.id());
    Ok(ready)
}

/// The names of the paused queues.
pub(super) async fn paused_queues(connection: &mut SqliteConnection) -> Result<Vec<QueueName>, Fault> {
    let paused = "SELECT name FROM mamos_queue WHERE is_paused = 1 ORDER BY name";
    let found = sqlx::query(paused).fetch_all(connection).await?;
    found.iter().map(|row| rows::parse(row, 0, "queue")).collect()
}
