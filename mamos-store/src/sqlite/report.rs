//! What agents report about their runs.

use std::collections::{HashMap, HashSet};

use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, SessionId};
use mamos_core::job::rules::{self, Next};
use mamos_core::job::state::JobEvent;
use mamos_core::job::{AttemptEnd, Outcome};
use mamos_core::lease::{Epoch, Verdict};
use mamos_core::store::{LogPiece, Report, Reported, RunWrite};
use sqlx::Row;

use super::changes::Changes;
use super::errors::Fault;
use super::rows::{end_number, get, time};
use super::successes;
use super::writer::{Mergeable, Tx};

/// See [`mamos_core::store::JobStore::report`].
pub(super) struct ReportRuns {
    pub(super) writes: Vec<RunWrite>,
    pub(super) now: Timestamp,
}

impl Mergeable for ReportRuns {
    type Answer = Vec<Reported>;
    const NAME: &'static str = "store.report";

    async fn run_all(operations: &[Self], tx: &mut Tx) -> Result<Vec<Self::Answer>, Fault> {
        let writes: Vec<Timed<'_>> =
            operations.iter().flat_map(|each| each.writes.iter().map(|write| (write, each.now))).collect();
        let sessions = tx.session_numbers(writes.iter().map(|(write, _)| write.session)).await?;
        let settled = successes::settle(tx, &writes, &sessions).await?;

        let left = || writes.iter().filter(|(write, _)| !settled.contains(&write.run.job));
        let ids: HashSet<JobId> = left().map(|(write, _)| write.run.job).collect();
        let ids: Vec<JobId> = ids.into_iter().collect();
        let latest = operations.iter().map(|operation| operation.now).max().unwrap_or_default();
        let mut changes = Changes::read_or_bury(tx, &ids, latest).await?;
        // Only a retry asks for the policy of the job.
        let retried =
            left().filter(|(write, _)| matches!(write.report, Report::Settle(Outcome::Retry { .. })));
        let retried: Vec<usize> = retried.filter_map(|(write, _)| changes.find(write.run.job)).collect();
        changes.read_policies(tx, &retried).await?;
        let mut reports = Reports { changes, sessions, log_ends: HashMap::new() };
        let mut answers = Vec::with_capacity(operations.len());
        for operation in operations {
            let mut answer = Vec::with_capacity(operation.writes.len());
            for write in &operation.writes {
                answer.push(match settled.contains(&write.run.job) {
                    true => successes::ANSWER,
                    false => reports.apply(tx, write, operation.now).await?,
                });
            }
            answers.push(answer);
        }
        reports.changes.write(tx).await?;
        Ok(answers)
    }
}

/// A report and the time at which it is written.
pub(super) type Timed<'a> = (&'a RunWrite, Timestamp);

struct Reports {
    changes: Changes,
    sessions: HashMap<SessionId, i64>,
    /// Where the logs of the runs end that something was appended to.
    log_ends: HashMap<(i64, Epoch), u64>,
}

impl Reports {
    async fn apply(&mut self, tx: &mut Tx, write: &RunWrite, now: Timestamp) -> Result<Reported, Fault> {
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
                if !self.append_log(tx, index, piece).await? {
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
        tx: &mut Tx,
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
                // The history on disk must be complete before it is asked. Late settles are rare.
                self.changes.write(tx).await?;
                self.keep_evidence(tx, index, write.run.epoch, session, outcome, now).await?;
            }
        }
        Ok(Reported { verdict, state, run_at: None })
    }

    /// Keeps a settle that came too late, once a run and session, and at most 16 a job.
    async fn keep_evidence(
        &self,
        tx: &mut Tx,
        index: usize,
        epoch: Epoch,
        session: Option<i64>,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let job = self.changes.job(index);
        let past = "SELECT attempt, leased_at, started_at FROM mamos_attempt \
                    WHERE seq = ? AND epoch = ? AND is_late = 0";
        let past = sqlx::query(past).bind(job.seq).bind(epoch.number() as i64);
        let (attempt, leased_at, started_at) = match past.fetch_optional(&mut tx.connection).await? {
            Some(row) => (get(&row, 0)?, time(&row, 1)?, time(&row, 2)?),
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
                      ended_at, end, code, message) SELECT ?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 \
                      WHERE NOT EXISTS (SELECT 1 FROM mamos_attempt \
                          WHERE seq = ?1 AND epoch = ?2 AND is_late = 1 AND session IS ?4) \
                      AND (SELECT count(*) FROM mamos_attempt WHERE seq = ?1 AND is_late = 1) < 16";
        sqlx::query(insert)
            .bind(job.seq)
            .bind(epoch.number() as i64)
            .bind(attempt)
            .bind(session)
            .bind(leased_at.unwrap_or(now).as_micros())
            .bind(started_at.map(Timestamp::as_micros))
            .bind(now.as_micros())
            .bind(end_number(end))
            .bind(failure.map(|failure| failure.code.clone()))
            .bind(failure.map(|failure| failure.message.clone()))
            .execute(&mut tx.connection)
            .await?;
        Ok(())
    }

    /// Appends a piece, without what is stored already. Gives false if a piece is missing before it.
    async fn append_log(&mut self, tx: &mut Tx, index: usize, piece: &LogPiece) -> Result<bool, Fault> {
        let job = self.changes.job(index);
        let key = (job.seq, job.epoch);
        let end = match self.log_ends.get(&key) {
            Some(end) => *end,
            None => {
                let last = "SELECT start + length(bytes) FROM mamos_log WHERE seq = ? AND epoch = ? \
                            ORDER BY start DESC LIMIT 1";
                let last = sqlx::query(last).bind(key.0).bind(key.1.number() as i64);
                match last.fetch_optional(&mut tx.connection).await? {
                    Some(row) => row.try_get::<i64, _>(0)? as u64,
                    None => 0,
                }
            }
        };
        let Some(known) = end.checked_sub(piece.offset) else { return Ok(false) };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        if known >= piece.bytes.len() {
            self.log_ends.insert(key, end);
            return Ok(true);
        }
        let bytes = piece.bytes.slice(known..);
        self.log_ends.insert(key, end + bytes.len() as u64);
        self.changes.append_log(index, LogPiece { offset: end, stream: piece.stream, bytes });
        Ok(true)
    }
}
