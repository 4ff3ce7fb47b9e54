//! What is said before there are keys: hello, the answer, a refusal.
//!
//! ```text
//! hello    "A"  version 1  id 16  half of the exchange 32  silence in ms, 4  name: length 1, bytes
//! answer   "B"  half of the exchange 32  silence in ms, 4  is signed 0 or 1  [public key 32  signature 64]
//! refusal  "C"  reason 1
//! ```
//!
//! Numbers are big-endian. The transcript is the SHA-256 of a fixed text, the hello and its length, and the
//! answer without the signature. It goes into all keys, and is what the signature signs.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mamos_core::auth::{KeyPair, PublicKey, Signature};

use super::names::{ConnectionId, LinkName};

const VERSION: u8 = 1;
const HELLO: u8 = b'A';
const ANSWER: u8 = b'B';
const REFUSAL: u8 = b'C';
/// What precedes the name in a hello.
const HELLO_BYTES: usize = 1 + 1 + 16 + 32 + 4 + 1;
/// An answer without the key and the signature.
const ANSWER_BYTES: usize = 1 + 32 + 4 + 1;
const TRANSCRIPT: &[u8] = b"mamos link 1 transcript\0";
/// What a listener signs begins with this, so that the signature is good for nothing else.
const SIGNED: &[u8] = b"mamos link 1 listener\0";

/// What an agent says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) id: ConnectionId,
    pub(super) half: [u8; 32],
    pub(super) silence: Duration,
    pub(super) name: LinkName,
}

impl Hello {
    pub(super) fn write(&self) -> Bytes {
        let name = self.name.as_str().as_bytes();
        let mut bytes = BytesMut::with_capacity(HELLO_BYTES + name.len());
        bytes.put_slice(&[HELLO, VERSION]);
        bytes.put_slice(&self.id.0);
        bytes.put_slice(&self.half);
        bytes.put_u32(millis(self.silence));
        // A name has 64 bytes at most.
        bytes.put_u8(name.len() as u8);
        bytes.put_slice(name);
        bytes.freeze()
    }

    pub(super) fn read(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HELLO_BYTES || bytes.get_u8() != HELLO || bytes.get_u8() != VERSION {
            return None;
        }
        let (mut id, mut half) = (ConnectionId([0; 16]), [0; 32]);
        bytes.copy_to_slice(&mut id.0);
        bytes.copy_to_slice(&mut half);
        let silence = Duration::from_millis(u64::from(bytes.get_u32()));
        let length = usize::from(bytes.get_u8());
        let name = std::str::from_utf8(bytes).ok().filter(|name| name.len() == length)?;
        Some(Self { id, half, silence, name: LinkName::new(name).ok()? })
    }
}

/// What an orchestrator answers, if it takes the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) half: [u8; 32],
    pub(super) silence: Duration,
    pub(super) signed: Option<(PublicKey, Signature)>,
    /// Of the hello and this answer.
    pub(super) transcript: [u8; 32],
}

impl Answer {
    /// Writes an answer to a hello, and gives the transcript.
    pub(super) fn write(
        hello: &[u8],
        half: &[u8; 32],
        silence: Duration,
        key: Option<&KeyPair>,
    ) -> (Bytes, [u8; 32]) {
        let mut bytes = BytesMut::with_capacity(ANSWER_BYTES + 96);
        bytes.put_u8(ANSWER);
        bytes.put_slice(half);
        bytes.put_u32(millis(silence));
        bytes.put_u8(u8::from(key.is_some()));
        if let Some(key) = key {
            bytes.put_slice(key.public_key().as_bytes());
        }
        let transcript = transcript(hello, &bytes);
        if let Some(key) = key {
            bytes.put_slice(key.sign(&signed_message(&transcript)).as_bytes());
        }
        (bytes.freeze(), transcript)
    }

    /// Reads the answer to a hello. The signature was not checked.
    fn read(hello: &[u8], all: &[u8]) -> Option<Self> {
        let mut bytes = all;
        if bytes.len() < ANSWER_BYTES || bytes.get_u8() != ANSWER {
            return None;
        }
        let mut half = [0; 32];
        bytes.copy_to_slice(&mut half);
        let silence = Duration::from_millis(u64::from(bytes.get_u32()));
        let signed = match (bytes.get_u8(), bytes.len()) {
            (0, 0) => None,
            (1, 96) => {
                let (mut key, mut signature) = ([0; 32], [0; 64]);
                bytes.copy_to_slice(&mut key);
                bytes.copy_to_slice(&mut signature);
                Some((PublicKey::from_bytes(key), Signature::from_bytes(signature)))
            }
            _ => return None,
        };
        let without_signature = if signed.is_some() { &all[..ANSWER_BYTES + 32] } else { all };
        Some(Self { half, silence, signed, transcript: transcript(hello, without_signature) })
    }

    /// Is it signed by one of these?
    pub(super) fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        self.signed.as_ref().is_some_and(|(key, signature)| {
            keys.contains(key) && key.verifies(&signed_message(&self.transcript), signature)
        })
    }
}

/// Why a hello is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many connections are being made.
    Busy = 1,
    /// There are too many connections.
    Full = 2,
    /// Agents of this link could not prove who they are, too often.
    Suspect = 3,
}

impl Refusal {
    pub(super) fn write(self) -> Bytes {
        Bytes::copy_from_slice(&[REFUSAL, self as u8])
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Busy => "it makes too many connections just now",
            Self::Full => "it has as many connections as it takes",
            Self::Suspect => "agents of this link failed to prove who they are too often; it waits a minute",
        }
    }
}

/// What comes back to a hello.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Answer),
    Refusal(Refusal),
}

impl Reply {
    pub(super) fn read(hello: &[u8], bytes: &[u8]) -> Option<Self> {
        let refusals = [Refusal::Busy, Refusal::Full, Refusal::Suspect];
        match bytes {
            [REFUSAL, reason] => {
                refusals.into_iter().find(|refusal| *refusal as u8 == *reason).map(Self::Refusal)
            }
            _ => Answer::read(hello, bytes).map(Self::Answer),
        }
    }
}

fn transcript(hello: &[u8], answer: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(TRANSCRIPT);
    context.update(&(hello.len() as u64).to_be_bytes());
    context.update(hello);
    context.update(answer);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

fn signed_message(transcript: &[u8; 32]) -> Vec<u8> {
    [SIGNED, transcript].concat()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        let silence = Duration::from_secs(7);
        Hello { id: ConnectionId([1; 16]), half: [2; 32], silence, name: LinkName::new("rack-7").unwrap() }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_shorter_or_longer() {
        let bytes = hello().write();
        assert_eq!(Hello::read(&bytes), Some(hello()));
        assert!((0..bytes.len()).all(|end| Hello::read(&bytes[..end]).is_none()));
        assert!(Hello::read(&[&bytes[..], b"x"].concat()).is_none());
        let key = KeyPair::from_seed([9; 32]).unwrap();
        for key in [None, Some(&key)] {
            let (written, transcript) = Answer::write(&bytes, &[3; 32], Duration::from_secs(1), key);
            let answer = Answer::read(&bytes, &written).unwrap();
            assert_eq!((answer.half, answer.transcript), ([3; 32], transcript));
            assert!((0..written.len()).all(|end| Answer::read(&bytes, &written[..end]).is_none()));
        }
    }

    #[test]
    fn a_signature_is_good_for_one_hello_and_one_answer() {
        let (key, bytes) = (KeyPair::from_seed([9; 32]).unwrap(), hello().write());
        let (written, _) = Answer::write(&bytes, &[3; 32], Duration::from_secs(1), Some(&key));
        let pins = [key.public_key()];
        assert!(Answer::read(&bytes, &written).unwrap().is_signed_by(&pins));
        let other = KeyPair::from_seed([8; 32]).unwrap().public_key();
        assert!(!Answer::read(&bytes, &written).unwrap().is_signed_by(&[other]));
        let another = Hello { half: [5; 32], ..hello() }.write();
        assert!(!Answer::read(&another, &written).unwrap().is_signed_by(&pins));
        for at in 1..written.len() {
            let mut changed = written.to_vec();
            changed[at] ^= 1;
            let is_signed = Answer::read(&bytes, &changed).is_some_and(|answer| answer.is_signed_by(&pins));
            assert!(!is_signed, "byte {at} was changed");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_strangers_send_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4usize) {
            let first = [HELLO, ANSWER, REFUSAL, 0][kind];
            let bytes = [&[first, VERSION][..], &bytes].concat();
            let _ = (Hello::read(&bytes), Reply::read(b"", &bytes));
        }
    }
}
