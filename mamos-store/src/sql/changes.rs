//! Jobs that are read, changed in memory as the rules say, and written back together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::rules::{Next, RunFacts};
use mamos_core::job::{AttemptEnd, CancelRequest, Failure, Progress};
use mamos_core::lease::Epoch;
use mamos_core::store::LogPiece;

use super::fault::{Fault, readable};
use super::rows::{Cells, Details, HotJob};

/// A job that cannot be understood.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Its number within its database.
    pub(crate) seq: i64,
    /// Its id, if that can be understood.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite finds jobs by their numbers"))]
    pub(crate) id: Option<JobId>,
    /// Why.
    pub(crate) fault: Fault,
}

/// The jobs that one operation changes. Whoever changes one calls [`Changes::change`], and whoever is
/// done calls [`Changes::write`].
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) jobs: Vec<HotJob>,
    pub(crate) by_id: HashMap<JobId, usize>,
    pub(crate) is_changed: Vec<bool>,
    pub(crate) policies: HashMap<i64, (RetryPolicy, u32)>,
    pub(crate) ended: Vec<EndedRun>,
    pub(crate) failures: HashMap<i64, Option<Failure>>,
    pub(crate) outputs: Vec<(i64, Bytes)>,
    pub(crate) cancels: HashMap<i64, Option<CancelRequest>>,
    pub(crate) progress: HashMap<i64, (Epoch, Progress)>,
    pub(crate) logs: Vec<(i64, Epoch, LogPiece)>,
}

/// A run that did not succeed, for the history.
pub(crate) struct EndedRun {
    pub(crate) seq: i64,
    pub(crate) epoch: Epoch,
    pub(crate) attempt: u32,
    pub(crate) session: Option<i64>,
    pub(crate) leased_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Timestamp,
    pub(crate) end: AttemptEnd,
    pub(crate) failure: Option<Failure>,
}

impl Changes {
    /// Takes jobs from rows of `hot_columns`; those that cannot be understood apart.
    pub(crate) fn decode(rows: &[impl Cells]) -> Result<(Self, Vec<Broken>), Fault> {
        let mut changes = Self::default();
        let mut broken = Vec::new();
        for row in rows {
            let job = match HotJob::decode(row) {
                Ok(job) => job,
                Err(fault) => {
                    broken.push(Broken {
                        seq: row.int(0)?,
                        id: row.uuid(1).ok().map(JobId::from_uuid),
                        fault,
                    });
                    continue;
                }
            };
            // Lists are cut into chunks, and an id may stand in two of them.
            if let Entry::Vacant(entry) = changes.by_id.entry(job.id) {
                entry.insert(changes.jobs.len());
                changes.jobs.push(job);
            }
        }
        changes.is_changed = vec![false; changes.jobs.len()];
        Ok((changes, broken))
    }

    /// Notes the retry policies and crash limits from rows of `seq, details`: [`Changes::facts`] has
    /// defaults otherwise, and for those that cannot be understood, which the next claim buries.
    pub(crate) fn note_policies(&mut self, rows: &[impl Cells]) -> Result<(), Fault> {
        for row in rows {
            let details = row.maybe_text(1).and_then(Details::decode);
            if let Some(details) = readable(details, "details of a job")? {
                self.policies.insert(row.int(0)?, details.policy());
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, id: JobId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn job(&self, index: usize) -> &HotJob {
        &self.jobs[index]
    }

    /// The job, to be changed and written.
    pub(crate) fn change(&mut self, index: usize) -> &mut HotJob {
        self.is_changed[index] = true;
        &mut self.jobs[index]
    }

    /// What the rules need to know of a held job.
    pub(crate) fn facts(&self, index: usize) -> RunFacts {
        let job = &self.jobs[index];
        let (retry, max_crashes) =
            self.policies.get(&job.seq).copied().unwrap_or_else(|| Details::default().policy());
        RunFacts {
            state: job.state,
            counters: job.counters,
            retry,
            max_crashes,
            is_cancel_requested: job.is_cancel,
        }
    }

    /// Ends the current run of a held job as a rule says.
    pub(crate) fn end_run(&mut self, index: usize, next: Next, now: Timestamp) {
        let job = self.change(index);
        let seq = job.seq;
        let ended = EndedRun {
            seq,
            epoch: job.epoch,
            attempt: job.counters.attempt,
            session: job.session,
            leased_at: job.leased_at,
            started_at: job.started_at,
            ended_at: now,
            end: next.end,
            failure: next.failure.clone(),
        };
        job.state = next.state;
        job.counters = next.counters;
        if let Some(run_at) = next.run_at {
            job.run_at = run_at;
        }
        if next.state.is_final() {
            job.finished_at = Some(now);
        }
        if next.end == AttemptEnd::Succeeded {
            // The run stands in the job, and that no failure holds any more follows from the state.
            self.outputs.extend(next.output.filter(|output| !output.is_empty()).map(|output| (seq, output)));
        } else {
            self.ended.push(ended);
            self.failures.insert(seq, next.failure);
        }
    }

    /// Says why a job was given up without a run that could have failed.
    pub(crate) fn give_up(&mut self, index: usize, failure: Failure) {
        self.failures.insert(self.jobs[index].seq, Some(failure));
    }

    /// Notes a request to cancel, or that there is none any more.
    pub(crate) fn set_cancel(&mut self, index: usize, request: Option<&CancelRequest>) {
        let job = self.change(index);
        job.is_cancel = request.is_some();
        let seq = job.seq;
        self.cancels.insert(seq, request.cloned());
    }

    pub(crate) fn set_progress(&mut self, index: usize, progress: Progress) {
        let job = &self.jobs[index];
        self.progress.insert(job.seq, (job.epoch, progress));
    }

    /// Appends to the log of the current run. The piece continues what is stored.
    pub(crate) fn append_log(&mut self, index: usize, piece: LogPiece) {
        let job = &self.jobs[index];
        self.logs.push((job.seq, job.epoch, piece));
    }
}

/// What is to be written, and what is to be removed.
pub(crate) fn apart<T>(changes: HashMap<i64, Option<T>>) -> (Vec<(i64, T)>, Vec<i64>) {
    let (mut written, mut removed) = (Vec::new(), Vec::new());
    for (seq, value) in changes {
        match value {
            Some(value) => written.push((seq, value)),
            None => removed.push(seq),
        }
    }
    (written, removed)
}
