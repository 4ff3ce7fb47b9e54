//! Lets only so much through in a second.

use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;

/// How many are let through in a second.
const PER_SECOND: u32 = 100;

/// Counts what happens in each second.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    second: Mutex<(i64, u32)>,
}

impl Throttle {
    /// Is there room for one more in this second?
    pub(crate) fn admits(&self, now: Timestamp) -> bool {
        let second = now.as_micros().div_euclid(1_000_000);
        let mut counted = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != second {
            *counted = (second, 0);
        }
        counted.1 = counted.1.saturating_add(1);
        counted.1 <= PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_in_a_second_and_as_many_in_the_next() {
        let throttle = Throttle::default();
        let passed = |at: i64| (0..1000).filter(|_| throttle.admits(Timestamp::from_micros(at))).count();
        assert_eq!((passed(0), passed(999_999), passed(1_000_000)), (100, 0, 100));
    }
}
