//! Which messages have arrived before.

/// Messages this far behind the newest are still taken. More than a bus reorders, and a whole window of the
/// protocol (64 frames) in parts.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// The numbers that have arrived, of the newest 1024.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    newest: u64,
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Has this number not arrived yet? `false` too if it is too old to tell.
    pub(super) fn is_new(&self, number: u64) -> bool {
        if number > self.newest {
            return true;
        }
        // Numbers begin at 1.
        number > 0 && self.newest - number < WINDOW && self.seen[word(number)] & bit(number) == 0
    }

    /// A number that is new has arrived.
    pub(super) fn note(&mut self, number: u64) {
        if number > self.newest {
            if number - self.newest >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.newest + 1..number {
                    self.seen[word(skipped)] &= !bit(skipped);
                }
            }
            self.newest = number;
        }
        self.seen[word(number)] |= bit(number);
    }
}

fn word(number: u64) -> usize {
    ((number % WINDOW) / 64) as usize
}

fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a set of all numbers would, within the window.
        #[test]
        fn each_number_is_new_once(steps in proptest::collection::vec(-1100i64..1100, 1..400)) {
            let (mut window, mut all, mut at) = (ReplayWindow::default(), BTreeSet::new(), 2000i64);
            for step in steps {
                at = (at + step / 3).max(1);
                let number = u64::try_from(at).unwrap();
                let newest = all.last().copied().unwrap_or(0);
                let expected = number > newest || (newest - number < WINDOW && !all.contains(&number));
                prop_assert_eq!(window.is_new(number), expected, "{} after {}", number, newest);
                if expected {
                    window.note(number);
                    all.insert(number);
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_range_do_no_harm() {
        let mut window = ReplayWindow::default();
        assert!(!window.is_new(0) && window.is_new(u64::MAX));
        window.note(u64::MAX);
        assert!(!window.is_new(u64::MAX) && window.is_new(u64::MAX - 1) && !window.is_new(1));
    }
}
