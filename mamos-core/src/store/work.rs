//! What goes in and out when jobs are stored, claimed, reported on and swept.

use std::sync::Arc;

use bytes::Bytes;

use crate::agent::LogStream;
use crate::clock::Timestamp;
use crate::id::{AgentId, JobId, SessionId};
use crate::job::lane::{Lane, LaneId};
use crate::job::state::JobState;
use crate::job::{ClaimedJob, Outcome, Progress};
use crate::lease::{RunRef, SessionRef, Verdict};

/// What became of a job that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// The id of the job.
    pub id: JobId,
    /// What became of it.
    pub result: EnqueueResult,
}

/// See [`Enqueued`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnqueueResult {
    /// Stored, in this state.
    Stored(JobState),
    /// The same job was stored earlier, and is in this state now.
    Repeat(JobState),
    /// Not stored: another job has its unique key.
    UniqueKeyTaken {
        /// The job that has it.
        by: JobId,
    },
    /// Not stored: another job, with another lane or payload, has its id.
    IdTaken,
}

/// Takers that can all run the jobs of the same lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimGroup {
    /// The lanes to take from.
    pub lanes: Vec<LaneId>,
    /// Who takes, and how many each.
    pub takers: Vec<Taker>,
}

/// A session with room for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taker {
    /// The session.
    pub session: SessionRef,
    /// How many jobs it takes at most.
    pub limit: u32,
}

/// What a claim gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claimed {
    /// The jobs, each list for one session; sessions that got none are left out.
    pub jobs: Vec<(SessionId, Vec<ClaimedJob>)>,
    /// Takers whose session is not current.
    pub stale: Vec<SessionId>,
    /// When the next scheduled job of any lane is due, if one is.
    pub next_due: Option<Timestamp>,
    /// Did a bound of the store's own, and not the limits of the takers, end the claim, so that more
    /// jobs may be ready right now?
    pub has_more: bool,
}

/// One report about a run, with the session it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct RunWrite {
    /// The session, known from the channel and not from the message.
    pub session: SessionId,
    /// The run.
    pub run: RunRef,
    /// What to write.
    pub report: Report,
}

/// What an agent reports about a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It started. Repeats change nothing.
    Started,
    /// How far it is.
    Progress(Progress),
    /// What it printed.
    Log(LogPiece),
    /// How it ended.
    Settle(Outcome),
    /// It is given back: not started, or stopped without having ended.
    Release,
}

/// A piece of a run's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The position of its first byte in the log of the run.
    pub offset: u64,
    /// Where it came from.
    pub stream: LogStream,
    /// What was printed.
    pub bytes: Bytes,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// Whether it was written.
    pub verdict: Verdict,
    /// The state of the job afterwards; `None` if there is no such job.
    pub state: Option<JobState>,
    /// When the job may run again, if this report postponed it or gave it back.
    pub run_at: Option<Timestamp>,
}

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Swept {
    /// How many jobs became ready because their time had come.
    pub promoted: u32,
    /// The lanes that got ready jobs, by promotion or rescue.
    pub lanes: Vec<Arc<Lane>>,
    /// Runs whose session was lost, and the state of the job afterwards.
    pub rescued: Vec<(RunRef, JobState)>,
    /// Jobs that were buried because their deadline had passed; the run is the one that held it, or
    /// the last.
    pub overdue: Vec<RunRef>,
    /// Sessions that were lost.
    pub lost: Vec<(SessionId, AgentId)>,
    /// When something is due next: a scheduled job, a deadline or the expiry of a session.
    pub next_due: Option<Timestamp>,
    /// Was a limit met, so that another sweep has more to do right now?
    pub has_more: bool,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelVerdict {
    /// It is cancelled now.
    Cancelled,
    /// It is held: its agent must stop it.
    Requested {
        /// The run to stop.
        run: RunRef,
        /// The session that holds it.
        session: SessionId,
    },
    /// It had ended before.
    AlreadyEnded(JobState),
    /// There is no such job.
    Missing,
}

/// What became of a redrive or an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeVerdict {
    /// It is ready now.
    Ready(LaneId),
    /// Its state does not allow that.
    Refused(JobState),
    /// Its unique key is held by another job now.
    UniqueKeyTaken {
        /// The job that has it.
        by: JobId,
    },
    /// There is no such job.
    Missing,
}

/// Deals `jobs` jobs to takers with these limits in rounds, as
/// [`JobStore::claim`](crate::store::JobStore::claim) promises: the answer is the index of the taker of each job.
pub fn deal(jobs: usize, limits: &[u32]) -> Vec<usize> {
    let mut left: Vec<(usize, u32)> =
        limits.iter().copied().enumerate().filter(|(_, limit)| *limit > 0).collect();
    let mut dealt = Vec::with_capacity(jobs);
    while dealt.len() < jobs && !left.is_empty() {
        for (taker, limit) in &mut left {
            if dealt.len() == jobs {
                break;
            }
            dealt.push(*taker);
            *limit -= 1;
        }
        left.retain(|(_, limit)| *limit > 0);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_dealt_in_rounds() {
        assert_eq!(deal(5, &[2, 0, 9]), [0, 2, 0, 2, 2]);
        assert_eq!(deal(9, &[1, 2]), [0, 1, 1]);
        assert!(deal(3, &[]).is_empty());
        assert!(deal(0, &[4]).is_empty());
    }
}
