//! How often a job is tried.

use std::time::Duration;

use garde::Validate;
use mamos_core::job::retry::{Backoff, RetryPolicy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::millis;

/// The longest wait between two attempts, in milliseconds: 30 days.
const MAX_WAIT_MS: u64 = 30 * 24 * 3600 * 1000;

/// How often a job is tried, and how long to wait between attempts: `first_ms`, then `factor` times longer
/// each time, at most `max_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Validate, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"max_attempts": 5, "first_ms": 1000, "factor": 2, "max_ms": 3_600_000, "jitter": 0.2}))]
pub(crate) struct Retry {
    /// Attempts in all, the first included.
    #[garde(range(min = 1))]
    #[schema(minimum = 1, default = 5)]
    max_attempts: u32,
    /// The wait after the first attempt.
    #[garde(range(max = MAX_WAIT_MS))]
    #[schema(maximum = 2_592_000_000_u64, default = 1000)]
    first_ms: u64,
    /// How many times longer each wait is than the one before; 1 for the same wait each time.
    #[garde(range(min = 1))]
    #[schema(minimum = 1, default = 2)]
    factor: u32,
    /// No wait is longer.
    #[garde(range(max = MAX_WAIT_MS))]
    #[schema(maximum = 2_592_000_000_u64, default = 3_600_000)]
    max_ms: u64,
    /// The part of each wait that is random.
    #[garde(range(min = 0.0, max = 1.0))]
    #[schema(minimum = 0.0, maximum = 1.0, default = 0.2)]
    jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        RetryPolicy::default().into()
    }
}

impl From<RetryPolicy> for Retry {
    fn from(policy: RetryPolicy) -> Self {
        let (first, factor, max) = match policy.backoff {
            Backoff::Fixed { delay } => (delay, 1, delay),
            Backoff::Exponential { first, factor, max } => (first, factor, max),
        };
        Self {
            max_attempts: policy.max_attempts,
            first_ms: millis(first),
            factor,
            max_ms: millis(max),
            jitter: if policy.jitter.is_finite() { policy.jitter } else { 0.0 },
        }
    }
}

impl From<Retry> for RetryPolicy {
    fn from(retry: Retry) -> Self {
        let backoff = Backoff::Exponential {
            first: Duration::from_millis(retry.first_ms),
            factor: retry.factor,
            max: Duration::from_millis(retry.max_ms),
        };
        Self { max_attempts: retry.max_attempts, backoff, jitter: retry.jitter }
    }
}
