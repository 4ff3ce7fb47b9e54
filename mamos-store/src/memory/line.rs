//! A line of jobs in order, made for the usual case that each new one goes to the end.

use std::collections::{BTreeMap, VecDeque};

use super::slab::Slot;

/// Marks a place in the queue whose job left out of turn.
const GONE: Slot = Slot::MAX;

/// Slots in the order of unique keys.
///
/// A key that is larger than all before it costs one push; others go through a tree. Taking the first
/// costs one pop. Memory is bounded by twice the number of slots.
#[derive(Debug)]
pub(super) struct Line<K> {
    in_order: VecDeque<(K, Slot)>,
    others: BTreeMap<K, Slot>,
    gone: usize,
}

impl<K> Default for Line<K> {
    fn default() -> Self {
        Self { in_order: VecDeque::new(), others: BTreeMap::new(), gone: 0 }
    }
}

impl<K: Ord + Copy> Line<K> {
    /// Adds a slot.
    pub(super) fn push(&mut self, key: K, slot: Slot) {
        if self.in_order.back().is_none_or(|(last, _)| *last < key) {
            self.in_order.push_back((key, slot));
        } else {
            self.others.insert(key, slot);
        }
    }

    /// The smallest key and its slot.
    pub(super) fn first(&self) -> Option<(K, Slot)> {
        let front = self.in_order.front().copied();
        let other = self.others.first_key_value().map(|(key, slot)| (*key, *slot));
        match (front, other) {
            (Some(front), Some(other)) => Some(if front.0 < other.0 { front } else { other }),
            (front, other) => front.or(other),
        }
    }

    /// Takes the slot with the smallest key.
    pub(super) fn pop_first(&mut self) -> Option<(K, Slot)> {
        let (key, slot) = self.first()?;
        if self.in_order.front().is_some_and(|(front, _)| *front == key) {
            self.in_order.pop_front();
            self.trim();
        } else {
            self.others.remove(&key);
        }
        Some((key, slot))
    }

    /// Takes a slot out, wherever it stands.
    pub(super) fn remove(&mut self, key: K) {
        if self.others.remove(&key).is_some() {
            return;
        }
        let found = self.in_order.binary_search_by(|(other, _)| other.cmp(&key));
        let Ok(index) = found else { return };
        if self.in_order[index].1 == GONE {
            return;
        }
        self.in_order[index].1 = GONE;
        self.gone += 1;
        self.trim();
        if self.gone > 64 && self.gone * 2 > self.in_order.len() {
            self.in_order.retain(|(_, slot)| *slot != GONE);
            self.gone = 0;
        }
    }

    /// Is nothing in it?
    pub(super) fn is_empty(&self) -> bool {
        // The front is never a gap, so a queue with anything in it has a slot.
        self.in_order.is_empty() && self.others.is_empty()
    }

    /// Keeps both ends of the queue free of gaps, so that `first` need not look for them and a key that
    /// left can come back.
    fn trim(&mut self) {
        while self.in_order.front().is_some_and(|(_, slot)| *slot == GONE) {
            self.in_order.pop_front();
            self.gone -= 1;
        }
        while self.in_order.back().is_some_and(|(_, slot)| *slot == GONE) {
            self.in_order.pop_back();
            self.gone -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The standard tree is the model: whatever is done, both hold the same.
        #[test]
        fn a_line_is_a_sorted_map(steps in prop::collection::vec((0..4_u8, 0..40_u32), 0..400)) {
            let (mut line, mut model) = (Line::default(), BTreeMap::new());
            for (what, key) in steps {
                match what {
                    0 | 1 => {
                        if let std::collections::btree_map::Entry::Vacant(entry) = model.entry(key) {
                            entry.insert(key);
                            line.push(key, key);
                        }
                    }
                    2 => {
                        model.remove(&key);
                        line.remove(key);
                    }
                    _ => prop_assert_eq!(line.pop_first(), model.pop_first()),
                }
                prop_assert_eq!(line.first(), model.first_key_value().map(|(k, v)| (*k, *v)));
                prop_assert_eq!(line.is_empty(), model.is_empty());
            }
            while let Some(first) = model.pop_first() {
                prop_assert_eq!(line.pop_first(), Some(first));
            }
            prop_assert!(line.is_empty());
        }
    }
}
