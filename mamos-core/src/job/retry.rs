//! When to try again: attempt and jitter in, delay out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest delay that a policy can give: 30 days.
pub const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often a job is tried, and how long to wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. Crashes and snoozes do not count. Default: 5; at least 1.
    pub max_attempts: u32,
    /// The wait before the next attempt. Default: exponential from 1 s, doubling, at most 1 h.
    pub backoff: Backoff,
    /// The part of each wait that is random, `0.0..=1.0`. Default: 0.2.
    ///
    /// A wait of 10 s with a jitter of 0.2 becomes one between 8 s and 10 s.
    pub jitter: f64,
}

/// The wait before the next attempt, without jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Backoff {
    /// The same wait each time.
    Fixed {
        /// The wait.
        delay: Duration,
    },
    /// A wait that grows.
    Exponential {
        /// The wait after the first attempt.
        first: Duration,
        /// How many times longer each wait is than the one before. At least 1.
        factor: u32,
        /// No wait is longer.
        max: Duration,
    },
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(3600));
        Self { max_attempts: 5, backoff: Backoff::Exponential { first, factor: 2, max }, jitter: 0.2 }
    }
}

impl RetryPolicy {
    /// One attempt only.
    pub fn never() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }

    /// The same wait between all attempts, without jitter.
    pub fn fixed(max_attempts: u32, delay: Duration) -> Self {
        Self { max_attempts, backoff: Backoff::Fixed { delay }, jitter: 0.0 }
    }

    /// A wait that doubles from `first` to `max`, with the default jitter.
    pub fn exponential(max_attempts: u32, first: Duration, max: Duration) -> Self {
        Self { max_attempts, backoff: Backoff::Exponential { first, factor: 2, max }, ..Self::default() }
    }

    /// The wait after the given attempt (1 is the first) has failed.
    ///
    /// `random` is in `0.0..1.0`, from the caller, so that this stays a pure function. At most
    /// [`MAX_DELAY`].
    pub fn delay_after(&self, attempt: u32, random: f64) -> Duration {
        let delay = match self.backoff {
            Backoff::Fixed { delay } => delay,
            Backoff::Exponential { first, factor, max } => {
                let growth = f64::from(factor.max(1)).powi(attempt.saturating_sub(1).min(1024) as i32);
                // Infinity and NaN (0 s times infinity) both end at the cap.
                let seconds = (first.as_secs_f64() * growth).min(max.as_secs_f64());
                Duration::try_from_secs_f64(seconds).unwrap_or(max)
            }
        };
        let delay = delay.min(MAX_DELAY);
        let jitter = if self.jitter.is_finite() { self.jitter.clamp(0.0, 1.0) } else { 0.0 };
        delay.mul_f64(1.0 - jitter * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn exponential_waits_double_up_to_the_cap() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::exponential(9, SECOND, 60 * SECOND) };
        let waits: Vec<u64> = (1..=8).map(|n| policy.delay_after(n, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn jitter_only_shortens() {
        let policy = RetryPolicy { jitter: 0.2, ..RetryPolicy::fixed(3, 10 * SECOND) };
        assert_eq!(policy.delay_after(1, 0.0), 10 * SECOND);
        assert_eq!(policy.delay_after(1, 1.0), 8 * SECOND);
    }

    proptest! {
        #[test]
        fn any_policy_gives_a_bounded_delay(
            attempt: u32, factor: u32, first: u64, max: u64, jitter: f64, random: f64,
        ) {
            let backoff = Backoff::Exponential {
                first: Duration::from_millis(first),
                factor,
                max: Duration::from_millis(max),
            };
            let policy = RetryPolicy { max_attempts: 3, backoff, jitter };
            prop_assert!(policy.delay_after(attempt, random) <= MAX_DELAY);
        }
    }
}
