//! How an attempt ends, and the history of attempts.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::cut;
use crate::clock::Timestamp;
use crate::id::{AgentId, SessionId};
use crate::lease::RunRef;

/// The longest failure message, in bytes; longer ones are cut.
pub const MAX_FAILURE_BYTES: usize = 8 * 1024;

/// Why an attempt did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable word that programs can compare, for example `exit_code`, `panicked`, `timeout`.
    pub code: String,
    /// What happened, for people. At most 8 KiB.
    pub message: String,
}

impl Failure {
    /// A failure with a code and a message, both cut to their bounds.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let (mut code, mut message) = (code.into(), message.into());
        cut(&mut code, crate::id::MAX_NAME_BYTES);
        cut(&mut message, MAX_FAILURE_BYTES);
        Self { code, message }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// How an attempt ended, as the agent reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it was asked.
    Succeeded {
        /// What it gives back, opaque to the engine.
        #[serde(with = "crate::wire::payload")]
        output: Bytes,
    },
    /// It failed; another attempt may succeed.
    Retry {
        /// Why.
        failure: Failure,
        /// The wait before the next attempt; `None` leaves it to the job's policy.
        #[serde(
            with = "crate::wire::optional_millis",
            rename = "after_ms",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        after: Option<Duration>,
    },
    /// It failed, and no further attempt can succeed.
    Bury {
        /// Why.
        failure: Failure,
    },
    /// Not now. Does not count as an attempt.
    Snooze {
        /// How long to wait.
        #[serde(with = "crate::wire::millis", rename = "delay_ms")]
        delay: Duration,
    },
    /// It stopped because it was asked to.
    Cancelled,
}

/// How a run ended, as it stands in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The attempt succeeded.
    Succeeded,
    /// It failed, and the job was to be tried again.
    Retried,
    /// It failed, and the job was given up.
    Buried,
    /// It was put off.
    Snoozed,
    /// It was cancelled.
    Cancelled,
    /// The agent was lost after it had started.
    Crashed,
    /// It came back without an end: not started, or given back by a draining agent.
    Returned,
    /// The deadline of the job passed.
    Overdue,
}

impl AttemptEnd {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Succeeded,
        Self::Retried,
        Self::Buried,
        Self::Snoozed,
        Self::Cancelled,
        Self::Crashed,
        Self::Returned,
        Self::Overdue,
    ];

    /// The stable name: in databases and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Retried => "retried",
            Self::Buried => "buried",
            Self::Snoozed => "snoozed",
            Self::Cancelled => "cancelled",
            Self::Crashed => "crashed",
            Self::Returned => "returned",
            Self::Overdue => "overdue",
        }
    }
}

/// One run of a job, as it stands in the history.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// The run.
    pub run: RunRef,
    /// The number of the attempt; the same for several runs if some of them crashed.
    pub attempt: u32,
    /// The session that held it.
    pub session: Option<SessionId>,
    /// The agent of that session.
    pub agent: Option<AgentId>,
    /// When it was claimed.
    pub leased_at: Timestamp,
    /// When the agent said that it started.
    pub started_at: Option<Timestamp>,
    /// When it ended; `None` while it goes on.
    pub ended_at: Option<Timestamp>,
    /// How it ended; `None` while it goes on.
    pub end: Option<AttemptEnd>,
    /// Why it did not succeed.
    pub failure: Option<Failure>,
    /// Did this report come after the run had lost its lease? Then it is evidence only, and changed
    /// nothing.
    pub is_late: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_failures_are_cut_at_a_character() {
        let failure = Failure::new("ä".repeat(100), "ä".repeat(10_000));
        assert_eq!(failure.code.len(), 128);
        assert_eq!(failure.message.len(), MAX_FAILURE_BYTES);
        let odd = Failure::new("c", format!("x{}", "ä".repeat(10_000)));
        assert_eq!(odd.message.len(), MAX_FAILURE_BYTES - 1);
    }
}
