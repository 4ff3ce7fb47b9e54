//! The keys of a connection: how both ends agree on them, and how messages are sealed and opened.
//!
//! An ephemeral X25519 exchange, HKDF-SHA256 over the transcript of the handshake, and AES-256-GCM with
//! one key for each direction. Why these: `docs/decisions/0008-links-over-a-bus-are-sealed.md`.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::{BufMut, Bytes, BytesMut};
use mamos_core::auth::Binding;
use mamos_core::{Error, ErrorKind, Result};

use super::names::{ConnectionId, Direction};
use super::replay::ReplayWindow;

/// What precedes the sealed bytes: the kind, and the number of the message.
const HEADER_BYTES: usize = 1 + 8;
const TAG_BYTES: usize = 16;
/// By how much a sealed message is longer than what is in it.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// The most messages that are sealed with one key, far below what makes AES-GCM weak even if each of them
/// has 8 MiB: 2^32 of them are 2^51 blocks, and an attacker gains 2^-27 from that.
const MAX_MESSAGES: u64 = 1 << 32;

/// What a sealed message is. Its number on the wire is part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its sender lives.
    Ping = 1,
    /// Its sender leaves.
    Bye = 2,
    /// A whole frame in MessagePack.
    Binary = 3,
    /// A whole frame in JSON.
    Text = 4,
    /// A part of a frame in MessagePack.
    BinaryPart = 5,
    /// A part of a frame in JSON.
    TextPart = 6,
    /// Several whole frames.
    Bundle = 7,
}

impl Kind {
    fn read(byte: u8) -> Option<Self> {
        let frames = [Self::Binary, Self::Text, Self::BinaryPart, Self::TextPart, Self::Bundle];
        [Self::Ping, Self::Bye].into_iter().chain(frames).find(|kind| *kind as u8 == byte)
    }
}

/// One end's half of the key exchange.
pub(super) struct Exchange {
    private: PrivateKey,
    public: [u8; 32],
}

impl Exchange {
    pub(super) fn new() -> Result<Self> {
        let private = PrivateKey::generate(&X25519).map_err(|_| no_random())?;
        let public = private.compute_public_key().map_err(|_| no_random())?;
        let public = public.as_ref().try_into().map_err(|_| no_random())?;
        Ok(Self { private, public })
    }

    pub(super) fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// What follows from both halves and the transcript. `None` if the other half is not usable.
    pub(super) fn agree(
        &self,
        theirs: &[u8; 32],
        transcript: &[u8; 32],
        id: ConnectionId,
    ) -> Option<Secrets> {
        let theirs = UnparsedPublicKey::new(&X25519, theirs);
        // The library refuses halves that would give a known secret.
        agree(&self.private, theirs, (), |shared| {
            let root = Salt::new(HKDF_SHA256, transcript).extract(shared);
            let derive = |purpose: &'static [u8]| {
                let mut bytes = [0; 32];
                root.expand(&[purpose], Bytes32).and_then(|okm| okm.fill(&mut bytes)).map_err(|_| ())?;
                Ok::<_, ()>(bytes)
            };
            let key = |direction, purpose| {
                let key = UnboundKey::new(&AES_256_GCM, &derive(purpose)?).map_err(|_| ())?;
                Ok::<_, ()>(DirectionKey { key: LessSafeKey::new(key), direction, id })
            };
            Ok(Secrets {
                up: key(Direction::Up, b"mamos link 1 up")?,
                down: key(Direction::Down, b"mamos link 1 down")?,
                binding: Binding::from_bytes(derive(b"mamos link 1 binding")?),
            })
        })
        .ok()
    }
}

/// What the two ends of a connection know, and nobody else.
pub(super) struct Secrets {
    pub(super) up: DirectionKey,
    pub(super) down: DirectionKey,
    pub(super) binding: Binding,
}

/// The key of one direction of a connection.
pub(super) struct DirectionKey {
    key: LessSafeKey,
    direction: Direction,
    id: ConnectionId,
}

impl DirectionKey {
    /// What a message is authenticated with beside its content.
    fn context(&self, kind: Kind, number: u64) -> Aad<[u8; 26]> {
        let mut context = [0; 26];
        context[0] = match self.direction {
            Direction::Up => 1,
            Direction::Down => 2,
        };
        context[1..17].copy_from_slice(&self.id.0);
        context[17] = kind as u8;
        context[18..].copy_from_slice(&number.to_be_bytes());
        Aad::from(context)
    }
}

/// Each number is used once with a key, so the nonce is used once as well.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what is sent in one direction.
pub(super) struct Sealer {
    key: DirectionKey,
    used: u64,
}

impl Sealer {
    pub(super) fn new(key: DirectionKey) -> Self {
        Self { key, used: 0 }
    }

    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.used = MAX_MESSAGES;
    }

    /// Makes a message. Its content is copied once, and sealed where it then is.
    pub(super) fn seal(&mut self, kind: Kind, head: &[u8], content: &[u8]) -> Result<Bytes> {
        self.seal_with(kind, head.len() + content.len(), |message| {
            message.extend_from_slice(head);
            message.extend_from_slice(content);
        })
    }

    /// Makes a message of what is written into it, and of such a length.
    pub(super) fn seal_with(
        &mut self,
        kind: Kind,
        length: usize,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<Bytes> {
        if self.used >= MAX_MESSAGES {
            let message = "this connection has sent all that its keys are good for; connect anew";
            return Err(Error::new(ErrorKind::Unavailable, "link.send", message));
        }
        self.used += 1;
        let mut message = BytesMut::with_capacity(OVERHEAD_BYTES + length);
        message.put_u8(kind as u8);
        message.put_u64(self.used);
        write(&mut message);
        let context = self.key.context(kind, self.used);
        let sealed = &mut message[HEADER_BYTES..];
        let tag = self.key.key.seal_in_place_separate_tag(nonce(self.used), context, sealed);
        let tag =
            tag.map_err(|_| Error::new(ErrorKind::Unavailable, "link.send", "a frame cannot be sealed"))?;
        message.extend_from_slice(tag.as_ref());
        Ok(message.freeze())
    }
}

/// Why a message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It is not a sealed message, for example an answer that came twice.
    Unreadable,
    /// It was not made with the key of this direction of this connection.
    Forged,
    /// It came before, or is too old to tell.
    Replayed,
}

/// Opens what arrives in one direction, each message once.
pub(super) struct Opener {
    key: DirectionKey,
    window: ReplayWindow,
}

impl Opener {
    pub(super) fn new(key: DirectionKey) -> Self {
        Self { key, window: ReplayWindow::default() }
    }

    /// Opens a message where it is, if nobody else holds its bytes.
    pub(super) fn open(&mut self, message: Bytes) -> Result<(Kind, Bytes), Dropped> {
        let header = message.get(..HEADER_BYTES).ok_or(Dropped::Unreadable)?;
        let kind = Kind::read(header[0]).ok_or(Dropped::Unreadable)?;
        let number = header[1..].try_into().map(u64::from_be_bytes).map_err(|_| Dropped::Unreadable)?;
        // Before the costly part; noted only after it, so that a forger cannot use numbers up.
        if !self.window.is_new(number) {
            return Err(Dropped::Replayed);
        }
        let mut content = message.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let _header = content.split_to(HEADER_BYTES);
        let opened = self.key.key.open_in_place(nonce(number), self.key.context(kind, number), &mut content);
        let length = opened.map_err(|_| Dropped::Forged)?.len();
        content.truncate(length);
        self.window.note(number);
        Ok((kind, content.freeze()))
    }
}

/// Random bytes of the operating system.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| no_random())?;
    Ok(bytes)
}

fn no_random() -> Error {
    Error::new(ErrorKind::Unavailable, "link.keys", "the system gives no random numbers")
}

/// Tells HKDF to make 32 bytes.
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

/// Keys do not print.
impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?}, {} used)", self.key.direction, self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(transcripts: [[u8; 32]; 2]) -> [Secrets; 2] {
        let (one, two) = (Exchange::new().unwrap(), Exchange::new().unwrap());
        let id = ConnectionId([1; 16]);
        [
            one.agree(two.public(), &transcripts[0], id).unwrap(),
            two.agree(one.public(), &transcripts[1], id).unwrap(),
        ]
    }

    #[test]
    fn both_ends_agree_and_each_message_is_opened_once() {
        let [agent, orchestrator] = secrets([[5; 32]; 2]);
        assert_eq!(agent.binding, orchestrator.binding);
        let (mut sealer, mut opener) = (Sealer::new(agent.up), Opener::new(orchestrator.up));
        let message = sealer.seal(Kind::Text, b"he", b"llo").unwrap();
        assert!(!message.windows(3).any(|window| window == b"llo"), "it can be read on the way");
        let shared = message.clone();
        assert_eq!(opener.open(shared), Ok((Kind::Text, Bytes::from_static(b"hello"))));
        assert_eq!(opener.open(message), Err(Dropped::Replayed));
    }

    #[test]
    fn other_transcripts_and_directions_give_other_keys() {
        let [agent, orchestrator] = secrets([[5; 32], [6; 32]]);
        assert_ne!(agent.binding, orchestrator.binding);
        let message = Sealer::new(agent.up).seal(Kind::Ping, b"", b"").unwrap();
        assert_eq!(Opener::new(orchestrator.up).open(message.clone()), Err(Dropped::Forged));
        assert_eq!(Opener::new(agent.down).open(message), Err(Dropped::Forged));
    }

    #[test]
    fn any_change_to_a_message_shows() {
        let [agent, orchestrator] = secrets([[5; 32]; 2]);
        let (mut sealer, mut opener) = (Sealer::new(agent.up), Opener::new(orchestrator.up));
        let message = sealer.seal(Kind::Binary, b"", b"some content").unwrap();
        for at in 0..message.len() {
            for bit in 0..8 {
                let mut changed = message.to_vec();
                changed[at] ^= 1 << bit;
                assert!(opener.open(changed.into()).is_err(), "bit {bit} of byte {at}");
            }
            assert!(opener.open(message.slice(..at)).is_err(), "cut at {at}");
        }
        assert!(opener.open(message).is_ok(), "what was forged used its number up");
    }

    #[test]
    fn a_half_that_gives_a_known_secret_is_refused() {
        assert!(Exchange::new().unwrap().agree(&[0; 32], &[0; 32], ConnectionId([0; 16])).is_none());
    }

    #[test]
    fn keys_wear_out() {
        let [agent, _] = secrets([[5; 32]; 2]);
        let mut sealer = Sealer { key: agent.up, used: MAX_MESSAGES - 1 };
        assert!(sealer.seal(Kind::Ping, b"", b"").is_ok());
        assert_eq!(sealer.seal(Kind::Ping, b"", b"").unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
