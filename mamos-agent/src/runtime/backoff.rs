//! When to connect again.

use std::time::Duration;

/// Full jitter over a bound that doubles with every failure.
///
/// # Source
///
/// Brooker, "Exponential Backoff and Jitter" (2015): full jitter spreads a crowd best.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    pub(super) fn new(first: Duration, max: Duration, seed: u64) -> Self {
        Self { first, max, failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The wait before the next try, never longer than `limit`.
    pub(super) fn next_delay(&mut self, limit: Duration) -> Duration {
        let bound = self.first.saturating_mul(2u32.saturating_pow(self.failures.min(31)));
        let bound = bound.min(self.max).min(limit);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(self.random.f64())
    }

    /// A wait as after many failures: for what will not be over in a moment.
    pub(super) fn long_delay(&mut self) -> Duration {
        self.max.mul_f64(self.random.f64())
    }

    /// The link was stable for a while: the next failure is the first again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// A part of `interval` between 70 and 100 percent, so that a crowd does not beat at once.
    pub(super) fn spread(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(0.7 + 0.3 * self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_are_spread() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(30));
        let mut backoff = Backoff::new(first, max, 1);
        let delays: Vec<Duration> = (0..200).map(|_| backoff.next_delay(Duration::MAX)).collect();
        assert!(delays[0] <= first && delays[1] <= 2 * first && delays[2] <= 4 * first);
        assert!(delays.iter().all(|delay| *delay <= max));
        // Half of the late ones lie below half of the bound, more or less.
        let low = delays[20..].iter().filter(|delay| **delay < max / 2).count();
        assert!((60..120).contains(&low), "{low}");
        let limit = Duration::from_secs(1);
        assert!((0..200).all(|_| backoff.next_delay(limit) <= limit), "the limit of the moment counts too");
        backoff.reset();
        assert!(backoff.next_delay(Duration::MAX) <= first);
    }

    #[test]
    fn long_waits_are_spread_over_the_whole_bound_at_once() {
        let max = Duration::from_secs(30);
        let mut backoff = Backoff::new(Duration::from_millis(100), max, 1);
        let delays: Vec<Duration> = (0..200).map(|_| backoff.long_delay()).collect();
        assert!(delays.iter().all(|delay| *delay <= max));
        let low = delays.iter().filter(|delay| **delay < max / 2).count();
        assert!((70..130).contains(&low), "{low}");
    }
}
