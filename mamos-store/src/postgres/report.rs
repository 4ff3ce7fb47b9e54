//! What agents report about their runs.

use std::collections::{HashMap, HashSet};

use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, SessionId};
use mamos_core::job::rules::{self, Next};
use mamos_core::job::state::{JobEvent, JobState};
use mamos_core::job::{AttemptEnd, Outcome};
use mamos_core::lease::{Epoch, Verdict};
use mamos_core::store::{LogPiece, Report, Reported, RunWrite};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::changes::{self, Changes};
use super::connect::Plans;
use super::drain::Batch;
use super::errors::Fault;
use super::rows::{Cells, clean, end_number};
use super::tx::Tx;

/// See [`mamos_core::store::JobStore::report`].
pub(super) struct ReportRuns {
    pub(super) writes: Vec<RunWrite>,
    pub(super) now: Timestamp,
}

/// The answer to each settle of a run that succeeded.
const SUCCEEDED: Reported =
    Reported { verdict: Verdict::Applied, state: Some(JobState::Succeeded), run_at: None };

/// A report and the time at which it is written.
type Timed<'a> = (&'a RunWrite, Timestamp);

impl Batch for ReportRuns {
    type Answer = Vec<Reported>;
    const NAME: &'static str = "store.report";
    const MOST: usize = 512;
    const PLANS: Plans = Plans::BY_INDEX;

    async fn run_all(operations: &[Self], tx: &mut Tx<'_>) -> Result<Vec<Self::Answer>, Fault> {
        let writes: Vec<Timed<'_>> =
            operations.iter().flat_map(|each| each.writes.iter().map(|write| (write, each.now))).collect();
        let sessions =
            tx.known.session_numbers(tx.connection, writes.iter().map(|(write, _)| write.session)).await?;
        let simple = simple_successes(&writes, &sessions);
        // Jobs of which nothing is said but that they succeeded need no transaction around their one statement.
        if simple.len() == writes.len() {
            let settled = settle(tx.connection, &simple).await?;
            if settled.len() == writes.len() {
                return Ok(operations.iter().map(|each| vec![SUCCEEDED; each.writes.len()]).collect());
            }
            // What is left is too late, and its evidence is kept.
            return the_rest(operations, &writes, sessions, settled, tx).await;
        }
        let mut transaction = tx.connection.begin().await?;
        let mut inner = Tx { connection: &mut transaction, known: tx.known };
        let settled = settle(inner.connection, &simple).await?;
        let answers = write_all(operations, &writes, sessions, &settled, &mut inner).await?;
        transaction.commit().await?;
        Ok(answers)
    }
}

async fn the_rest(
    operations: &[ReportRuns],
    writes: &[Timed<'_>],
    sessions: HashMap<SessionId, i64>,
    settled: HashSet<JobId>,
    tx: &mut Tx<'_>,
) -> Result<Vec<Vec<Reported>>, Fault> {
    let mut transaction = tx.connection.begin().await?;
    let mut inner = Tx { connection: &mut transaction, known: tx.known };
    let answers = write_all(operations, writes, sessions, &settled, &mut inner).await?;
    transaction.commit().await?;
    Ok(answers)
}

/// Writes what was not settled, the long way: reads, asks the rules, writes.
async fn write_all(
    operations: &[ReportRuns],
    writes: &[Timed<'_>],
    sessions: HashMap<SessionId, i64>,
    settled: &HashSet<JobId>,
    tx: &mut Tx<'_>,
) -> Result<Vec<Vec<Reported>>, Fault> {
    let left = || writes.iter().filter(|(write, _)| !settled.contains(&write.run.job));
    let ids: HashSet<JobId> = left().map(|(write, _)| write.run.job).collect();
    let ids: Vec<JobId> = ids.into_iter().collect();
    let latest = operations.iter().map(|operation| operation.now).max().unwrap_or_default();
    let mut changes = changes::read_or_bury(tx, &ids, latest).await?;
    // Only a retry asks for the policy of the job.
    let retried = left().filter(|(write, _)| matches!(write.report, Report::Settle(Outcome::Retry { .. })));
    let retried: Vec<usize> = retried.filter_map(|(write, _)| changes.find(write.run.job)).collect();
    changes::read_policies(&mut changes, tx, &retried).await?;
    let logged = left().filter(|(write, _)| matches!(write.report, Report::Log(_)));
    let logged: Vec<usize> = logged.filter_map(|(write, _)| changes.find(write.run.job)).collect();
    let log_ends = read_log_ends(tx.connection, &changes, &logged).await?;
    let mut reports = Reports { changes, sessions, log_ends };
    let mut answers = Vec::with_capacity(operations.len());
    for operation in operations {
        let mut answer = Vec::with_capacity(operation.writes.len());
        for write in &operation.writes {
            answer.push(match settled.contains(&write.run.job) {
                true => SUCCEEDED,
                false => reports.apply(tx, write, operation.now).await?,
            });
        }
        answers.push(answer);
    }
    changes::write(&mut reports.changes, tx).await?;
    Ok(answers)
}

/// A settle of a job of which the batch says nothing else.
struct Success<'a> {
    job: Uuid,
    epoch: Epoch,
    session: i64,
    now: Timestamp,
    output: Option<&'a [u8]>,
}

/// In the order of their ids, in which rows are locked everywhere.
fn simple_successes<'a>(writes: &[Timed<'a>], sessions: &HashMap<SessionId, i64>) -> Vec<Success<'a>> {
    let mut simple = Vec::with_capacity(writes.len());
    for (write, now) in writes {
        if let Report::Settle(Outcome::Succeeded { output }) = &write.report
            && let Some(session) = sessions.get(&write.session)
        {
            let (job, epoch) = (*write.run.job.as_uuid(), write.run.epoch);
            let output = (!output.is_empty()).then(|| output.as_ref());
            simple.push(Success { job, epoch, session: *session, now: *now, output });
        }
    }
    simple.sort_unstable_by_key(|success| success.job);
    let mut said: HashMap<&JobId, u32> = HashMap::new();
    if simple.len() < writes.len() || simple.windows(2).any(|pair| pair[0].job == pair[1].job) {
        for (write, _) in writes {
            *said.entry(&write.run.job).or_default() += 1;
        }
        simple.retain(|success| said.get(&JobId::from_uuid(success.job)) == Some(&1));
    }
    simple
}

/// Settles what is held as it is said, and gives the jobs that were.
///
/// The rules say that a held job which succeeds is `Succeeded`, whatever its counters and whoever asked to
/// cancel it. So nothing need be read: the run is named in the condition. Whoever it does not fit
/// goes the long way.
async fn settle(connection: &mut PgConnection, successes: &[Success<'_>]) -> Result<HashSet<JobId>, Fault> {
    const SETTLE: &str = "UPDATE mamos_job j SET state = 5, finished_at = v.now, settled = j.epoch \
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[]) AS v(id, epoch, session, now) \
         WHERE j.id = v.id AND j.epoch = v.epoch AND j.session = v.session AND j.state IN (3, 4) RETURNING j.id";
    const WITH_OUTPUTS: &str = "WITH u AS (UPDATE mamos_job j SET state = 5, finished_at = v.now, settled = j.epoch \
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[]) \
             AS v(id, epoch, session, now, output) \
         WHERE j.id = v.id AND j.epoch = v.epoch AND j.session = v.session AND j.state IN (3, 4) \
             RETURNING j.id, j.seq, v.output), \
         o AS (INSERT INTO mamos_output (seq, output) SELECT seq, output FROM u WHERE output IS NOT NULL) \
         SELECT id FROM u";
    if successes.is_empty() {
        return Ok(HashSet::new());
    }
    let has_outputs = successes.iter().any(|success| success.output.is_some());
    let mut query = sqlx::query(if has_outputs { WITH_OUTPUTS } else { SETTLE })
        .bind(successes.iter().map(|success| success.job).collect::<Vec<_>>())
        .bind(successes.iter().map(|success| success.epoch.number() as i64).collect::<Vec<_>>())
        .bind(successes.iter().map(|success| success.session).collect::<Vec<_>>())
        .bind(successes.iter().map(|success| success.now.as_micros()).collect::<Vec<_>>());
    if has_outputs {
        query = query.bind(successes.iter().map(|success| success.output).collect::<Vec<_>>());
    }
    let found = query.fetch_all(connection).await?;
    found.iter().map(|row| Ok(JobId::from_uuid(row.uuid(0)?))).collect()
}

/// Where the logs of the current runs of these jobs end.
async fn read_log_ends(
    connection: &mut PgConnection,
    changes: &Changes,
    indexes: &[usize],
) -> Result<HashMap<(i64, Epoch), u64>, Fault> {
    const ENDS: &str = "SELECT v.seq, v.epoch, (SELECT l.start + octet_length(l.bytes) FROM mamos_log l \
         WHERE l.seq = v.seq AND l.epoch = v.epoch ORDER BY l.start DESC LIMIT 1) \
         FROM unnest($1::bigint[], $2::bigint[]) AS v(seq, epoch)";
    if indexes.is_empty() {
        return Ok(HashMap::new());
    }
    let jobs = || indexes.iter().map(|index| changes.job(*index));
    let found = sqlx::query(ENDS)
        .bind(jobs().map(|job| job.seq).collect::<Vec<_>>())
        .bind(jobs().map(|job| job.epoch.number() as i64).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let end = |row: &sqlx::postgres::PgRow| {
        let key = (row.int(0)?, Epoch::from_number(row.int(1)? as u64));
        Ok((key, row.maybe_int(2)?.unwrap_or(0) as u64))
    };
    found.iter().map(end).collect()
}

struct Reports {
    changes: Changes,
    sessions: HashMap<SessionId, i64>,
    /// Where the logs of the runs end that something is appended to.
    log_ends: HashMap<(i64, Epoch), u64>,
}

impl Reports {
    async fn apply(&mut self, tx: &mut Tx<'_>, write: &RunWrite, now: Timestamp) -> Result<Reported, Fault> {
        let Some(index) = self.changes.find(write.run.job) else {
            return Ok(Reported { verdict: Verdict::Missing, state: None, run_at: None });
        };
        let job = self.changes.job(index);
        let session = self.sessions.get(&write.session).copied();
        let is_current = job.state.is_held()
            && job.epoch == write.run.epoch
            && session.is_some_and(|session| job.session == Some(session));
        if !is_current {
            return self.apply_late(tx, index, write, session, now).await;
        }
        let mut verdict = if job.is_cancel { Verdict::CancelRequested } else { Verdict::Applied };
        match &write.report {
            Report::Started => {
                if let Ok(state) = job.state.after(JobEvent::Start) {
                    let job = self.changes.change(index);
                    job.state = state;
                    job.started_at = Some(now);
                }
            }
            Report::Progress(progress) => self.changes.set_progress(index, progress.clone()),
            Report::Log(piece) => {
                if !self.append_log(index, piece) {
                    verdict = Verdict::Gap;
                }
            }
            Report::Settle(outcome) => {
                let facts = self.changes.facts(index);
                let next = rules::after_settle(&facts, outcome.clone(), now, write.run.jitter());
                let job = self.changes.change(index);
                job.settled = job.epoch;
                return Ok(self.end(index, next, now));
            }
            Report::Release => {
                let next = rules::after_release(&self.changes.facts(index), now);
                return Ok(self.end(index, next, now));
            }
        }
        Ok(Reported { verdict, state: Some(self.changes.job(index).state), run_at: None })
    }

    fn end(&mut self, index: usize, next: Next, now: Timestamp) -> Reported {
        let reported = Reported { verdict: Verdict::Applied, state: Some(next.state), run_at: next.run_at };
        self.changes.end_run(index, next, now);
        reported
    }

    /// A report about a run that is not current.
    async fn apply_late(
        &mut self,
        tx: &mut Tx<'_>,
        index: usize,
        write: &RunWrite,
        session: Option<i64>,
        now: Timestamp,
    ) -> Result<Reported, Fault> {
        let job = self.changes.job(index);
        let state = Some(job.state);
        let mut verdict = Verdict::Stale;
        if let Report::Settle(outcome) = &write.report {
            if job.settled == write.run.epoch && job.settled != Epoch::NEVER {
                verdict = Verdict::Applied;
            } else {
                // The stored history must be complete before it is asked. Late settles are rare.
                changes::write(&mut self.changes, tx).await?;
                self.keep_evidence(tx, index, write.run.epoch, session, outcome, now).await?;
            }
        }
        Ok(Reported { verdict, state, run_at: None })
    }

    /// Keeps a settle that came too late, once a run and session, and at most 16 a job.
    async fn keep_evidence(
        &self,
        tx: &mut Tx<'_>,
        index: usize,
        epoch: Epoch,
        session: Option<i64>,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let job = self.changes.job(index);
        let past = "SELECT attempt, leased_at, started_at FROM mamos_attempt \
                    WHERE seq = $1 AND epoch = $2 AND NOT is_late";
        let past = sqlx::query(past).bind(job.seq).bind(epoch.number() as i64);
        let (attempt, leased_at, started_at) = match past.fetch_optional(&mut *tx.connection).await? {
            Some(row) => (row.int(0)?, row.maybe_time(1)?, row.maybe_time(2)?),
            None if epoch == job.epoch => (i64::from(job.counters.attempt), job.leased_at, job.started_at),
            None => (i64::from(job.counters.attempt), None, None),
        };
        let (end, failure) = match outcome {
            Outcome::Succeeded { .. } => (AttemptEnd::Succeeded, None),
            Outcome::Retry { failure, .. } => (AttemptEnd::Retried, Some(failure)),
            Outcome::Bury { failure } => (AttemptEnd::Buried, Some(failure)),
            Outcome::Snooze { .. } => (AttemptEnd::Snoozed, None),
            Outcome::Cancelled => (AttemptEnd::Cancelled, None),
        };
        let insert = "INSERT INTO mamos_attempt (seq, epoch, is_late, attempt, session, leased_at, started_at, \
                      ended_at, ended, code, message) SELECT $1, $2, true, $3, $4, $5, $6, $7, $8, $9, $10 \
                      WHERE NOT EXISTS (SELECT 1 FROM mamos_attempt \
                          WHERE seq = $1 AND epoch = $2 AND is_late AND session IS NOT DISTINCT FROM $4) \
                      AND (SELECT count(*) FROM mamos_attempt WHERE seq = $1 AND is_late) < 16";
        sqlx::query(insert)
            .bind(job.seq)
            .bind(epoch.number() as i64)
            .bind(i32::try_from(attempt).unwrap_or(i32::MAX))
            .bind(session)
            .bind(leased_at.unwrap_or(now).as_micros())
            .bind(started_at.map(Timestamp::as_micros))
            .bind(now.as_micros())
            .bind(end_number(end) as i16)
            .bind(failure.map(|failure| clean(&failure.code).into_owned()))
            .bind(failure.map(|failure| clean(&failure.message).into_owned()))
            .execute(&mut *tx.connection)
            .await?;
        Ok(())
    }

    /// Appends a piece, without what is stored already. Gives false if a piece is missing before it.
    fn append_log(&mut self, index: usize, piece: &LogPiece) -> bool {
        let job = self.changes.job(index);
        let key = (job.seq, job.epoch);
        let end = self.log_ends.get(&key).copied().unwrap_or(0);
        let Some(known) = end.checked_sub(piece.offset) else { return false };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        if known >= piece.bytes.len() {
            return true;
        }
        let bytes = piece.bytes.slice(known..);
        self.log_ends.insert(key, end + bytes.len() as u64);
        self.changes.append_log(index, LogPiece { offset: end, stream: piece.stream, bytes });
        true
    }
}
