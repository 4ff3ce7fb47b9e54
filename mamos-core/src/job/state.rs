//! The state machine of a job, as one pure function.
//!
//! `docs/state-machines.md` shows the same table; a test compares the two.

use serde::{Deserialize, Serialize};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for an approval, or for other jobs.
    Blocked,
    /// Waits for its time: delayed, backing off, or snoozed.
    Scheduled,
    /// May be claimed.
    Ready,
    /// Claimed for an agent that has not yet said that it started.
    Leased,
    /// The agent said that it started.
    Running,
    /// Ended well. Final.
    Succeeded,
    /// Given up. Final, but for an explicit redrive.
    Dead,
    /// Cancelled on request. Final.
    Cancelled,
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobEvent {
    /// What it waited for came true.
    Unblock,
    /// Its time came.
    Promote,
    /// An agent's session claimed it.
    Claim,
    /// The agent said that it started.
    Start,
    /// It was given back without having ended, or its session was lost.
    Return,
    /// The attempt succeeded.
    Succeed,
    /// Not now: the attempt failed and may be tried again, or it was snoozed.
    Postpone,
    /// It was given up: no attempts left, a permanent failure, too many crashes, or past its deadline.
    Bury,
    /// It was cancelled.
    Cancel,
    /// Someone asked to try it again.
    Redrive,
}

/// The event cannot happen in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state:?} cannot {event:?}")]
pub struct IllegalTransition {
    /// The state, which stays as it is.
    pub state: JobState,
    /// The event that was refused.
    pub event: JobEvent,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 8] = [
        Self::Blocked,
        Self::Scheduled,
        Self::Ready,
        Self::Leased,
        Self::Running,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
    ];

    /// The state after the event.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if the event cannot happen in this state.
    pub fn after(self, event: JobEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Blocked, JobEvent::Unblock) => Ok(Self::Ready),
            (Self::Scheduled, JobEvent::Promote) => Ok(Self::Ready),
            (Self::Ready, JobEvent::Claim) => Ok(Self::Leased),
            (Self::Leased, JobEvent::Start) => Ok(Self::Running),
            (Self::Leased | Self::Running, JobEvent::Return) => Ok(Self::Ready),
            // From `Leased` too: the frame that says "started" may be lost or come late.
            (Self::Leased | Self::Running, JobEvent::Succeed) => Ok(Self::Succeeded),
            (Self::Leased | Self::Running, JobEvent::Postpone) => Ok(Self::Scheduled),
            (state, JobEvent::Bury) if !state.is_final() => Ok(Self::Dead),
            (state, JobEvent::Cancel) if !state.is_final() => Ok(Self::Cancelled),
            (Self::Dead, JobEvent::Redrive) => Ok(Self::Ready),
            (state, event) => Err(IllegalTransition { state, event }),
        }
    }

    /// Has the job ended?
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }

    /// Does a session hold the job?
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Leased | Self::Running)
    }

    /// The stable name: in databases, frames and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl JobEvent {
    /// All events.
    pub const ALL: [Self; 10] = [
        Self::Unblock,
        Self::Promote,
        Self::Claim,
        Self::Start,
        Self::Return,
        Self::Succeed,
        Self::Postpone,
        Self::Bury,
        Self::Cancel,
        Self::Redrive,
    ];
}

/// The whole table in Markdown: a row a state, a column an event, `·` where the event is illegal.
pub fn table() -> String {
    crate::table::render("state", &JobState::ALL, &JobEvent::ALL, |state, event| state.after(event).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_the_one_in_the_docs() {
        let docs = include_str!("../../../docs/state-machines.md");
        assert!(docs.contains(&table()), "docs/state-machines.md lacks this table:\n{}", table());
    }

    #[test]
    fn a_final_state_never_changes_but_by_redrive() {
        for state in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            for event in JobEvent::ALL {
                let redrive = (state, event) == (JobState::Dead, JobEvent::Redrive);
                assert_eq!(state.after(event).is_ok(), redrive, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn only_a_ready_job_can_be_claimed() {
        for state in JobState::ALL {
            assert_eq!(state.after(JobEvent::Claim).is_ok(), state == JobState::Ready);
        }
    }
}
