use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use mamos_core::job::{Failure, Outcome};

type Source = Box<dyn StdError + Send + Sync>;

/// The honest ways in which an attempt can end other than by success.
///
/// `?` turns any error into a [retry](JobError::retry). For that reason this type is not itself a
/// [`std::error::Error`].
#[derive(Debug)]
pub struct JobError(Outcome);

impl JobError {
    /// It failed; another attempt may succeed. The job's policy says when, and whether there is one.
    /// Failure code: `failed`.
    pub fn retry(source: impl Into<Source>) -> Self {
        Self(Outcome::Retry { failure: failure(&*source.into()), after: None })
    }

    /// It failed; another attempt may succeed after the given wait. The job's policy still says whether
    /// there is one. Failure code: `failed`.
    pub fn retry_after(source: impl Into<Source>, delay: Duration) -> Self {
        Self(Outcome::Retry { failure: failure(&*source.into()), after: Some(delay) })
    }

    /// It failed, and no further attempt can succeed: the job is buried. Failure code: `failed`.
    pub fn permanent(source: impl Into<Source>) -> Self {
        Self(Outcome::Bury { failure: failure(&*source.into()) })
    }

    /// Not now: try again after the given wait. Does not count as an attempt.
    pub fn snooze(delay: Duration) -> Self {
        Self(Outcome::Snooze { delay })
    }

    /// It stopped because it was asked to.
    pub fn cancelled() -> Self {
        Self(Outcome::Cancelled)
    }

    /// Gives the failure a code of your own, which programs can compare. At most 128 bytes. Changes
    /// nothing if there is no failure.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        if let Outcome::Retry { failure, .. } | Outcome::Bury { failure } = &mut self.0 {
            *failure = Failure::new(code, std::mem::take(&mut failure.message));
        }
        self
    }

    /// How the attempt ended.
    pub fn into_outcome(self) -> Outcome {
        self.0
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for JobError {
    fn from(source: E) -> Self {
        Self::retry(source)
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Outcome::Retry { failure, .. } | Outcome::Bury { failure } => failure.fmt(f),
            Outcome::Snooze { delay } => write!(f, "snoozed for {delay:?}"),
            Outcome::Cancelled => f.write_str("cancelled"),
            Outcome::Succeeded { .. } => f.write_str("succeeded"),
        }
    }
}

/// The error and its causes on one line.
fn failure(source: &(dyn StdError + 'static)) -> Failure {
    let mut message = source.to_string();
    // Bounded: a chain of causes could be a ring.
    let mut next = source.source();
    for _ in 0..16 {
        let Some(cause) = next else { break };
        next = cause.source();
        let cause = cause.to_string();
        // Many errors already print their cause.
        if !message.ends_with(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    Failure::new("failed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot send the mail")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn a_question_mark_means_retry_and_names_the_causes() {
        fn attempt() -> Result<(), JobError> {
            "x".parse::<u8>().map_err(Outer)?;
            Ok(())
        }
        let outcome = attempt().unwrap_err().into_outcome();
        let Outcome::Retry { failure, after: None } = outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.code, "failed");
        assert_eq!(failure.message, "cannot send the mail: invalid digit found in string");
    }

    #[test]
    fn a_code_of_your_own_replaces_the_general_one() {
        let outcome = JobError::permanent("no such user").with_code("smtp.550").into_outcome();
        assert_eq!(outcome, Outcome::Bury { failure: Failure::new("smtp.550", "no such user") });
        let snoozed = JobError::snooze(Duration::from_secs(1)).with_code("x");
        assert_eq!(snoozed.to_string(), "snoozed for 1s");
    }
}
