//! How often somebody may do something.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::recent::Recent;

/// How many callers one limiter remembers; 2 MiB or so. One that was forgotten starts anew, so that a flood
/// of addresses costs no more memory and locks nobody out.
const CAPACITY: usize = 16_384;

/// How often something may happen: so often at once, and once more after every period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    burst: u32,
    every: Duration,
}

impl Rate {
    /// `burst` at once, at least 1, and one more after `every`.
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self { burst: if burst == 0 { 1 } else { burst }, every }
    }

    /// So many in a second, and `burst` at once.
    pub fn per_second(rate: u32, burst: u32) -> Self {
        Self::new(burst, Duration::from_secs(1) / rate.max(1))
    }

    fn whole(&self) -> Duration {
        self.every.saturating_mul(self.burst)
    }
}

/// How much of a [`Rate`] somebody has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// How much there is at most.
    pub(crate) limit: u32,
    /// How much is left.
    pub(crate) remaining: u32,
    /// After how long all of it is there again.
    pub(crate) full_after: Duration,
    /// Set if nothing was left: how long to wait.
    pub(crate) wait: Option<Duration>,
}

/// Counts by key, in bounded memory: the generic cell rate algorithm (ITU-T I.371), which needs one time a
/// key.
///
/// Not the `governor` crate: its tables grow with the keys, and it can neither look without taking nor
/// give back.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    rate: Rate,
    /// When all of the rate is there again.
    full_at: Mutex<Recent<K, Instant>>,
}

impl<K: Eq + Hash> Limiter<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, full_at: Mutex::new(Recent::new(CAPACITY)) }
    }

    /// Takes one, if one is left.
    pub(crate) fn take(&self, key: K) -> Allowance {
        let (now, mut table) = (Instant::now(), self.table());
        let full_at = table.get(&key).copied();
        let before = self.allowance(full_at, now);
        if before.wait.is_some() {
            return before;
        }
        let full_at = full_at.map_or(now, |at| at.max(now)) + self.rate.every;
        table.put(key, full_at);
        Allowance { wait: None, ..self.allowance(Some(full_at), now) }
    }

    /// What would [`Limiter::take`] say?
    pub(crate) fn look(&self, key: &K) -> Allowance {
        let full_at = self.table().get(key).copied();
        self.allowance(full_at, Instant::now())
    }

    /// Gives back one that was taken.
    pub(crate) fn give_back(&self, key: K) {
        let mut table = self.table();
        if let Some(full_at) = table.get(&key).and_then(|at| at.checked_sub(self.rate.every)) {
            table.put(key, full_at);
        }
    }

    fn allowance(&self, full_at: Option<Instant>, now: Instant) -> Allowance {
        let full_after = full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let left = self.rate.whole().saturating_sub(full_after);
        let remaining = match left.as_nanos().checked_div(self.rate.every.as_nanos()) {
            Some(remaining) => u32::try_from(remaining).unwrap_or(u32::MAX),
            None => self.rate.burst,
        };
        let wait = (remaining == 0).then(|| self.rate.every.saturating_sub(left));
        Allowance { limit: self.rate.burst, remaining, full_after, wait }
    }

    fn table(&self) -> MutexGuard<'_, Recent<K, Instant>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address, as limits count it: IPv6 by the network of 64 bits that one customer has at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place(u128);

impl Place {
    /// Callers whose address is not known share one.
    pub(crate) fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self(0),
            // As mapped into IPv6, which no network of 64 bits collides with.
            Some(IpAddr::V4(address)) => Self(u128::from(address.to_ipv6_mapped())),
            Some(IpAddr::V6(address)) => Self(u128::from(address) >> 64 << 64),
        }
    }
}

/// Limits failures by the address that they come from: wrong tokens, joins of agents that were refused.
///
/// IPv6 is counted by the network of 64 bits. Its memory is bounded; addresses that it forgets start
/// anew.
#[derive(Debug)]
pub struct FailureLimiter(Limiter<Place>);

impl FailureLimiter {
    /// Lets so many failures happen.
    pub fn new(rate: Rate) -> Self {
        Self(Limiter::new(rate))
    }

    /// How long somebody at this address must wait because of earlier failures; `None` if they may try.
    pub fn wait(&self, from: Option<IpAddr>) -> Option<Duration> {
        self.0.look(&Place::of(from)).wait
    }

    /// Counts a failure.
    pub fn count(&self, from: Option<IpAddr>) {
        let _ = self.0.take(Place::of(from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> Limiter<u32> {
        Limiter::new(Rate::new(3, Duration::from_secs(10)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_through_and_then_one_a_period() {
        let limiter = limiter();
        let left = || {
            let allowance = limiter.take(1);
            (allowance.remaining, allowance.wait.map(|wait| wait.as_secs()))
        };
        assert_eq!([left(), left(), left()], [(2, None), (1, None), (0, None)]);
        assert_eq!(left(), (0, Some(10)));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(left(), (0, Some(6)), "a refused try costs nothing");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!((left(), left()), ((0, None), (0, Some(10))));
        assert_eq!(limiter.look(&1).full_after, Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!([left(), left(), left()], [(2, None), (1, None), (0, None)], "no more than the burst");
    }

    #[tokio::test(start_paused = true)]
    async fn looking_costs_nothing_and_what_is_given_back_is_there() {
        let limiter = limiter();
        for _ in 0..9 {
            assert_eq!(limiter.look(&1).remaining, 3);
            limiter.take(1);
            limiter.give_back(1);
        }
        limiter.give_back(2);
        assert_eq!(limiter.look(&2).remaining, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_neither_grows_the_memory_nor_locks_out_others() {
        let limiter = limiter();
        for key in 0..200_000 {
            assert_eq!(limiter.take(key).wait, None, "{key}");
        }
        assert!(limiter.table().len() <= CAPACITY);
    }

    #[test]
    fn addresses_are_counted_by_what_one_customer_has() {
        let place = |text: &str| Place::of(Some(text.parse().unwrap()));
        assert_eq!(place("2001:db8:1:2:3:4:5:6"), place("2001:db8:1:2::"));
        assert_ne!(place("2001:db8:1:2::"), place("2001:db8:1:3::"));
        assert_ne!(place("192.0.2.1"), place("192.0.2.2"));
        assert_eq!(place("192.0.2.1"), place("::ffff:192.0.2.1"));
    }
}
