//! Reading jobs to be changed, and writing them back together.

use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::lease::Epoch;
use sqlx::postgres::{PgConnection, PgRow};

use super::corrupt;
use super::errors::Fault;
use super::rows::{clean, end_number, hot_columns, state_number, stream_number};
use super::tx::Tx;
use crate::sql::changes::apart;

pub(super) use crate::sql::changes::Changes;

/// Locked in the order of their ids, as everywhere: two who change the same jobs never wait for each other.
const JOBS: &str = concat!(
    "SELECT ",
    hot_columns!(),
    " FROM mamos_job j WHERE j.id = ANY($1) ORDER BY j.id FOR NO KEY UPDATE"
);

/// Reads and locks the jobs with these ids; those that do not exist are left out. Fails if one of them
/// cannot be understood, so that whoever asks for it learns why.
pub(super) async fn read(tx: &mut Tx<'_>, ids: &[JobId]) -> Result<Changes, Fault> {
    let (changes, broken) = Changes::decode(&read_rows(tx, ids).await?)?;
    match broken.into_iter().next() {
        Some(broken) => Err(broken.fault),
        None => Ok(changes),
    }
}

/// The same, but those that cannot be understood are buried at `now` and left out.
pub(super) async fn read_or_bury(tx: &mut Tx<'_>, ids: &[JobId], now: Timestamp) -> Result<Changes, Fault> {
    let rows = read_rows(tx, ids).await?;
    of_rows(tx, &rows, now).await
}

/// Takes jobs from rows of `hot_columns`. Those that cannot be understood are buried at `now` and
/// left out.
pub(super) async fn of_rows(tx: &mut Tx<'_>, rows: &[PgRow], now: Timestamp) -> Result<Changes, Fault> {
    let (changes, broken) = Changes::decode(rows)?;
    corrupt::bury(tx.connection, &broken, now).await?;
    Ok(changes)
}

/// Reads the retry policies and crash limits of jobs, see [`Changes::note_policies`].
pub(super) async fn read_policies(
    changes: &mut Changes,
    tx: &mut Tx<'_>,
    indexes: &[usize],
) -> Result<(), Fault> {
    if indexes.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = indexes.iter().map(|index| changes.job(*index).seq).collect();
    let query = "SELECT seq, details FROM mamos_spec WHERE details IS NOT NULL AND seq = ANY($1)";
    changes.note_policies(&sqlx::query(query).bind(seqs).fetch_all(&mut *tx.connection).await?)
}

/// Writes what was changed since the last call.
pub(super) async fn write(changes: &mut Changes, tx: &mut Tx<'_>) -> Result<(), Fault> {
    write_jobs(changes, tx.connection).await?;
    write_history(changes, tx.connection).await?;
    write_failures(changes, tx.connection).await?;
    write_cancels(changes, tx.connection).await?;
    write_rare(changes, tx.connection).await
}

async fn write_jobs(changes: &mut Changes, connection: &mut PgConnection) -> Result<(), Fault> {
    const CHANGED: &str = "UPDATE mamos_job j SET state = v.state, run_at = v.run_at, session = v.session, \
         attempt = v.attempt, crashes = v.crashes, deliveries = v.deliveries, is_cancel = v.is_cancel, \
         started_at = v.started_at, finished_at = v.finished_at, deadline = v.deadline, settled = v.settled \
         FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::bigint[], $5::int[], $6::int[], $7::int[], \
         $8::boolean[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]) AS v(id, state, run_at, \
         session, attempt, crashes, deliveries, is_cancel, started_at, finished_at, deadline, settled) \
         WHERE j.id = v.id";
    let changed = changes.jobs.iter().zip(&changes.is_changed).filter(|(_, is_changed)| **is_changed);
    let jobs: Vec<_> = changed.map(|(job, _)| job).collect();
    if !jobs.is_empty() {
        let times = |time: fn(&&crate::sql::rows::HotJob) -> Option<Timestamp>| {
            jobs.iter().map(|job| time(job).map(Timestamp::as_micros)).collect::<Vec<_>>()
        };
        sqlx::query(CHANGED)
            .bind(jobs.iter().map(|job| *job.id.as_uuid()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| state_number(job.state) as i16).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.run_at.as_micros()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.session).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| small(job.counters.attempt)).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| small(job.counters.crashes)).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| small(job.counters.deliveries)).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.is_cancel).collect::<Vec<_>>())
            .bind(times(|job| job.started_at))
            .bind(times(|job| job.finished_at))
            .bind(times(|job| job.deadline))
            .bind(jobs.iter().map(|job| job.settled.number() as i64).collect::<Vec<_>>())
            .execute(connection)
            .await?;
    }
    changes.is_changed.fill(false);
    Ok(())
}

async fn write_history(changes: &mut Changes, connection: &mut PgConnection) -> Result<(), Fault> {
    const ENDED: &str = "INSERT INTO mamos_attempt (seq, epoch, is_late, attempt, session, leased_at, started_at, \
         ended_at, ended, code, message) SELECT seq, epoch, false, attempt, session, leased_at, started_at, \
         ended_at, ended, code, message FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bigint[], \
         $5::bigint[], $6::bigint[], $7::bigint[], $8::smallint[], $9::text[], $10::text[]) AS v(seq, epoch, \
         attempt, session, leased_at, started_at, ended_at, ended, code, message)";
    let runs = std::mem::take(&mut changes.ended);
    if runs.is_empty() {
        return Ok(());
    }
    let leased = runs.iter().map(|run| run.leased_at.unwrap_or(run.ended_at).as_micros());
    let failures = || runs.iter().map(|run| run.failure.as_ref());
    sqlx::query(ENDED)
        .bind(runs.iter().map(|run| run.seq).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.epoch.number() as i64).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| small(run.attempt)).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.session).collect::<Vec<_>>())
        .bind(leased.collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.started_at.map(Timestamp::as_micros)).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.ended_at.as_micros()).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| end_number(run.end) as i16).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.map(|failure| clean(&failure.code))).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.map(|failure| clean(&failure.message))).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_failures(changes: &mut Changes, connection: &mut PgConnection) -> Result<(), Fault> {
    const FAILURES: &str = "INSERT INTO mamos_failure (seq, code, message) \
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[]) \
         ON CONFLICT (seq) DO UPDATE SET code = excluded.code, message = excluded.message";
    let (failures, none) = apart(std::mem::take(&mut changes.failures));
    if !failures.is_empty() {
        sqlx::query(FAILURES)
            .bind(failures.iter().map(|(seq, _)| *seq).collect::<Vec<_>>())
            .bind(failures.iter().map(|(_, failure)| clean(&failure.code)).collect::<Vec<_>>())
            .bind(failures.iter().map(|(_, failure)| clean(&failure.message)).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    if !none.is_empty() {
        let query = "DELETE FROM mamos_failure WHERE seq = ANY($1)";
        sqlx::query(query).bind(none).execute(connection).await?;
    }
    Ok(())
}

async fn write_cancels(changes: &mut Changes, connection: &mut PgConnection) -> Result<(), Fault> {
    const CANCELS: &str = "INSERT INTO mamos_cancel (seq, reason, grace_us) \
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[]) \
         ON CONFLICT (seq) DO UPDATE SET reason = excluded.reason, grace_us = excluded.grace_us";
    let (cancels, none) = apart(std::mem::take(&mut changes.cancels));
    if !cancels.is_empty() {
        let grace = |micros: u128| i64::try_from(micros).unwrap_or(i64::MAX);
        sqlx::query(CANCELS)
            .bind(cancels.iter().map(|(seq, _)| *seq).collect::<Vec<_>>())
            .bind(cancels.iter().map(|(_, request)| clean(&request.reason)).collect::<Vec<_>>())
            .bind(cancels.iter().map(|(_, request)| grace(request.grace.as_micros())).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    if !none.is_empty() {
        let query = "DELETE FROM mamos_cancel WHERE seq = ANY($1)";
        sqlx::query(query).bind(none).execute(connection).await?;
    }
    Ok(())
}

async fn write_rare(changes: &mut Changes, connection: &mut PgConnection) -> Result<(), Fault> {
    const OUTPUTS: &str =
        "INSERT INTO mamos_output (seq, output) SELECT * FROM unnest($1::bigint[], $2::bytea[])";
    const PROGRESS: &str = "INSERT INTO mamos_progress (seq, epoch, percent, note) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::double precision[], $4::text[]) ON CONFLICT (seq) \
         DO UPDATE SET epoch = excluded.epoch, percent = excluded.percent, note = excluded.note";
    const LOGS: &str = "INSERT INTO mamos_log (seq, epoch, start, stream, bytes) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bytea[])";
    let outputs = std::mem::take(&mut changes.outputs);
    if !outputs.is_empty() {
        sqlx::query(OUTPUTS)
            .bind(outputs.iter().map(|(seq, _)| *seq).collect::<Vec<_>>())
            .bind(outputs.iter().map(|(_, output)| output.as_ref()).collect::<Vec<&[u8]>>())
            .execute(&mut *connection)
            .await?;
    }
    let progress: Vec<_> = std::mem::take(&mut changes.progress).into_iter().collect();
    if !progress.is_empty() {
        let number = |epoch: &Epoch| epoch.number() as i64;
        sqlx::query(PROGRESS)
            .bind(progress.iter().map(|(seq, _)| *seq).collect::<Vec<_>>())
            .bind(progress.iter().map(|(_, (epoch, _))| number(epoch)).collect::<Vec<_>>())
            .bind(progress.iter().map(|(_, (_, now))| now.percent.map(f64::from)).collect::<Vec<_>>())
            .bind(progress.iter().map(|(_, (_, now))| clean(&now.note)).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    let logs = std::mem::take(&mut changes.logs);
    if !logs.is_empty() {
        sqlx::query(LOGS)
            .bind(logs.iter().map(|(seq, _, _)| *seq).collect::<Vec<_>>())
            .bind(logs.iter().map(|(_, epoch, _)| epoch.number() as i64).collect::<Vec<_>>())
            .bind(logs.iter().map(|(_, _, piece)| piece.offset as i64).collect::<Vec<_>>())
            .bind(logs.iter().map(|(_, _, piece)| stream_number(piece.stream) as i16).collect::<Vec<_>>())
            .bind(logs.iter().map(|(_, _, piece)| piece.bytes.as_ref()).collect::<Vec<&[u8]>>())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The counters of a job fit: they grow by one with each run.
fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

async fn read_rows(tx: &mut Tx<'_>, ids: &[JobId]) -> Result<Vec<PgRow>, Fault> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| *id.as_uuid()).collect();
    Ok(sqlx::query(JOBS).bind(ids).fetch_all(&mut *tx.connection).await?)
}
