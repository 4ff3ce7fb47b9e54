//! Jobs whose rows cannot be understood: each ends by itself, and nothing else does.

use mamos_core::clock::Timestamp;
use mamos_core::job::{AttemptEnd, Failure};

use super::errors::Fault;
use super::rows::end_number;
use super::sql::Listed;
use super::writer::Tx;
use crate::sql::changes::Broken;

/// The code of the failure with which such a job is buried.
const CODE: &str = "corrupt";

/// Buries these jobs, unless they have ended. Only the state is repaired: the rest of the row stays as
/// it is, so that someone can look at it.
pub(super) async fn bury(tx: &mut Tx, broken: &[Broken], now: Timestamp) -> Result<(), Fault> {
    // The run of a held job ends with it. Casts make numbers of whatever stands there.
    static RUNS: Listed = Listed::new(
        "INSERT INTO mamos_attempt (seq, epoch, is_late, attempt, session, leased_at, started_at, ended_at, \
         end, code, message) SELECT j.seq, CAST(j.epoch AS INTEGER), 0, CAST(j.attempt AS INTEGER), \
         CAST(j.session AS INTEGER), CAST(coalesce(j.leased_at, v.column4) AS INTEGER), \
         CAST(j.started_at AS INTEGER), v.column4, v.column5, v.column2, v.column3 FROM (VALUES ",
        5,
        ") AS v CROSS JOIN mamos_job j ON j.seq = v.column1 WHERE j.state IN (3, 4)",
    );
    static FAILURES: Listed = Listed::new(
        "INSERT OR REPLACE INTO mamos_failure (seq, code, message) \
         SELECT j.seq, v.column2, v.column3 FROM (VALUES ",
        3,
        ") AS v CROSS JOIN mamos_job j ON j.seq = v.column1 WHERE j.state NOT IN (5, 6, 7)",
    );
    static BURY: Listed = Listed::new(
        "UPDATE mamos_job SET state = 6, finished_at = v.column2 FROM (VALUES ",
        2,
        ") AS v WHERE mamos_job.seq = v.column1 AND state NOT IN (5, 6, 7)",
    );
    if broken.is_empty() {
        return Ok(());
    }
    let failures: Vec<(i64, Failure)> = broken
        .iter()
        .map(|Broken { seq, fault, .. }| {
            tracing::error!(target: "mamos::store", seq, %fault, "a job cannot be understood and is buried");
            (*seq, Failure::new(CODE, format!("its row cannot be understood: {fault}")))
        })
        .collect();
    let done = RUNS.execute(&mut tx.connection, &failures, |values, (seq, failure)| {
        values
            .add(*seq)
            .add(failure.code.clone())
            .add(failure.message.clone())
            .add(now.as_micros())
            .add(end_number(AttemptEnd::Buried));
    });
    done.await?;
    let done = FAILURES.execute(&mut tx.connection, &failures, |values, (seq, failure)| {
        values.add(*seq).add(failure.code.clone()).add(failure.message.clone());
    });
    done.await?;
    let done = BURY.execute(&mut tx.connection, &failures, |values, (seq, _)| {
        values.add(*seq).add(now.as_micros());
    });
    done.await?;
    Ok(())
}
