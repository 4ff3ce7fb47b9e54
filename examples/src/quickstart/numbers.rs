//! A typed job and its handler.

use std::time::Duration;

use mamos_agent::{JobContext, JobError};
use mamos_core::Job;
use serde::{Deserialize, Serialize};

/// Squares a number, and takes some milliseconds for it, as if it asked another service.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Square {
    pub(super) number: u64,
    pub(super) takes_ms: u64,
}

impl Job for Square {
    const KIND: &'static str = "numbers.square";
    type Output = u64;
}

/// What an agent does for a [`Square`]. An error here would be tried again, by the job's policy.
pub(super) async fn square(job: Square, _context: JobContext) -> Result<u64, JobError> {
    tokio::time::sleep(Duration::from_millis(job.takes_ms)).await;
    job.number.checked_mul(job.number).ok_or_else(|| JobError::permanent("the square is too large"))
}
