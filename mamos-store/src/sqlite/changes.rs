//! Reading jobs to be changed, and writing them back together.

use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::Progress;
use mamos_core::lease::Epoch;
use sqlx::sqlite::SqliteRow;

use super::corrupt;
use super::errors::Fault;
use super::rows::{HotJob, end_number, hot_columns, state_number, stream_number};
use super::sql::Listed;
use super::writer::Tx;
use crate::sql::changes::apart;

pub(super) use crate::sql::changes::Changes;

impl Changes {
    /// Reads the jobs with these ids; those that do not exist are left out. Fails if one of them cannot
    /// be understood, so that whoever asks for it learns why.
    pub(super) async fn read(tx: &mut Tx, ids: &[JobId]) -> Result<Self, Fault> {
        let (changes, broken) = Self::decode(&read_rows(tx, ids).await?)?;
        match broken.into_iter().next() {
            Some(broken) => Err(broken.fault),
            None => Ok(changes),
        }
    }

    /// The same, but those that cannot be understood are buried at `now` and left out.
    pub(super) async fn read_or_bury(tx: &mut Tx, ids: &[JobId], now: Timestamp) -> Result<Self, Fault> {
        let rows = read_rows(tx, ids).await?;
        Self::of_rows(tx, &rows, now).await
    }

    /// Takes jobs from rows of [`hot_columns`]. Those that cannot be understood are buried at `now` and
    /// left out.
    pub(super) async fn of_rows(tx: &mut Tx, rows: &[SqliteRow], now: Timestamp) -> Result<Self, Fault> {
        let (changes, broken) = Self::decode(rows)?;
        corrupt::bury(tx, &broken, now).await?;
        Ok(changes)
    }

    /// Reads the retry policies and crash limits of jobs: [`Changes::facts`] has defaults otherwise,
    /// and for those that cannot be understood, which the next claim buries.
    pub(super) async fn read_policies(&mut self, tx: &mut Tx, indexes: &[usize]) -> Result<(), Fault> {
        static DETAILS: Listed =
            Listed::new("SELECT seq, details FROM mamos_spec WHERE details IS NOT NULL AND seq IN (", 1, ")");
        let seqs: Vec<i64> = indexes.iter().map(|index| self.jobs[*index].seq).collect();
        let found = DETAILS.fetch(&mut tx.connection, &seqs, |values, seq| {
            values.add(*seq);
        });
        self.note_policies(&found.await?)
    }

    /// Writes what was changed since the last call.
    pub(super) async fn write(&mut self, tx: &mut Tx) -> Result<(), Fault> {
        self.write_jobs(tx).await?;
        self.write_history(tx).await?;
        self.write_rare(tx).await
    }

    async fn write_jobs(&mut self, tx: &mut Tx) -> Result<(), Fault> {
        static SUCCEEDED: Listed = Listed::new(
            "UPDATE mamos_job SET state = 5, started_at = v.column2, finished_at = v.column3, settled = epoch \
             FROM (VALUES ",
            3,
            ") AS v WHERE mamos_job.seq = v.column1",
        );
        static CHANGED: Listed = Listed::new(
            "UPDATE mamos_job SET state = v.column2, run_at = v.column3, session = v.column4, \
             attempt = v.column5, crashes = v.column6, deliveries = v.column7, is_cancel = v.column8, \
             started_at = v.column9, finished_at = v.column10, deadline = v.column11, settled = v.column12 \
             FROM (VALUES ",
            12,
            ") AS v WHERE mamos_job.seq = v.column1",
        );
        let changed: Vec<&HotJob> = self
            .jobs
            .iter()
            .zip(&self.is_changed)
            .filter(|(_, is_changed)| **is_changed)
            .map(|(job, _)| job)
            .collect();
        let (succeeded, changed): (Vec<&HotJob>, Vec<&HotJob>) =
            changed.into_iter().partition(|job| state_number(job.state) == 5);
        let done = SUCCEEDED.execute(&mut tx.connection, &succeeded, |values, job| {
            let at = |time: Option<Timestamp>| time.map(Timestamp::as_micros);
            values.add(job.seq).add(at(job.started_at)).add(at(job.finished_at));
        });
        done.await?;
        let done = CHANGED.execute(&mut tx.connection, &changed, |values, job| {
            let at = |time: Option<Timestamp>| time.map(Timestamp::as_micros);
            values
                .add(job.seq)
                .add(state_number(job.state))
                .add(job.run_at.as_micros())
                .add(job.session)
                .add(i64::from(job.counters.attempt))
                .add(i64::from(job.counters.crashes))
                .add(i64::from(job.counters.deliveries))
                .add(i64::from(job.is_cancel))
                .add(at(job.started_at))
                .add(at(job.finished_at))
                .add(at(job.deadline))
                .add(job.settled.number() as i64);
        });
        done.await?;
        self.is_changed.fill(false);
        Ok(())
    }

    async fn write_history(&mut self, tx: &mut Tx) -> Result<(), Fault> {
        static ENDED: Listed = Listed::new(
            "INSERT INTO mamos_attempt (seq, epoch, is_late, attempt, session, leased_at, started_at, ended_at, \
             end, code, message) SELECT column1, column2, 0, column3, column4, column5, column6, column7, \
             column8, column9, column10 FROM (VALUES ",
            10,
            ") WHERE column1 IS NOT NULL",
        );
        let ended = std::mem::take(&mut self.ended);
        let done = ENDED.execute(&mut tx.connection, &ended, |values, run| {
            let failure = run.failure.as_ref();
            values
                .add(run.seq)
                .add(run.epoch.number() as i64)
                .add(i64::from(run.attempt))
                .add(run.session)
                .add(run.leased_at.unwrap_or(run.ended_at).as_micros())
                .add(run.started_at.map(Timestamp::as_micros))
                .add(run.ended_at.as_micros())
                .add(end_number(run.end))
                .add(failure.map(|failure| failure.code.clone()))
                .add(failure.map(|failure| failure.message.clone()));
        });
        done.await?;
        Ok(())
    }

    async fn write_rare(&mut self, tx: &mut Tx) -> Result<(), Fault> {
        static FAILURES: Listed = Listed::new(
            "INSERT OR REPLACE INTO mamos_failure (seq, code, message) SELECT column1, column2, column3 FROM (VALUES ",
            3,
            ") WHERE column1 IS NOT NULL",
        );
        static NO_FAILURES: Listed = Listed::new("DELETE FROM mamos_failure WHERE seq IN (", 1, ")");
        static OUTPUTS: Listed = Listed::new(
            "INSERT INTO mamos_output (seq, output) SELECT column1, column2 FROM (VALUES ",
            2,
            ") WHERE column1 IS NOT NULL",
        );
        static CANCELS: Listed = Listed::new(
            "INSERT OR REPLACE INTO mamos_cancel (seq, reason, grace_us) SELECT column1, column2, column3 FROM (VALUES ",
            3,
            ") WHERE column1 IS NOT NULL",
        );
        static NO_CANCELS: Listed = Listed::new("DELETE FROM mamos_cancel WHERE seq IN (", 1, ")");
        static PROGRESS: Listed = Listed::new(
            "INSERT OR REPLACE INTO mamos_progress (seq, epoch, percent, note) \
             SELECT column1, column2, column3, column4 FROM (VALUES ",
            4,
            ") WHERE column1 IS NOT NULL",
        );
        static LOGS: Listed = Listed::new(
            "INSERT INTO mamos_log (seq, epoch, start, stream, bytes) \
             SELECT column1, column2, column3, column4, column5 FROM (VALUES ",
            5,
            ") WHERE column1 IS NOT NULL",
        );
        let connection = &mut tx.connection;
        let (failures, none) = apart(std::mem::take(&mut self.failures));
        let done = FAILURES.execute(connection, &failures, |values, (seq, failure)| {
            values.add(*seq).add(failure.code.clone()).add(failure.message.clone());
        });
        done.await?;
        let done = NO_FAILURES.execute(connection, &none, |values, seq| {
            values.add(*seq);
        });
        done.await?;
        let (cancels, none) = apart(std::mem::take(&mut self.cancels));
        let done = CANCELS.execute(connection, &cancels, |values, (seq, request)| {
            let grace = i64::try_from(request.grace.as_micros()).unwrap_or(i64::MAX);
            values.add(*seq).add(request.reason.clone()).add(grace);
        });
        done.await?;
        let done = NO_CANCELS.execute(connection, &none, |values, seq| {
            values.add(*seq);
        });
        done.await?;
        let outputs = std::mem::take(&mut self.outputs);
        let done = OUTPUTS.execute(connection, &outputs, |values, (seq, output)| {
            values.add(*seq).add(output.as_ref());
        });
        done.await?;
        let progress: Vec<(i64, (Epoch, Progress))> =
            std::mem::take(&mut self.progress).into_iter().collect();
        let done = PROGRESS.execute(connection, &progress, |values, (seq, (epoch, progress))| {
            let percent = progress.percent.map(f64::from);
            values.add(*seq).add(epoch.number() as i64).add(percent).add(progress.note.clone());
        });
        done.await?;
        let logs = std::mem::take(&mut self.logs);
        let done = LOGS.execute(connection, &logs, |values, (seq, epoch, piece)| {
            values
                .add(*seq)
                .add(epoch.number() as i64)
                .add(piece.offset as i64)
                .add(stream_number(piece.stream))
                .add(piece.bytes.as_ref());
        });
        done.await?;
        Ok(())
    }
}

/// The rows of the jobs with these ids.
async fn read_rows(tx: &mut Tx, ids: &[JobId]) -> Result<Vec<SqliteRow>, Fault> {
    static JOBS: Listed =
        Listed::new(concat!("SELECT ", hot_columns!(), " FROM mamos_job j WHERE j.id IN ("), 1, ")");
    let found = JOBS.fetch(&mut tx.connection, ids, |values, id| {
        values.add(id.as_bytes().as_slice());
    });
    found.await
}
