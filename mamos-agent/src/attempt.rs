//! One attempt, guarded: whatever the agent does, it ends with an outcome, in time.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use mamos_core::agent::{Agent, Attempt};
use mamos_core::job::{Failure, Outcome};

/// What bounds an attempt, besides a cancellation from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long until the deadline of its job.
    pub(crate) until_deadline: Option<Duration>,
    /// How long it may take to stop when it is out of time.
    pub(crate) grace: Duration,
    /// The longest output that it may give back.
    pub(crate) max_output_bytes: usize,
}

/// Runs an attempt to its end.
///
/// A panic is a failure with the code `panicked`. An attempt that is out of time is cancelled, has a
/// grace to stop, and is dropped after that: a failure with the code `timeout` or `deadline`. What it
/// says within the grace counts if it is an end of the job. A passed deadline is a retry and not the end
/// of the job, because only the orchestrator's clock can end it.
pub(crate) async fn run_guarded(agent: &dyn Agent, attempt: Attempt, limits: Limits) -> Outcome {
    let cancellation = attempt.cancellation.clone();
    let timeout = attempt.timeout;
    if limits.until_deadline.is_some_and(|left| left.is_zero()) {
        return retry("deadline", "the deadline passed before the attempt began".to_owned());
    }
    // Inside an async block, so that a panic before the first await is caught too.
    let mut work = pin!(AssertUnwindSafe(async { agent.run(attempt).await }).catch_unwind());
    let (grace, late) = tokio::select! {
        biased;
        ended = &mut work => return bounded(outcome_of(ended), limits.max_output_bytes),
        grace = cancellation.cancelled() => (grace, None),
        () = after(timeout) => {
            let message = format!("the attempt took longer than {:?}", timeout.unwrap_or_default());
            (limits.grace, Some(retry("timeout", message)))
        }
        () = after(limits.until_deadline) => {
            (limits.grace, Some(retry("deadline", "the deadline passed during the attempt".to_owned())))
        }
    };
    cancellation.cancel(grace);
    let ended = tokio::time::timeout(grace, &mut work).await.ok().map(outcome_of);
    match (ended, late) {
        (Some(outcome @ (Outcome::Succeeded { .. } | Outcome::Bury { .. })), _) | (Some(outcome), None) => {
            bounded(outcome, limits.max_output_bytes)
        }
        (_, Some(late)) => late,
        (None, None) => Outcome::Cancelled,
    }
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn outcome_of(ended: Result<Outcome, Box<dyn Any + Send>>) -> Outcome {
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        retry("panicked", text.unwrap_or("the panic has no message").to_owned())
    })
}

fn bounded(outcome: Outcome, max_output_bytes: usize) -> Outcome {
    match outcome {
        Outcome::Succeeded { output } if output.len() > max_output_bytes => {
            let message =
                format!("the output of {} bytes is over the limit of {max_output_bytes}", output.len());
            Outcome::Bury { failure: Failure::new("output_too_large", message) }
        }
        outcome => outcome,
    }
}

fn retry(code: &str, message: String) -> Outcome {
    Outcome::Retry { failure: Failure::new(code, message), after: None }
}
