use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::Timestamp;
use mamos_core::agent::{Attempt, Cancellation, LogStream, Reporter};
use mamos_core::clock::Clock;
use mamos_core::job::{Counters, Progress};
use mamos_core::lease::RunRef;
use tokio::time::Instant;

/// What a handler knows of its attempt, and how it speaks while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JobContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    run: RunRef,
    counters: Counters,
    ends_at: Option<Instant>,
    deadline: Option<Timestamp>,
    traceparent: Option<Arc<str>>,
    cancellation: Cancellation,
    reporter: Reporter,
    clock: Arc<dyn Clock>,
}

impl JobContext {
    /// The context of an attempt that starts now.
    pub(super) fn of(attempt: Attempt, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            run: attempt.run,
            counters: attempt.counters,
            ends_at: attempt.timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            deadline: attempt.deadline,
            traceparent: attempt.traceparent,
            cancellation: attempt.cancellation,
            reporter: attempt.reporter,
            clock,
        }))
    }

    /// The run: job and epoch. Pass it on as a fencing token to whatever the handler writes to.
    pub fn run_ref(&self) -> RunRef {
        self.0.run
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.counters.attempt
    }

    /// The number of this attempt, and how often the job's agent was lost or the job not started.
    pub fn counters(&self) -> Counters {
        self.0.counters
    }

    /// Says how far the attempt is: `0.0..=100.0`, or `None` if that cannot be known. Never waits;
    /// older progress that was not sent yet is dropped.
    pub fn progress(&self, percent: impl Into<Option<f32>>, note: impl Into<String>) {
        self.0.reporter.progress(Progress::new(percent.into(), note));
    }

    /// Appends to the run's log. Waits while the link is slow or cut and too much is unsent.
    pub async fn log(&self, text: impl Into<String>) {
        self.0.reporter.log(LogStream::Stdout, Bytes::from(text.into())).await;
    }

    /// Fires when the attempt should stop: cancelled, out of time, or given back.
    pub fn cancellation(&self) -> &Cancellation {
        &self.0.cancellation
    }

    /// Should the attempt stop?
    pub fn is_cancelled(&self) -> bool {
        self.0.cancellation.is_cancelled()
    }

    /// Waits until the attempt should stop; gives the time that it has for that.
    pub async fn cancelled(&self) -> Duration {
        self.0.cancellation.cancelled().await
    }

    /// When the job is given up, by the orchestrator's clock.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.0.deadline
    }

    /// How much time is left until the timeout of the attempt or the deadline of the job, whichever
    /// comes first; `None` if there is neither.
    pub fn remaining(&self) -> Option<Duration> {
        let of_attempt = self.0.ends_at.map(|at| at.saturating_duration_since(Instant::now()));
        let of_job = self.0.deadline.map(|at| at.since(self.0.clock.now()));
        of_attempt.into_iter().chain(of_job).min()
    }

    /// W3C trace context of the enqueuer.
    pub fn traceparent(&self) -> Option<&str> {
        self.0.traceparent.as_deref()
    }
}
