//! What people do to jobs, decided between reading and writing them.

use std::collections::HashMap;

use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, SessionId};
use mamos_core::job::state::{JobEvent, JobState};
use mamos_core::job::{CancelRequest, Counters};
use mamos_core::store::{CancelVerdict, ChangeVerdict};

use super::changes::Changes;
use super::fault::Fault;
use super::rows::corrupt;

impl Changes {
    /// The numbers of the sessions that hold these jobs, for [`Changes::cancel`].
    pub(crate) fn sessions(&self) -> Vec<i64> {
        self.jobs.iter().filter(|job| job.state.is_held()).filter_map(|job| job.session).collect()
    }

    /// Cancels jobs, or asks those who hold them to.
    pub(crate) fn cancel(
        &mut self,
        ids: &[JobId],
        request: &CancelRequest,
        sessions: &HashMap<i64, SessionId>,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>, Fault> {
        let mut verdicts = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(index) = self.find(*id) else {
                verdicts.push(CancelVerdict::Missing);
                continue;
            };
            let job = self.job(index);
            let state = job.state;
            if state.is_held() {
                let session = job.session.and_then(|number| sessions.get(&number)).copied();
                let session = session.ok_or_else(|| corrupt("session of a held job", "it is missing"))?;
                verdicts.push(CancelVerdict::Requested { run: job.run(), session });
                if !job.is_cancel {
                    self.set_cancel(index, Some(request));
                }
                continue;
            }
            verdicts.push(match state.after(JobEvent::Cancel) {
                Err(_) => CancelVerdict::AlreadyEnded(state),
                Ok(cancelled) => {
                    if !job.is_cancel {
                        self.set_cancel(index, Some(request));
                    }
                    let job = self.change(index);
                    job.state = cancelled;
                    job.finished_at = Some(now);
                    CancelVerdict::Cancelled
                }
            });
        }
        Ok(verdicts)
    }

    /// Which of these jobs that is, and what it becomes when that happens to it; else why it does not.
    pub(crate) fn after(&self, id: JobId, event: JobEvent) -> Result<(usize, JobState), ChangeVerdict> {
        let index = self.find(id).ok_or(ChangeVerdict::Missing)?;
        let state = self.job(index).state;
        state.after(event).map(|next| (index, next)).map_err(|_| ChangeVerdict::Refused(state))
    }

    /// Begins a job again, and gives the number of its lane.
    pub(crate) fn redrive(&mut self, index: usize, state: JobState, now: Timestamp) -> i64 {
        self.set_cancel(index, None);
        let job = self.change(index);
        job.state = state;
        job.counters = Counters::default();
        job.deadline = None;
        job.run_at = now;
        job.finished_at = None;
        job.lane
    }

    /// Lets a job go that waited for somebody's word, and gives the number of its lane.
    pub(crate) fn approve(&mut self, index: usize, state: JobState, now: Timestamp) -> i64 {
        let job = self.change(index);
        job.state = state;
        job.run_at = now;
        job.lane
    }
}
