//! Messages larger than the server takes, in parts.
//!
//! The parts go first, then a head that names them. A head goes where a message would go: to everybody, or
//! to one of a group; the parts go to everybody who might get the head, or into a stream of their own.

use std::collections::VecDeque;

use async_nats::HeaderMap;
use bytes::{Bytes, BytesMut};
use mamos_core::bus::MAX_MESSAGE_BYTES;

/// The header of a head: the id of the parts, how many they are, and their bytes.
const HEADER: &str = "Mamos-Parts";
/// Room for the headers of a message, which count as its payload.
pub(super) const HEADER_ROOM: usize = 512;
/// How many messages may be incomplete at one subscription, and with how many bytes; the oldest are given
/// up beyond that. Publishers interleave, so one is not enough.
const MOST_MESSAGES: usize = 16;
const MOST_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// What a head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl Head {
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, format!("{} {} {}", self.id, self.count, self.bytes).as_str());
        headers
    }

    /// `None`: a message that is whole. `Some(None)`: a head that makes no sense.
    pub(super) fn of(headers: Option<&HeaderMap>) -> Option<Option<Self>> {
        let value = headers?.get(HEADER)?.as_str();
        let mut words = value.split(' ');
        let mut read = || {
            let id = words.next().filter(|id| id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()))?;
            let count = words.next()?.parse().ok()?;
            let bytes = words.next()?.parse().ok().filter(|bytes| *bytes <= MAX_MESSAGE_BYTES)?;
            (count > 0 && count <= bytes).then(|| Self { id: id.to_owned(), count, bytes })
        };
        Some(read())
    }
}

/// Splits a payload.
pub(super) fn split(payload: &Bytes, part_bytes: usize) -> Vec<Bytes> {
    let starts = (0..payload.len()).step_by(part_bytes.max(1));
    starts.map(|start| payload.slice(start..payload.len().min(start + part_bytes))).collect()
}

/// Parts that wait for their head.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    incomplete: VecDeque<(String, Vec<Bytes>)>,
    bytes: usize,
}

impl Joiner {
    /// Takes a part; what is missing shows when the head comes.
    pub(super) fn take(&mut self, id: &str, number: usize, part: Bytes) {
        let found = self.incomplete.iter().position(|(other, _)| other == id);
        let index = match found {
            Some(index) => index,
            // A message whose beginning was not seen is none of ours.
            None if number != 0 => return,
            None => {
                self.incomplete.push_back((id.to_owned(), Vec::new()));
                self.incomplete.len() - 1
            }
        };
        let parts = &mut self.incomplete[index].1;
        if parts.len() != number {
            self.forget(index);
            return;
        }
        self.bytes += part.len();
        parts.push(part);
        while self.incomplete.len() > MOST_MESSAGES || self.bytes > MOST_BYTES {
            self.forget(0);
        }
    }

    /// Joins the parts that a head names, if all are there.
    pub(super) fn join(&mut self, head: &Head) -> Option<Bytes> {
        let index = self.incomplete.iter().position(|(id, _)| *id == head.id)?;
        let parts = self.forget(index);
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        if parts.len() != head.count || bytes != head.bytes {
            return None;
        }
        Some(join(&parts))
    }

    fn forget(&mut self, index: usize) -> Vec<Bytes> {
        let parts = self.incomplete.remove(index).map(|(_, parts)| parts).unwrap_or_default();
        self.bytes -= parts.iter().map(Bytes::len).sum::<usize>();
        parts
    }
}

pub(super) fn join(parts: &[Bytes]) -> Bytes {
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn head(count: usize, bytes: usize) -> Head {
        Head { id: ID.to_owned(), count, bytes }
    }

    #[test]
    fn parts_make_the_message_again() {
        let payload = Bytes::from((0..250_u8).collect::<Vec<_>>());
        let parts = split(&payload, 100);
        assert_eq!(parts.len(), 3);
        let mut joiner = Joiner::default();
        for (number, part) in parts.into_iter().enumerate() {
            joiner.take(ID, number, part);
        }
        assert_eq!(joiner.join(&head(3, 250)), Some(payload));
        assert_eq!(joiner.bytes, 0);
    }

    #[test]
    fn a_missing_part_gives_the_message_up() {
        let mut joiner = Joiner::default();
        joiner.take(ID, 0, Bytes::from_static(b"a"));
        joiner.take(ID, 2, Bytes::from_static(b"c"));
        assert_eq!(joiner.join(&head(3, 3)), None);
        joiner.take(ID, 0, Bytes::from_static(b"a"));
        assert_eq!(joiner.join(&head(2, 2)), None);
        assert_eq!((joiner.bytes, joiner.incomplete.len()), (0, 0));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut joiner = Joiner::default();
        for number in 0..1000 {
            joiner.take(&format!("{number:032x}"), 0, Bytes::from(vec![0; 1 << 20]));
        }
        assert!(joiner.incomplete.len() <= MOST_MESSAGES && joiner.bytes <= MOST_BYTES);
    }

    #[test]
    fn heads_of_others_make_no_sense() {
        for value in ["", "x", &format!("{ID} 0 0"), &format!("{ID} 5 3"), &format!("{ID} 1 99999999999")] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value);
            assert_eq!(Head::of(Some(&headers)), Some(None), "{value}");
        }
        assert_eq!(Head::of(Some(&head(3, 250).headers())), Some(Some(head(3, 250))));
        assert_eq!(Head::of(None), None);
    }
}
