//! What was dropped, and why.

use std::sync::Mutex;

use super::lock;

/// How many messages were dropped by the links of a listener or a connector, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Messages that were not made with the keys of the link that they came on: forged, changed on the
    /// way, or from another link or direction.
    pub forged: u64,
    /// Messages that had arrived before, or are so old that this cannot be told.
    pub replayed: u64,
    /// Frames that arrived while nobody received and there was no room left.
    pub overflowed: u64,
    /// Frames of which parts were missing when others needed the room.
    pub incomplete: u64,
    /// Messages that the bus did not take: signs of life, frames, parts of one or several in one.
    pub unpublished: u64,
    /// Messages that are none, and hellos and answers that came too often or not from whom they should.
    pub unusable: u64,
    /// Hellos that were refused, because of a bound.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<LinkCounts>);

impl Counts {
    pub(super) fn add(&self, add: impl FnOnce(&mut LinkCounts)) {
        add(&mut lock(&self.0));
    }

    pub(super) fn get(&self) -> LinkCounts {
        *lock(&self.0)
    }
}
