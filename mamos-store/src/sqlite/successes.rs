//! The hot path of reports: jobs of which nothing is said but that they succeeded.
//!
//! The rules say that a held job which succeeds is `Succeeded`, whatever its counters and whoever
//! asked to cancel it. So nothing need be read: one statement for all jobs of a session, which
//! names the run in its condition. Whoever it does not fit goes the long way.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, SessionId};
use mamos_core::job::Outcome;
use mamos_core::job::state::JobState;
use mamos_core::lease::{Epoch, Verdict};
use mamos_core::store::{Report, Reported};

use super::errors::Fault;
use super::report::Timed;
use super::sql::{Listed, Values};
use super::writer::Tx;

/// Fewer jobs than this take the long way together: a statement costs as much as some rows.
const FEW: usize = 4;

/// The answer to each settle of this kind.
pub(super) const ANSWER: Reported =
    Reported { verdict: Verdict::Applied, state: Some(JobState::Succeeded), run_at: None };

/// Jobs that one statement can settle.
type Alike = (i64, Epoch, Timestamp);

/// The index is named because the planner knows no numbers, and all that a session holds might seem
/// less to it than a list of ids.
static SETTLE: Listed = Listed::new(
    "UPDATE mamos_job INDEXED BY mamos_job_id SET state = 5, finished_at = ?, settled = epoch \
     WHERE epoch = ? AND session = ? AND state IN (3, 4) AND id IN (",
    1,
    ")",
);

/// Settles what can be settled at once, and gives the jobs that were. Every write about them is
/// answered with [`ANSWER`].
pub(super) async fn settle(
    tx: &mut Tx,
    writes: &[Timed<'_>],
    sessions: &HashMap<SessionId, i64>,
) -> Result<HashSet<JobId>, Fault> {
    static OUTPUTS: Listed = Listed::new(
        "INSERT INTO mamos_output (seq, output) SELECT j.seq, v.column4 FROM (VALUES ",
        4,
        ") AS v CROSS JOIN mamos_job j INDEXED BY mamos_job_id ON j.id = v.column1 \
         WHERE j.epoch = v.column2 AND j.session = v.column3 AND j.state IN (3, 4)",
    );
    let mut written: HashMap<JobId, u32> = HashMap::with_capacity(writes.len());
    for (write, _) in writes {
        *written.entry(write.run.job).or_default() += 1;
    }
    let mut alike: HashMap<Alike, Vec<(JobId, &Bytes)>> = HashMap::new();
    for (write, now) in writes {
        if let Report::Settle(Outcome::Succeeded { output }) = &write.report
            && written.get(&write.run.job) == Some(&1)
            && let Some(session) = sessions.get(&write.session)
        {
            alike.entry((*session, write.run.epoch, *now)).or_default().push((write.run.job, output));
        }
    }
    let mut settled = HashSet::with_capacity(writes.len());
    for ((session, epoch, now), jobs) in alike {
        if jobs.len() < FEW {
            continue;
        }
        let epoch = epoch.number() as i64;
        let outputs: Vec<&(JobId, &Bytes)> = jobs.iter().filter(|(_, output)| !output.is_empty()).collect();
        let done = OUTPUTS.execute(&mut tx.connection, &outputs, |values, (job, output)| {
            values.add(job.as_bytes().as_slice()).add(epoch).add(session).add(output.as_ref());
        });
        done.await?;
        let fixed = |values: &mut Values| {
            values.add(now.as_micros()).add(epoch).add(session);
        };
        let changed = SETTLE.execute_with(&mut tx.connection, fixed, &jobs, |values, (job, _)| {
            values.add(job.as_bytes().as_slice());
        });
        // If some did not fit, all go the long way: to it, those that did look settled already, and
        // that gets the same answer.
        if changed.await? == jobs.len() as u64 {
            settled.extend(jobs.iter().map(|(job, _)| *job));
        }
    }
    Ok(settled)
}

/// The statement for one job, for tests of its plan.
#[cfg(test)]
pub(super) fn statement() -> String {
    SETTLE.statement(1)
}
