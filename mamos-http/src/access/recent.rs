//! A map that holds what was used lately, and never more than so much.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Keeps at least the last half of its capacity of what was put into it, and at most all of it.
///
/// Two maps: when the young one is half of the capacity it becomes the old one, and what was old is
/// forgotten. Every operation takes constant time, whoever chooses the keys.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_capacity_and_keeps_the_last_half() {
        let mut recent = Recent::new(100);
        for key in 0..10_000 {
            recent.put(key, key);
            assert!(recent.len() <= 100);
            assert!((0..=key).rev().take(50).all(|key| recent.get(&key) == Some(&key)));
        }
        assert_eq!(recent.get(&1), None);
    }

    #[test]
    fn what_is_put_again_is_there_once() {
        let mut recent = Recent::new(4);
        for (key, value) in [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)] {
            recent.put(key, value);
        }
        assert_eq!((recent.get(&1), recent.len()), (Some(&3), 3));
        recent.remove(&1);
        assert_eq!(recent.get(&1), None);
    }
}
