//! Runs a handler once, without an orchestrator: for tests of handlers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::agent::{Agent, Attempt, Cancellation, LogStream, ReportSink, Reporter};
use mamos_core::id::JobKind;
use mamos_core::job::{Counters, Outcome, Progress};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::{Error, ErrorKind, Job, JobId, Result};

use crate::attempt::{Limits, run_guarded};

/// What an attempt did.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried<T> {
    /// How it ended.
    pub outcome: Outcome,
    /// What it gave back, if it succeeded.
    pub output: Option<T>,
    /// Everything that it said about how far it was, in order.
    pub progress: Vec<Progress>,
    /// What it printed. Bytes that are not UTF-8 are replaced.
    pub log: String,
}

/// Runs a job once with an agent, with the timeout of the job's policy, as its first attempt.
///
/// # Errors
///
/// - [`ErrorKind::Invalid`]: the kind is not a valid name, or the job cannot be written down.
/// - [`ErrorKind::Corrupt`]: what the attempt gave back is not the output of such a job.
///
/// # Examples
///
/// ```
/// use mamos_agent::{HandlerRegistry, JobContext, JobError, testing};
/// use mamos_core::{AgentKind, Job};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greet(String);
///
/// impl Job for Greet {
///     const KIND: &'static str = "greet";
///     type Output = String;
/// }
///
/// async fn greet(job: Greet, context: JobContext) -> Result<String, JobError> {
///     context.log("on it\n").await;
///     Ok(format!("hello {}", job.0))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> mamos_core::Result<()> {
/// let registry = HandlerRegistry::new(AgentKind::new("test")?, "test").register::<Greet, _>(greet)?;
/// let tried = testing::run_once(&registry, &Greet("Ann".to_owned())).await?;
/// assert_eq!(tried.output.as_deref(), Some("hello Ann"));
/// assert_eq!(tried.log, "on it\n");
/// # Ok(())
/// # }
/// ```
pub async fn run_once<J: Job>(agent: &dyn Agent, job: &J) -> Result<Tried<J::Output>> {
    run_attempt(agent, job, 1, Cancellation::new()).await
}

/// Runs a job once, as the given attempt, with a cancellation that the test can fire.
///
/// # Errors
///
/// As [`run_once`].
pub async fn run_attempt<J: Job>(
    agent: &dyn Agent,
    job: &J,
    attempt: u32,
    cancellation: Cancellation,
) -> Result<Tried<J::Output>> {
    let payload = serde_json::to_vec(job).map_err(|error| {
        Error::new(ErrorKind::Invalid, "testing.run", "the job cannot be written down").with_source(error)
    })?;
    let sink = Arc::new(Sink::default());
    let run = RunRef { job: JobId::from_key("testing"), epoch: Epoch::from_number(1) };
    let attempt = Attempt {
        run,
        kind: JobKind::new(J::KIND)?,
        payload: payload.into(),
        counters: Counters { attempt, ..Counters::default() },
        timeout: J::policy().timeout,
        deadline: None,
        traceparent: None,
        cancellation,
        reporter: Reporter::new(run, sink.clone()),
    };
    let limits =
        Limits { until_deadline: None, grace: Duration::from_secs(10), max_output_bytes: 1024 * 1024 };
    let outcome = run_guarded(agent, attempt, limits).await;
    let output = match &outcome {
        Outcome::Succeeded { output } => Some(serde_json::from_slice(output).map_err(|error| {
            let message = format!("what was given back is not the output of a `{}`", J::KIND);
            Error::new(ErrorKind::Corrupt, "testing.run", message).with_source(error)
        })?),
        _ => None,
    };
    let said = std::mem::take(&mut *sink.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Tried {
        outcome,
        output,
        progress: said.progress,
        log: String::from_utf8_lossy(&said.log).into_owned(),
    })
}

#[derive(Debug, Default)]
struct Sink(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    progress: Vec<Progress>,
    log: Vec<u8>,
}

#[async_trait]
impl ReportSink for Sink {
    fn progress(&self, _: RunRef, progress: Progress) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).progress.push(progress);
    }

    async fn log(&self, _: RunRef, _: LogStream, _: u64, bytes: Bytes) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).log.extend_from_slice(&bytes);
    }
}
