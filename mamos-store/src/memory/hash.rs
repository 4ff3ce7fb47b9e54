//! A hash for ids: much cheaper than the standard one, and seeded, because enqueuers may choose ids.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map keyed by ids.
pub(super) type IdMap<K, V> = HashMap<K, V, IdHash>;

/// Odd, with well mixed bits: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes [`IdHasher`]s with one seed a map, so that nobody can prepare ids that collide.
#[derive(Debug, Clone)]
pub(super) struct IdHash {
    seed: u64,
}

impl Default for IdHash {
    fn default() -> Self {
        Self { seed: RandomState::new().hash_one(FACTOR) }
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { state: self.seed }
    }
}

/// Folds each word in with one wide multiplication.
#[derive(Debug)]
pub(super) struct IdHasher {
    state: u64,
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product =
            u128::from(self.state ^ word).wrapping_mul(u128::from(FACTOR ^ self.state.rotate_left(32)));
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write_usize(&mut self, length: usize) {
        // The lengths that precede slices are the same for all ids.
        self.state = self.state.wrapping_add(length as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use mamos_core::{JobId, Timestamp};

    use super::*;

    #[test]
    fn neighbouring_ids_spread_over_all_buckets() {
        let hash = IdHash::default();
        let mut buckets = [0; 128];
        for n in 0..12_800_u128 {
            let id = JobId::from_parts(Timestamp::from_micros(1_700_000_000_000_000), n);
            // The map takes the bucket from the low bits and a tag from the top seven.
            buckets[(hash.hash_one(id) % 64) as usize] += 1;
            buckets[64 + (hash.hash_one(id) >> 58) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| (100..320).contains(count)), "{buckets:?}");
    }
}
