//! What becomes of a job when an attempt ends, its agent is lost, or it is given back.
//!
//! Pure functions that every store applies, so that all stores give the same answers. They cover the
//! whole decision; a store only adds that it is made atomically, for the current run.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::job::retry::{MAX_DELAY, RetryPolicy};
use crate::job::state::{JobEvent, JobState};
use crate::job::{AttemptEnd, Counters, Failure, Outcome};

/// A job that was handed out this often without being started once is buried.
///
/// Far above what flapping links cause; below it nothing is lost, beyond it nothing but load is won.
pub const MAX_DELIVERIES: u32 = 100;

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct RunFacts {
    /// `Leased` or `Running`.
    pub state: JobState,
    /// The counters before the event.
    pub counters: Counters,
    /// The job's policy.
    pub retry: RetryPolicy,
    /// The job's limit of crashes.
    pub max_crashes: u32,
    /// Did someone ask to cancel the job?
    pub is_cancel_requested: bool,
}

/// What to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The state after the event.
    pub state: JobState,
    /// When the job may run again; `None` if it has ended.
    pub run_at: Option<Timestamp>,
    /// The counters after the event.
    pub counters: Counters,
    /// How the run goes into the history.
    pub end: AttemptEnd,
    /// Why the run did not succeed.
    pub failure: Option<Failure>,
    /// What the job produced.
    pub output: Option<bytes::Bytes>,
}

/// The agent reported how the attempt ended. `jitter` is in `0.0..1.0`, see [`RunRef::jitter`].
///
/// [`RunRef::jitter`]: crate::lease::RunRef::jitter
pub fn after_settle(facts: &RunFacts, outcome: Outcome, now: Timestamp, jitter: f64) -> Next {
    let counters = facts.counters;
    match outcome {
        Outcome::Succeeded { output } => {
            let next = Next::ended(facts, JobEvent::Succeed, AttemptEnd::Succeeded, None);
            Next { output: Some(output), ..next }
        }
        Outcome::Cancelled => Next::ended(facts, JobEvent::Cancel, AttemptEnd::Cancelled, None),
        Outcome::Bury { failure } => Next::ended(facts, JobEvent::Bury, AttemptEnd::Buried, Some(failure)),
        Outcome::Retry { failure, .. } if facts.is_cancel_requested => {
            Next::ended(facts, JobEvent::Cancel, AttemptEnd::Cancelled, Some(failure))
        }
        Outcome::Retry { failure, .. } if counters.attempt >= facts.retry.max_attempts => {
            Next::ended(facts, JobEvent::Bury, AttemptEnd::Buried, Some(failure))
        }
        Outcome::Retry { failure, after } => {
            let delay = after.unwrap_or_else(|| facts.retry.delay_after(counters.attempt, jitter));
            let counters = Counters { attempt: counters.attempt.saturating_add(1), ..counters };
            Next::postponed(facts, AttemptEnd::Retried, now, delay, counters, Some(failure))
        }
        Outcome::Snooze { .. } if facts.is_cancel_requested => {
            Next::ended(facts, JobEvent::Cancel, AttemptEnd::Cancelled, None)
        }
        Outcome::Snooze { delay } => Next::postponed(facts, AttemptEnd::Snoozed, now, delay, counters, None),
    }
}

/// The session that held the job was lost, or its agent no longer knows the run.
pub fn after_rescue(facts: &RunFacts, now: Timestamp) -> Next {
    if facts.is_cancel_requested {
        return Next::ended(facts, JobEvent::Cancel, AttemptEnd::Cancelled, None);
    }
    match facts.state {
        JobState::Running => {
            let crashes = facts.counters.crashes.saturating_add(1);
            let counters = Counters { crashes, ..facts.counters };
            let failure =
                Failure::new("crashed", format!("the agent was lost while it ran (crash {crashes})"));
            if crashes >= facts.max_crashes {
                let next = Next::ended(facts, JobEvent::Bury, AttemptEnd::Crashed, Some(failure));
                return Next { counters, ..next };
            }
            Next::returned(facts, AttemptEnd::Crashed, now, counters, Some(failure))
        }
        _ => after_undelivered(facts, now),
    }
}

/// The agent gave the job back: it drains, has no room, or was asked to.
///
/// Costs the job nothing but a delivery if it had not been started.
pub fn after_release(facts: &RunFacts, now: Timestamp) -> Next {
    if facts.is_cancel_requested {
        return Next::ended(facts, JobEvent::Cancel, AttemptEnd::Cancelled, None);
    }
    match facts.state {
        JobState::Running => Next::returned(facts, AttemptEnd::Returned, now, facts.counters, None),
        _ => after_undelivered(facts, now),
    }
}

fn after_undelivered(facts: &RunFacts, now: Timestamp) -> Next {
    let deliveries = facts.counters.deliveries.saturating_add(1);
    let counters = Counters { deliveries, ..facts.counters };
    if deliveries >= MAX_DELIVERIES {
        let failure = Failure::new("undeliverable", format!("handed out {deliveries} times, never started"));
        let next = Next::ended(facts, JobEvent::Bury, AttemptEnd::Returned, Some(failure));
        return Next { counters, ..next };
    }
    Next::returned(facts, AttemptEnd::Returned, now, counters, None)
}

impl Next {
    fn ended(facts: &RunFacts, event: JobEvent, end: AttemptEnd, failure: Option<Failure>) -> Self {
        let state = Self::held(facts, event);
        Self { state, run_at: None, counters: facts.counters, end, failure, output: None }
    }

    fn postponed(
        facts: &RunFacts,
        end: AttemptEnd,
        now: Timestamp,
        delay: Duration,
        counters: Counters,
        failure: Option<Failure>,
    ) -> Self {
        let state = Self::held(facts, JobEvent::Postpone);
        Self { state, run_at: Some(now + delay.min(MAX_DELAY)), counters, end, failure, output: None }
    }

    fn returned(
        facts: &RunFacts,
        end: AttemptEnd,
        now: Timestamp,
        counters: Counters,
        failure: Option<Failure>,
    ) -> Self {
        let state = Self::held(facts, JobEvent::Return);
        Self { state, run_at: Some(now), counters, end, failure, output: None }
    }

    /// Stores check `is_held` before they ask; a job that is not held stays as it is.
    fn held(facts: &RunFacts, event: JobEvent) -> JobState {
        facts.state.after(event).unwrap_or(facts.state)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn facts(state: JobState) -> RunFacts {
        RunFacts {
            state,
            counters: Counters { attempt: 1, crashes: 0, deliveries: 0 },
            retry: RetryPolicy::fixed(3, 10 * SECOND),
            max_crashes: 3,
            is_cancel_requested: false,
        }
    }

    fn failure() -> Failure {
        Failure::new("smtp", "no route to host")
    }

    /// One row a decision: facts, what happened, and then state, run_at, counters as
    /// attempt/crashes/deliveries, how it ended.
    #[test]
    fn the_whole_table_of_decisions() {
        enum What {
            Settle(Outcome),
            Rescue,
            Release,
        }
        use JobState::{Cancelled, Dead, Leased, Ready, Running, Scheduled, Succeeded};
        let with = |state, attempt, crashes, deliveries, cancel| RunFacts {
            counters: Counters { attempt, crashes, deliveries },
            is_cancel_requested: cancel,
            ..facts(state)
        };
        let succeeded = || What::Settle(Outcome::Succeeded { output: Bytes::from_static(b"x") });
        let retry = |after| What::Settle(Outcome::Retry { failure: failure(), after });
        let bury = || What::Settle(Outcome::Bury { failure: failure() });
        let snooze = || What::Settle(Outcome::Snooze { delay: 5 * SECOND });
        let cancelled = || What::Settle(Outcome::Cancelled);
        let at = |seconds| Some(NOW + seconds * SECOND);
        let rows = [
            (with(Running, 1, 0, 0, false), succeeded(), Succeeded, None, (1, 0, 0), AttemptEnd::Succeeded),
            (with(Leased, 1, 0, 0, false), succeeded(), Succeeded, None, (1, 0, 0), AttemptEnd::Succeeded),
            // Work that was done before the cancel arrived is not thrown away.
            (with(Running, 1, 0, 0, true), succeeded(), Succeeded, None, (1, 0, 0), AttemptEnd::Succeeded),
            (with(Running, 1, 0, 0, false), retry(None), Scheduled, at(10), (2, 0, 0), AttemptEnd::Retried),
            (
                with(Running, 2, 1, 4, false),
                retry(Some(SECOND)),
                Scheduled,
                at(1),
                (3, 1, 4),
                AttemptEnd::Retried,
            ),
            (with(Running, 3, 0, 0, false), retry(None), Dead, None, (3, 0, 0), AttemptEnd::Buried),
            (with(Running, 1, 0, 0, true), retry(None), Cancelled, None, (1, 0, 0), AttemptEnd::Cancelled),
            (with(Running, 1, 0, 0, false), bury(), Dead, None, (1, 0, 0), AttemptEnd::Buried),
            (with(Running, 3, 0, 0, false), snooze(), Scheduled, at(5), (3, 0, 0), AttemptEnd::Snoozed),
            (with(Running, 1, 0, 0, true), snooze(), Cancelled, None, (1, 0, 0), AttemptEnd::Cancelled),
            (with(Running, 1, 0, 0, true), cancelled(), Cancelled, None, (1, 0, 0), AttemptEnd::Cancelled),
            (with(Running, 1, 0, 0, false), What::Rescue, Ready, at(0), (1, 1, 0), AttemptEnd::Crashed),
            (with(Running, 1, 2, 0, false), What::Rescue, Dead, None, (1, 3, 0), AttemptEnd::Crashed),
            (with(Running, 1, 0, 0, true), What::Rescue, Cancelled, None, (1, 0, 0), AttemptEnd::Cancelled),
            (with(Leased, 1, 2, 0, false), What::Rescue, Ready, at(0), (1, 2, 1), AttemptEnd::Returned),
            (with(Leased, 1, 0, 99, false), What::Rescue, Dead, None, (1, 0, 100), AttemptEnd::Returned),
            (with(Leased, 1, 0, 0, false), What::Release, Ready, at(0), (1, 0, 1), AttemptEnd::Returned),
            (with(Running, 1, 2, 0, false), What::Release, Ready, at(0), (1, 2, 0), AttemptEnd::Returned),
            (with(Leased, 1, 0, 0, true), What::Release, Cancelled, None, (1, 0, 0), AttemptEnd::Cancelled),
        ];
        for (n, (facts, what, state, run_at, (attempt, crashes, deliveries), end)) in
            rows.into_iter().enumerate()
        {
            let next = match what {
                What::Settle(outcome) => after_settle(&facts, outcome, NOW, 0.5),
                What::Rescue => after_rescue(&facts, NOW),
                What::Release => after_release(&facts, NOW),
            };
            let counters = Counters { attempt, crashes, deliveries };
            assert_eq!(
                (next.state, next.run_at, next.counters, next.end),
                (state, run_at, counters, end),
                "row {n}"
            );
        }
    }

    #[test]
    fn a_handler_cannot_postpone_for_ever() {
        let next =
            after_settle(&facts(JobState::Running), Outcome::Snooze { delay: Duration::MAX }, NOW, 0.0);
        assert_eq!(next.run_at, Some(NOW + MAX_DELAY));
    }
}
