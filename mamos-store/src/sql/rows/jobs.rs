//! What people see of a job: its record, and its runs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::id::{AgentId, JobId, SessionId};
use mamos_core::job::lane::Lane;
use mamos_core::job::state::JobState;
use mamos_core::job::{AttemptEnd, AttemptRecord, CancelRequest, ClaimedJob, Failure, JobRecord, Progress};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::HeldJob;

use super::{Cells, Details, Fault, HotJob, attempt_end, parse, small};

/// The columns that [`job_record`] reads behind those of the hot table.
macro_rules! record_columns {
    () => {
        "s.created_at, s.payload, s.details, n.id, n.agent, c.reason, c.grace_us, p.epoch, p.percent, p.note, \
         o.output, f.code, f.message"
    };
}
pub(crate) use record_columns;

/// All that is kept of a job, whose part in the hot table was read before.
pub(crate) fn job_record(row: &impl Cells, job: HotJob, lane: Arc<Lane>) -> Result<JobRecord, Fault> {
    const REST: usize = HotJob::COLUMNS;
    let details = match row.maybe_text(REST + 2).and_then(Details::decode) {
        // Someone must be able to see why it was buried.
        Err(fault) if job.state == JobState::Dead && fault.is_content() => Details::default(),
        details => details?,
    };
    let spec = details.into_spec(&job, lane, row.blob(REST + 1)?)?;
    let session = row.maybe_uuid(REST + 3)?.map(SessionId::from_uuid);
    let agent = maybe_agent(row, REST + 4)?;
    let cancel = match row.maybe_text(REST + 5)? {
        Some(reason) if job.is_cancel => {
            let grace = Duration::from_micros(row.int(REST + 6)?.max(0) as u64);
            Some(CancelRequest { reason: reason.to_owned(), grace })
        }
        _ => None,
    };
    // What an earlier run said is of no interest once a later one has begun.
    let progress = match row.maybe_int(REST + 7)? {
        Some(epoch) if epoch as u64 == job.epoch.number() => Some(Progress {
            percent: row.maybe_float(REST + 8)?.map(|percent| percent as f32),
            note: row.text(REST + 9)?.to_owned(),
        }),
        _ => None,
    };
    let is_success = job.state == JobState::Succeeded;
    let output = row.maybe_bytes(REST + 10)?.map(Bytes::copy_from_slice);
    let failure = match row.maybe_text(REST + 11)? {
        Some(code) if !is_success => {
            Some(Failure { code: code.to_owned(), message: row.text(REST + 12)?.to_owned() })
        }
        _ => None,
    };
    Ok(JobRecord {
        spec,
        state: job.state,
        epoch: job.epoch,
        counters: job.counters,
        created_at: row.time(REST)?,
        run_at: job.run_at,
        session,
        agent,
        leased_at: job.leased_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        cancel,
        progress,
        // Empty outputs are not stored.
        output: is_success.then(|| output.unwrap_or_default()),
        failure,
    })
}

/// The same, of a job that a session holds.
pub(crate) fn held_job(record: JobRecord) -> HeldJob {
    HeldJob {
        is_started: record.state == JobState::Running,
        cancel: record.cancel,
        claimed: ClaimedJob {
            run: RunRef { job: record.spec.id, epoch: record.epoch },
            lane: record.spec.lane.id(),
            kind: record.spec.lane.kind().clone(),
            payload: record.spec.payload,
            counters: record.counters,
            timeout: record.spec.timeout,
            deadline: record.spec.deadline,
            ready_since: record.run_at,
            traceparent: record.spec.traceparent,
        },
    }
}

/// All runs of a job in order; late evidence after the run it claims to be.
///
/// `row` has the columns of the hot table, and the id and the agent of the session. The ends of earlier runs have
/// `epoch, is_late, attempt, leased_at, started_at`, when and how they ended, `code, message`, and the same of
/// their sessions.
pub(crate) fn attempts<R: Cells>(row: &R, job: &HotJob, ends: &[R]) -> Result<Vec<AttemptRecord>, Fault> {
    let mut attempts = Vec::with_capacity(ends.len() + 1);
    for end in ends {
        attempts.push(ended_attempt(end, job.id)?);
    }
    // The run that goes on and the one that succeeded stand in the job.
    let is_success = job.state == JobState::Succeeded;
    if job.state.is_held() || is_success {
        attempts.push(AttemptRecord {
            run: job.run(),
            attempt: job.counters.attempt,
            session: row.maybe_uuid(HotJob::COLUMNS)?.map(SessionId::from_uuid),
            agent: maybe_agent(row, HotJob::COLUMNS + 1)?,
            leased_at: job.leased_at.unwrap_or_default(),
            started_at: job.started_at,
            ended_at: job.finished_at.filter(|_| is_success),
            end: is_success.then_some(AttemptEnd::Succeeded),
            failure: None,
            is_late: false,
        });
        attempts.sort_by_key(|attempt| (attempt.run.epoch, attempt.is_late));
    }
    Ok(attempts)
}

fn ended_attempt(row: &impl Cells, job: JobId) -> Result<AttemptRecord, Fault> {
    let message = row.maybe_text(8)?.unwrap_or_default().to_owned();
    Ok(AttemptRecord {
        run: RunRef { job, epoch: Epoch::from_number(row.int(0)? as u64) },
        attempt: small(row.int(2)?, "attempt")?,
        session: row.maybe_uuid(9)?.map(SessionId::from_uuid),
        agent: maybe_agent(row, 10)?,
        leased_at: row.time(3)?,
        started_at: row.maybe_time(4)?,
        ended_at: row.maybe_time(5)?,
        end: Some(attempt_end(row.int(6)?)?),
        failure: row.maybe_text(7)?.map(|code| Failure { code: code.to_owned(), message }),
        is_late: row.int(1)? != 0,
    })
}

fn maybe_agent(row: &impl Cells, index: usize) -> Result<Option<AgentId>, Fault> {
    match row.maybe_text(index)? {
        None => Ok(None),
        Some(_) => parse(row, index, "agent").map(Some),
    }
}
