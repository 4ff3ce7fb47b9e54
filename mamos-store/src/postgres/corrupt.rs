//! Jobs whose rows cannot be understood: each ends by itself, and nothing else does.

use mamos_core::clock::Timestamp;
use mamos_core::job::AttemptEnd;
use mamos_core::lease::Epoch;
use sqlx::postgres::PgConnection;

use super::errors::Fault;
use super::rows::{clean, end_number};
use crate::sql::changes::Broken;

/// The code of the failure with which such a job is buried.
const CODE: &str = "corrupt";

/// Buries these jobs, unless they have ended. Only the state is repaired: the rest of the row stays as
/// it is, so that someone can look at it.
pub(super) async fn bury(
    connection: &mut PgConnection,
    broken: &[Broken],
    now: Timestamp,
) -> Result<(), Fault> {
    // The run of a held job ends with it.
    const BURY: &str = "WITH v AS (SELECT * FROM unnest($1::uuid[], $2::text[]) AS v(id, message)), \
         j AS (SELECT j.*, v.message FROM v JOIN mamos_job j USING (id) WHERE j.state NOT IN (5, 6, 7) \
             ORDER BY j.id FOR NO KEY UPDATE OF j), \
         runs AS (INSERT INTO mamos_attempt (seq, epoch, is_late, attempt, session, leased_at, started_at, ended_at, \
             ended, code, message) SELECT seq, epoch, false, attempt, session, coalesce(leased_at, $3), started_at, \
             $3, $5, $4, message FROM j WHERE state IN (3, 4)), \
         failures AS (INSERT INTO mamos_failure (seq, code, message) SELECT seq, $4, message FROM j \
             ON CONFLICT (seq) DO UPDATE SET code = excluded.code, message = excluded.message) \
         UPDATE mamos_job SET state = 6, finished_at = $3 FROM j WHERE mamos_job.id = j.id";
    if broken.is_empty() {
        return Ok(());
    }
    sqlx::query(BURY)
        .bind(broken.iter().map(|broken| broken.id.map(|id| *id.as_uuid())).collect::<Vec<_>>())
        .bind(messages(broken.iter()))
        .bind(now.as_micros())
        .bind(CODE)
        .bind(end_number(AttemptEnd::Buried) as i16)
        .execute(connection)
        .await?;
    Ok(())
}

/// The same for jobs that were leased a moment ago: nobody has heard of the run, so that it is undone.
pub(super) async fn take_back(
    connection: &mut PgConnection,
    broken: &[(Broken, Epoch)],
    now: Timestamp,
) -> Result<(), Fault> {
    const TAKE_BACK: &str = "WITH v AS (SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[]) \
             AS v(id, epoch, message) ORDER BY id), \
         j AS (UPDATE mamos_job j SET state = 6, finished_at = $4, epoch = j.epoch - 1, session = NULL, \
             leased_at = NULL FROM v WHERE j.id = v.id AND j.epoch = v.epoch AND j.state = 3 \
             RETURNING j.seq, v.message) \
         INSERT INTO mamos_failure (seq, code, message) SELECT seq, $5, message FROM j \
             ON CONFLICT (seq) DO UPDATE SET code = excluded.code, message = excluded.message";
    if broken.is_empty() {
        return Ok(());
    }
    sqlx::query(TAKE_BACK)
        .bind(broken.iter().map(|(job, _)| job.id.map(|id| *id.as_uuid())).collect::<Vec<_>>())
        .bind(broken.iter().map(|(_, epoch)| epoch.number() as i64).collect::<Vec<_>>())
        .bind(messages(broken.iter().map(|(job, _)| job)))
        .bind(now.as_micros())
        .bind(CODE)
        .execute(connection)
        .await?;
    Ok(())
}

/// Why they are buried; the host's log hears of it, too.
fn messages<'a>(broken: impl Iterator<Item = &'a Broken>) -> Vec<String> {
    let message = |Broken { seq, fault, .. }: &Broken| {
        tracing::error!(target: "mamos::store", seq, %fault, "a job cannot be understood and is buried");
        clean(&format!("its row cannot be understood: {fault}")).into_owned()
    };
    broken.map(message).collect()
}
