//! Places for values that never move: growing copies nothing, and a place is four bytes.

use std::ops::{Index, IndexMut};

/// Where a value is. Good until it is removed.
pub(super) type Slot = u32;

/// Values a chunk; a chunk is allocated at once.
const CHUNK: usize = 1024;

/// Values at fixed places.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Slot>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Puts a value into a free place.
    pub(super) fn insert(&mut self, value: T) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(value);
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("a chunk with room was made above");
        chunk.push(Some(value));
        (full + chunk.len() - 1) as Slot
    }

    /// Takes the value out; its place is used again.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        let value = self.chunks[slot as usize / CHUNK][slot as usize % CHUNK].take();
        if value.is_some() {
            self.free.push(slot);
        }
        value
    }

    /// All values, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten()
    }
}

impl<T> Index<Slot> for Slab<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
            .as_ref()
            .expect("slots in indexes are filled")
    }
}

impl<T> IndexMut<Slot> for Slab<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
            .as_mut()
            .expect("slots in indexes are filled")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_values_stay_where_they_are() {
        let mut slab = Slab::default();
        let slots: Vec<Slot> = (0..3000).map(|n| slab.insert(n)).collect();
        assert!(slots.iter().enumerate().all(|(n, slot)| slab[*slot] == n));
        assert_eq!(slab.remove(slots[1500]), Some(1500));
        assert_eq!(slab.remove(slots[1500]), None);
        assert_eq!(slab.insert(7), slots[1500]);
        assert_eq!(slab.iter().count(), 3000);
    }
}
