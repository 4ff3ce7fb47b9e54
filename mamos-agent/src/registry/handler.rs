use std::future::Future;
use std::marker::PhantomData;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::Job;
use mamos_core::job::{Failure, Outcome};

use super::{JobContext, JobError};

/// Code for one kind of job.
///
/// Every `async fn(J, JobContext) -> Result<J::Output, JobError>` is one; implement it for a struct to
/// give a handler state of its own.
pub trait Handler<J: Job>: Send + Sync + 'static {
    /// Runs one attempt.
    ///
    /// Dropping the future must stop the work: that is how an attempt ends that does not stop by itself
    /// when [cancelled](JobContext::cancelled). Work that blocks its thread belongs on
    /// `tokio::task::spawn_blocking`; nothing can stop it otherwise.
    fn run(&self, job: J, context: JobContext) -> impl Future<Output = Result<J::Output, JobError>> + Send;
}

impl<J, F, Fut> Handler<J> for F
where
    J: Job,
    F: Fn(J, JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<J::Output, JobError>> + Send,
{
    fn run(&self, job: J, context: JobContext) -> impl Future<Output = Result<J::Output, JobError>> + Send {
        self(job, context)
    }
}

/// A handler whose types are forgotten: bytes in, outcome out.
#[async_trait]
pub(super) trait ErasedHandler: Send + Sync {
    async fn run(&self, payload: Bytes, context: JobContext) -> Outcome;
}

pub(super) struct Typed<J, H> {
    handler: H,
    job: PhantomData<fn() -> J>,
}

impl<J, H> Typed<J, H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, job: PhantomData }
    }
}

#[async_trait]
impl<J: Job, H: Handler<J>> ErasedHandler for Typed<J, H> {
    async fn run(&self, payload: Bytes, context: JobContext) -> Outcome {
        let job: J = match serde_json::from_slice(&payload) {
            Ok(job) => job,
            Err(error) => {
                let message = format!("the arguments are not those of a `{}`: {error}", J::KIND);
                return Outcome::Bury { failure: Failure::new("undecodable", message) };
            }
        };
        drop(payload);
        match self.handler.run(job, context).await {
            Ok(output) => match serde_json::to_vec(&output) {
                Ok(output) => Outcome::Succeeded { output: output.into() },
                Err(error) => {
                    let message = format!("the output of a `{}` cannot be written down: {error}", J::KIND);
                    Outcome::Bury { failure: Failure::new("unencodable", message) }
                }
            },
            Err(error) => error.into_outcome(),
        }
    }
}
