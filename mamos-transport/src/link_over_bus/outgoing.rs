//! What waits for the bus, and how it becomes messages.

use std::collections::VecDeque;

use bytes::Bytes;
use mamos_core::Result;
use mamos_core::transport::Encoding;

use super::bundles::{self, FRAME_HEAD_BYTES, MAX_BUNDLE_BYTES};
use super::parts::{self, PART_BYTES};
use super::secrets::{Kind, OVERHEAD_BYTES, Sealer};

/// The most that waits for the bus; beyond that `send` waits.
const MAX_WAITING: usize = 256;
/// The same in bytes, and about the most that is published at once: what seals and joins frames is not counted. A
/// message more is taken if it is alone.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;
/// From so much waiting on, or a quarter of the bytes, a second call publishes beside the first.
const MUCH_WAITING: usize = MAX_WAITING / 4;
const MUCH_WAITING_BYTES: usize = MAX_WAITING_BYTES / 4;

/// Frames and signs of one end, in order. They are sealed when they are taken: only then it is known what goes together.
pub(super) struct Outgoing {
    sealer: Sealer,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    max_message_bytes: usize,
    frames_in_parts: u64,
}

enum Waiting {
    Sign(Kind),
    Frame(Encoding, Bytes),
    Part(Encoding, [u8; PART_BYTES], Bytes),
}

impl Outgoing {
    pub(super) fn new(sealer: Sealer, max_message_bytes: usize) -> Self {
        Self { sealer, waiting: VecDeque::new(), bytes: 0, max_message_bytes, frames_in_parts: 0 }
    }

    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.waiting.is_empty()
            || (self.waiting.len() < MAX_WAITING && self.bytes + bytes <= MAX_WAITING_BYTES)
    }

    /// Does so much wait that it should not wait for what is on the way?
    pub(super) fn is_much(&self) -> bool {
        self.waiting.len() >= MUCH_WAITING || self.bytes >= MUCH_WAITING_BYTES
    }

    /// Adds a message without content.
    pub(super) fn sign(&mut self, kind: Kind) {
        self.push(Waiting::Sign(kind));
    }

    /// Adds a frame, in parts if it is too large for a message.
    pub(super) fn frame(&mut self, encoding: Encoding, frame: Bytes) {
        if frame.len() + OVERHEAD_BYTES <= self.max_message_bytes {
            return self.push(Waiting::Frame(encoding, frame));
        }
        self.frames_in_parts += 1;
        let most = self.max_message_bytes - OVERHEAD_BYTES - PART_BYTES;
        // A frame has 8 MiB at most, and a part more than 1 KiB.
        let count = frame.len().div_ceil(most) as u32;
        let mut rest = frame;
        for index in 0..count {
            let part = rest.split_to(most.min(rest.len()));
            self.push(Waiting::Part(encoding, parts::head(self.frames_in_parts, index, count), part));
        }
    }

    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.len();
        self.waiting.push_back(waiting);
    }

    /// The messages that go into one call, sealed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](mamos_core::ErrorKind::Unavailable) if the keys are worn out.
    pub(super) fn take(&mut self) -> Result<Vec<Bytes>> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            if !messages.is_empty() && bytes + next.len() > MAX_WAITING_BYTES {
                break;
            }
            let Some(message) = self.next_message()? else { break };
            bytes += message.len();
            messages.push(message);
        }
        Ok(messages)
    }

    fn next_message(&mut self) -> Result<Option<Bytes>> {
        let (count, length) = self.bundle();
        if count > 1 {
            let frames: Vec<Waiting> = self.waiting.drain(..count).collect();
            self.bytes -= frames.iter().map(Waiting::len).sum::<usize>();
            let sealed = self.sealer.seal_with(Kind::Bundle, length, |bundle| {
                for waiting in &frames {
                    if let Waiting::Frame(encoding, frame) = waiting {
                        bundles::write(bundle, *encoding, frame);
                    }
                }
            });
            return sealed.map(Some);
        }
        let Some(next) = self.waiting.pop_front() else { return Ok(None) };
        self.bytes -= next.len();
        let sealed = match next {
            Waiting::Sign(kind) => self.sealer.seal(kind, &[], &[]),
            Waiting::Frame(Encoding::Binary, frame) => self.sealer.seal(Kind::Binary, &[], &frame),
            Waiting::Frame(Encoding::Text, frame) => self.sealer.seal(Kind::Text, &[], &frame),
            Waiting::Part(Encoding::Binary, head, part) => self.sealer.seal(Kind::BinaryPart, &head, &part),
            Waiting::Part(Encoding::Text, head, part) => self.sealer.seal(Kind::TextPart, &head, &part),
        };
        sealed.map(Some)
    }

    /// How many of the first that wait go into a bundle together, and its length.
    fn bundle(&self) -> (usize, usize) {
        let most = MAX_BUNDLE_BYTES.min(self.max_message_bytes - OVERHEAD_BYTES);
        let (mut count, mut length) = (0, 0);
        for waiting in &self.waiting {
            let Waiting::Frame(_, frame) = waiting else { break };
            let longer = length + FRAME_HEAD_BYTES + frame.len();
            if longer > most {
                break;
            }
            (count, length) = (count + 1, longer);
        }
        (count, length)
    }
}

impl Waiting {
    /// Its bytes, without what is added.
    fn len(&self) -> usize {
        match self {
            Self::Sign(_) => 0,
            Self::Frame(_, content) | Self::Part(_, _, content) => content.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::ConnectionId;
    use super::super::parts::{Assembly, MIN_PART_BYTES};
    use super::super::secrets::{Exchange, Opener};
    use super::*;

    const MAX_MESSAGE_BYTES: usize = OVERHEAD_BYTES + PART_BYTES + MIN_PART_BYTES;

    fn both_ends(max_message_bytes: usize) -> (Outgoing, Opener) {
        let (one, two) = (Exchange::new().unwrap(), Exchange::new().unwrap());
        let id = ConnectionId([1; 16]);
        let sealer = Sealer::new(one.agree(two.public(), &[5; 32], id).unwrap().up);
        let opener = Opener::new(two.agree(one.public(), &[5; 32], id).unwrap().up);
        (Outgoing::new(sealer, max_message_bytes), opener)
    }

    fn opened(messages: Vec<Bytes>, opener: &mut Opener) -> Vec<(Kind, Bytes)> {
        messages.into_iter().map(|message| opener.open(message).unwrap()).collect()
    }

    #[test]
    fn small_frames_that_follow_each_other_go_together_and_nothing_is_overtaken() {
        let (mut outgoing, mut opener) = both_ends(MAX_MESSAGE_BYTES);
        let large = Bytes::from((0..=255).cycle().take(2 * MIN_PART_BYTES + 1).collect::<Vec<u8>>());
        outgoing.frame(Encoding::Binary, Bytes::from_static(b"one"));
        outgoing.frame(Encoding::Text, Bytes::from_static(b"two"));
        outgoing.sign(Kind::Ping);
        outgoing.frame(Encoding::Text, Bytes::from_static(b"three"));
        outgoing.frame(Encoding::Binary, large.clone());
        outgoing.frame(Encoding::Binary, Bytes::from_static(b"four"));
        outgoing.frame(Encoding::Binary, Bytes::from_static(b"five"));
        outgoing.sign(Kind::Bye);
        let messages = opened(outgoing.take().unwrap(), &mut opener);
        let kinds: Vec<Kind> = messages.iter().map(|(kind, _)| *kind).collect();
        let part = Kind::BinaryPart;
        assert_eq!(kinds, [Kind::Bundle, Kind::Ping, Kind::Text, part, part, part, Kind::Bundle, Kind::Bye]);
        let mut bundle = messages[0].1.clone();
        assert_eq!(bundles::read(&mut bundle).unwrap(), (Encoding::Binary, Bytes::from_static(b"one")));
        assert_eq!(bundles::read(&mut bundle).unwrap(), (Encoding::Text, Bytes::from_static(b"two")));
        assert!(bundle.is_empty());
        assert_eq!(messages[2].1, "three");
        let mut assembly = Assembly::new(large.len());
        let parts =
            messages[3..6].iter().map(|(_, part)| assembly.take(Encoding::Binary, part.clone()).unwrap());
        assert_eq!(parts.last().unwrap().frame, Some(large));
        assert!(outgoing.take().unwrap().is_empty());
        assert_eq!(outgoing.bytes, 0);
    }

    #[test]
    fn messages_and_calls_have_bounds() {
        for max_message_bytes in [MAX_MESSAGE_BYTES, 8 * MAX_BUNDLE_BYTES] {
            let (mut outgoing, mut opener) = both_ends(max_message_bytes);
            let frame = Bytes::from(vec![7; 500]);
            let mut count = 0;
            while outgoing.has_room_for(frame.len()) {
                outgoing.frame(Encoding::Binary, frame.clone());
                count += 1;
            }
            assert_eq!(count, MAX_WAITING);
            let most = max_message_bytes.min(MAX_BUNDLE_BYTES + OVERHEAD_BYTES);
            let messages = outgoing.take().unwrap();
            assert!(messages.iter().all(|message| message.len() <= most && message.len() > most / 2));
            let mut arrived = 0;
            for (_, mut bundle) in opened(messages, &mut opener) {
                while !bundle.is_empty() {
                    assert_eq!(bundles::read(&mut bundle).unwrap(), (Encoding::Binary, frame.clone()));
                    arrived += 1;
                }
            }
            assert_eq!(arrived, count);
            // Large ones fill a call before they fill a queue.
            let large = Bytes::from(vec![7; MAX_WAITING_BYTES / 3]);
            for _ in 0..4 {
                outgoing.frame(Encoding::Binary, large.clone());
            }
            let bytes: usize = outgoing.take().unwrap().iter().map(Bytes::len).sum();
            assert!(bytes <= MAX_WAITING_BYTES + large.len() / 2, "{bytes}");
            assert!(outgoing.bytes > 0, "the rest goes into the next call");
        }
    }

    #[test]
    fn keys_that_are_worn_out_are_told() {
        let (mut outgoing, _) = both_ends(MAX_MESSAGE_BYTES);
        outgoing.sealer.wear_out();
        outgoing.frame(Encoding::Binary, Bytes::from_static(b"one"));
        assert!(outgoing.take().is_err());
    }
}
