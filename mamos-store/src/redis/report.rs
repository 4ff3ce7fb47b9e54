//! What agents report about their runs.

use std::collections::{HashMap, HashSet};

use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::rules::{self, Next};
use mamos_core::job::state::JobEvent;
use mamos_core::job::{AttemptEnd, AttemptRecord, Outcome};
use mamos_core::lease::{Epoch, Verdict};
use mamos_core::store::{LogPiece, Report, Reported, RunWrite};

use super::changes::Changes;
use super::codec::{Run, decode_session};
use super::errors::{Fault, readable};
use super::keys::Key;
use super::late::{self, Late};
use super::link::Way;
use super::logs::{self, Ends};
use super::tx::{Operation, Tx};
use super::writer::Mergeable;
use super::{Core, lists};

/// See [`mamos_core::store::JobStore::report`].
pub(super) struct ReportRuns {
    pub(super) writes: Vec<RunWrite>,
    pub(super) now: Timestamp,
}

impl Mergeable for ReportRuns {
    type Answer = Vec<Reported>;
    const NAME: &'static str = "store.report";

    fn weight(&self) -> usize {
        self.writes.len()
    }

    async fn run_all(operations: &[Self], core: &Core) -> Result<Vec<Self::Answer>, Fault> {
        core.transact(&Batch { operations }, Way::Report).await
    }
}

struct Batch<'a> {
    operations: &'a [ReportRuns],
}

impl Operation for Batch<'_> {
    type Answer = Vec<Vec<Reported>>;
    const NAME: &'static str = ReportRuns::NAME;

    async fn plan(&self, core: &Core) -> Result<(Tx, Self::Answer), Fault> {
        let ids: HashSet<JobId> =
            self.operations.iter().flat_map(|each| &each.writes).map(|write| write.run.job).collect();
        let latest = self.operations.iter().map(|operation| operation.now).max().unwrap_or_default();
        // What is remembered may be out of date; then the commit fails, and all is read the next time.
        let (known, unknown) = core.take_remembered(&ids);
        let mut changes = match unknown.is_empty() {
            true => Changes::default(),
            false => Changes::read_or_bury(core, &unknown, latest).await?,
        };
        known.into_iter().for_each(|job| changes.insert(job));
        let mut reports = Reports { core, changes, logs: HashMap::new(), late: HashMap::new() };
        let mut answers = Vec::with_capacity(self.operations.len());
        for operation in self.operations {
            let mut answer = Vec::with_capacity(operation.writes.len());
            for write in &operation.writes {
                answer.push(reports.apply(write, operation.now).await?);
            }
            answers.push(answer);
        }
        let Reports { changes, logs, late, .. } = reports;
        let mut tx = Tx::default();
        for (id, ends) in logs {
            ends.write(id, &mut tx);
        }
        for (id, late) in late {
            late.write(id, &mut tx)?;
        }
        tx.remembered = changes.written()?;
        changes.write_or_check(&mut tx)?;
        Ok((tx, answers))
    }
}

struct Reports<'a> {
    core: &'a Core,
    changes: Changes,
    /// Logs that something is appended to.
    logs: HashMap<JobId, Ends>,
    late: HashMap<JobId, Late>,
}

impl Reports<'_> {
    async fn apply(&mut self, write: &RunWrite, now: Timestamp) -> Result<Reported, Fault> {
        let Some(index) = self.changes.find(write.run.job) else {
            return Ok(Reported { verdict: Verdict::Missing, state: None, run_at: None });
        };
        let run = self.changes.run(index);
        let is_current = run.state.is_held() && run.epoch == write.run.epoch && run.session == write.session;
        if !is_current {
            return self.apply_late(index, write, now).await;
        }
        let mut verdict = if run.is_cancel_requested() { Verdict::CancelRequested } else { Verdict::Applied };
        match &write.report {
            Report::Started => {
                if let Ok(state) = run.state.after(JobEvent::Start) {
                    let run = self.changes.change(index);
                    run.state = state;
                    run.started_at = Some(now);
                }
            }
            Report::Progress(progress) => self.changes.change(index).progress = Some(progress.clone()),
            Report::Log(piece) => {
                if !self.append_log(index, piece.clone()).await? {
                    verdict = Verdict::Gap;
                }
            }
            Report::Settle(outcome) => {
                let facts = self.changes.facts(index);
                let next = rules::after_settle(&facts, outcome.clone(), now, write.run.jitter());
                let run = self.changes.change(index);
                run.settled = run.epoch;
                return Ok(self.end(index, next, now));
            }
            Report::Release => {
                let next = rules::after_release(&self.changes.facts(index), now);
                return Ok(self.end(index, next, now));
            }
        }
        Ok(Reported { verdict, state: Some(self.changes.run(index).state), run_at: None })
    }

    fn end(&mut self, index: usize, next: Next, now: Timestamp) -> Reported {
        let reported = Reported { verdict: Verdict::Applied, state: Some(next.state), run_at: next.run_at };
        self.changes.end_run(index, next, now);
        reported
    }

    /// A report about a run that is not current.
    async fn apply_late(
        &mut self,
        index: usize,
        write: &RunWrite,
        now: Timestamp,
    ) -> Result<Reported, Fault> {
        let run = self.changes.run(index);
        let state = Some(run.state);
        let mut verdict = Verdict::Stale;
        if let Report::Settle(outcome) = &write.report {
            if run.settled == write.run.epoch && run.settled != Epoch::NEVER {
                verdict = Verdict::Applied;
            } else {
                self.keep_evidence(index, write, outcome, now).await?;
            }
        }
        Ok(Reported { verdict, state, run_at: None })
    }

    /// Keeps a settle that came too late, once a run and session, and at most 16 a job.
    async fn keep_evidence(
        &mut self,
        index: usize,
        write: &RunWrite,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let id = write.run.job;
        let current = self.changes.run(index).clone();
        if !self.late.contains_key(&id) {
            self.late.insert(id, Late::read(self.core, id).await?);
        }
        let claimed = match current.epoch == write.run.epoch && current.was_claimed() {
            true => Some(current.clone()),
            false => {
                lists::history(self.core, id).await?.into_iter().find(|run| run.epoch == write.run.epoch)
            }
        };
        let stored = self.core.link.field(Key::Sessions, write.session.as_bytes()).await?;
        let session = match stored.is_empty() {
            true => None,
            false => readable(decode_session(write.session, &stored), "session")?,
        };
        let (end, failure) = match outcome {
            Outcome::Succeeded { .. } => (AttemptEnd::Succeeded, None),
            Outcome::Retry { failure, .. } => (AttemptEnd::Retried, Some(failure.clone())),
            Outcome::Bury { failure } => (AttemptEnd::Buried, Some(failure.clone())),
            Outcome::Snooze { .. } => (AttemptEnd::Snoozed, None),
            Outcome::Cancelled => (AttemptEnd::Cancelled, None),
        };
        let run_or = |of: fn(&Run) -> Option<Timestamp>| claimed.as_ref().and_then(of);
        let evidence = AttemptRecord {
            run: write.run,
            attempt: claimed.as_ref().map_or(current.counters.attempt, |run| run.attempt),
            session: Some(write.session),
            agent: session.map(|session| session.agent),
            leased_at: run_or(|run| run.leased_at).unwrap_or(now),
            started_at: run_or(|run| run.started_at),
            ended_at: Some(now),
            end: Some(end),
            failure,
            is_late: true,
        };
        if let Some(late) = self.late.get_mut(&id) {
            late.add(late::Evidence::of(&evidence));
        }
        Ok(())
    }

    /// Gives false if a piece is missing before this one.
    async fn append_log(&mut self, index: usize, piece: LogPiece) -> Result<bool, Fault> {
        let job = self.changes.job(index);
        let (id, epoch) = (job.id, job.run.epoch);
        if !self.logs.contains_key(&id) {
            self.logs.insert(id, logs::Ends::read(self.core, id).await?);
        }
        // The end of the log is checked when it is written, but the run must be the current one, too.
        let is_appended = self.logs.get_mut(&id).is_some_and(|ends| ends.append(epoch, piece));
        self.changes.change(index);
        Ok(is_appended)
    }
}
