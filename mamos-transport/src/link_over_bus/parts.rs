//! Frames that are larger than a message travel in parts.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mamos_core::transport::Encoding;
use mamos_core::{Error, ErrorKind, Result};

/// What precedes a part: the number of its frame, its own, and how many there are.
pub(super) const PART_BYTES: usize = 8 + 4 + 4;
/// The most frames that are put together at once. Parts of a frame follow each other, so only those that
/// overtook or were lost keep more than one open.
const MAX_OPEN: usize = 2;
/// A part but the last has this many bytes at least, so that small ones cannot fill the memory.
pub(super) const MIN_PART_BYTES: usize = 1024;

/// The head of a part.
pub(super) fn head(frame: u64, index: u32, count: u32) -> [u8; PART_BYTES] {
    let mut head = [0; PART_BYTES];
    (&mut head[..]).put_u64(frame);
    (&mut head[8..]).put_u32(index);
    (&mut head[12..]).put_u32(count);
    head
}

/// Puts frames together from their parts, in bounded memory.
#[derive(Debug)]
pub(super) struct Assembly {
    max_frame_bytes: usize,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    encoding: Encoding,
    bytes: usize,
    count: u32,
    parts: BTreeMap<u32, Bytes>,
}

/// What a part brought about.
#[derive(Debug, Default)]
pub(super) struct Assembled {
    /// A frame that is whole now.
    pub(super) frame: Option<Bytes>,
    /// How many others were given up for room.
    pub(super) given_up: u64,
}

impl Assembly {
    pub(super) fn new(max_frame_bytes: usize) -> Self {
        Self { max_frame_bytes, open: BTreeMap::new() }
    }

    /// Takes a part.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`] if it does not fit to the others.
    /// - [`ErrorKind::LimitExceeded`] if the frame is too large.
    pub(super) fn take(&mut self, encoding: Encoding, mut part: Bytes) -> Result<Assembled> {
        if part.len() <= PART_BYTES {
            return Err(corrupt());
        }
        let (frame, index, count) = (part.get_u64(), part.get_u32(), part.get_u32());
        if index >= count || count as usize > self.max_frame_bytes / MIN_PART_BYTES + 1 {
            return Err(corrupt());
        }
        let mut assembled = Assembled::default();
        if !self.open.contains_key(&frame) && self.open.len() >= MAX_OPEN {
            self.open.pop_first();
            assembled.given_up += 1;
        }
        let fresh = Open { encoding, bytes: 0, count, parts: BTreeMap::new() };
        let open = self.open.entry(frame).or_insert(fresh);
        if open.encoding != encoding || open.count != count || open.parts.contains_key(&index) {
            return Err(corrupt());
        }
        open.bytes += part.len();
        if open.bytes > self.max_frame_bytes {
            let message = format!("a frame in parts is over the limit of {} bytes", self.max_frame_bytes);
            return Err(Error::new(ErrorKind::LimitExceeded, "link.receive", message));
        }
        open.parts.insert(index, part);
        if open.parts.len() == count as usize {
            assembled.frame = self.open.remove(&frame).map(Open::join);
        }
        Ok(assembled)
    }
}

impl Open {
    fn join(self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.bytes);
        for part in self.parts.into_values() {
            whole.extend_from_slice(&part);
        }
        whole.freeze()
    }
}

fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "link.receive", "a part of a frame does not fit to the others")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(frame: u64, index: u32, count: u32, content: &[u8]) -> Bytes {
        [&head(frame, index, count)[..], content].concat().into()
    }

    #[test]
    fn parts_may_come_in_any_order() {
        let mut assembly = Assembly::new(10_000);
        for (index, content) in [(2, b"c"), (0, b"a")] {
            let taken = assembly.take(Encoding::Text, part(7, index, 3, content)).unwrap();
            assert!(taken.frame.is_none());
        }
        let taken = assembly.take(Encoding::Text, part(7, 1, 3, b"b")).unwrap();
        assert_eq!(taken.frame.unwrap(), "abc");
        assert!(assembly.open.is_empty());
    }

    #[test]
    fn frames_with_lost_parts_make_room() {
        let mut assembly = Assembly::new(10_000);
        let given_up: u64 = (0..1000)
            .map(|frame| assembly.take(Encoding::Text, part(frame, 0, 2, b"a")).unwrap().given_up)
            .sum();
        assert_eq!((assembly.open.len(), given_up), (MAX_OPEN, 1000 - MAX_OPEN as u64));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut assembly = Assembly::new(3000);
        let mut kind = |encoding, part| assembly.take(encoding, part).unwrap_err().kind();
        assert_eq!(kind(Encoding::Text, Bytes::new()), ErrorKind::Corrupt);
        assert_eq!(kind(Encoding::Text, part(1, 0, 2, b"")), ErrorKind::Corrupt);
        assert_eq!(kind(Encoding::Text, part(1, 2, 2, b"a")), ErrorKind::Corrupt);
        assert_eq!(kind(Encoding::Text, part(1, 0, u32::MAX, b"a")), ErrorKind::Corrupt);
        assert_eq!(kind(Encoding::Text, part(2, 0, 2, &[0; 3001])), ErrorKind::LimitExceeded);
        let mut assembly = Assembly::new(3000);
        assembly.take(Encoding::Text, part(1, 0, 2, b"a")).unwrap();
        for wrong in [part(1, 0, 2, b"a"), part(1, 1, 3, b"a")] {
            assert_eq!(assembly.take(Encoding::Text, wrong).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let binary = assembly.take(Encoding::Binary, part(1, 1, 2, b"a"));
        assert_eq!(binary.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
