//! Ports: how frames get from one side to the other.
//!
//! A transport may lose, duplicate or reorder frames, but never corrupt or invent them. Everything
//! else — acknowledgement, redelivery, fencing — lives above it, in [`protocol`](crate::protocol), so
//! that all transports give the same semantics, and writing one is little work.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::auth::Binding;
use crate::protocol::{Envelope, FromAgent, ToAgent};
use crate::{Error, ErrorKind, Result};

/// The largest frame, in bytes, that a transport takes or gives unless it is told otherwise: 8 MiB.
///
/// Room for the largest default payload (1 MiB) with what surrounds it, several times over.
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// The orchestrator's end: waits for agents.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// Waits for the next connection. Safe to drop and call again.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Closed`]: no connection will come any more.
    /// - anything else: this connection failed; call again.
    async fn accept(&self) -> Result<Arc<dyn Connection>>;

    /// Where it listens, for people, for example `unix:/run/mamos.sock`.
    fn describe(&self) -> String;
}

/// The agent's end: connects to an orchestrator.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Makes a new connection.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unavailable`]: nobody answers; try again later.
    /// - [`ErrorKind::Config`]: the address can never work.
    async fn connect(&self) -> Result<Arc<dyn Connection>>;

    /// Where it connects to, for people.
    fn describe(&self) -> String;
}

/// Moves opaque frames both ways, between one agent and one orchestrator.
///
/// `send` is called by one task at a time and `receive` by one task at a time, which may be two
/// different ones.
#[async_trait]
pub trait Connection: Send + Sync + fmt::Debug + 'static {
    /// Sends a frame. Waits while the other side is slow; may return before the frame has arrived.
    ///
    /// Safe to drop: the frame then arrives whole or not at all, and the connection goes on.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Closed`] or [`ErrorKind::Unavailable`]: the connection is gone, and the frame may
    ///   be lost.
    /// - [`ErrorKind::LimitExceeded`]: the frame is too large; the connection goes on.
    async fn send(&self, frame: Frame) -> Result<()>;

    /// Waits for the next frame. Safe to drop and call again: no frame is lost by that.
    ///
    /// `None` after the other side has closed the connection in an orderly way.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Closed`] or [`ErrorKind::Unavailable`]: the connection is gone.
    /// - [`ErrorKind::Corrupt`] or [`ErrorKind::LimitExceeded`]: the other side does not keep to the
    ///   format; the connection is gone.
    async fn receive(&self) -> Result<Option<Frame>>;

    /// Closes the connection. Both sides' calls end soon after. May be called more than once.
    async fn close(&self);

    /// Does every frame that is sent arrive once and in order while the connection lives?
    ///
    /// If so the protocol saves itself the acknowledgements. The default is the cautious answer. Both
    /// ends of a connection give the same one.
    fn is_reliable(&self) -> bool {
        false
    }

    /// Who is at the other end, for people and logs.
    fn peer(&self) -> String;

    /// What this connection alone has in common with the other end, for transports that agree on keys.
    ///
    /// An agent signs it with its proof, so that nobody who sits in the middle of two connections can hand the
    /// proof on. Both ends of a connection give the same one, and no two connections do, whatever one
    /// of the ends does. Wrappers hand it on. `None`, the default, where nobody but the two ends can be at
    /// the other end, or where TLS has seen to that.
    fn binding(&self) -> Option<Binding> {
        None
    }

    /// Notes that whoever is at the other end could not prove who they are, for transports that count such
    /// failures and let a place that has too many wait. Does nothing by default.
    fn note_refused(&self) {}
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<L: Listener + ?Sized> Listener for Arc<L> {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        (**self).accept().await
    }

    fn describe(&self) -> String {
        (**self).describe()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: Connector + ?Sized> Connector for Arc<C> {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        (**self).connect().await
    }

    fn describe(&self) -> String {
        (**self).describe()
    }
}

/// What a connection moves. Opaque to it: only [`protocol`](crate::protocol) makes and reads one.
///
/// A transport that leaves the process calls [`Frame::into_bytes`] and makes the frame at the other
/// side with [`Frame::binary`] or [`Frame::text`]. One that stays inside hands the frame over as it is,
/// and the messages in it are never encoded at all.
#[derive(Clone)]
pub struct Frame(Inner);

#[derive(Clone)]
enum Inner {
    Binary(Bytes),
    Text(Bytes),
    ToAgent(Box<Envelope<ToAgent>>),
    FromAgent(Box<Envelope<FromAgent>>),
}

/// How the messages in a frame are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// MessagePack with named fields.
    Binary,
    /// JSON.
    Text,
}

impl Frame {
    /// A frame that arrived as MessagePack.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Binary(bytes.into()))
    }

    /// A frame that arrived as JSON.
    pub fn text(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Text(bytes.into()))
    }

    /// The bytes to send. A frame that came as bytes keeps its encoding, whatever is asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`] if there are more than `max_bytes`.
    pub fn into_bytes(self, encoding: Encoding, max_bytes: usize) -> Result<(Encoding, Bytes)> {
        let (encoding, bytes) = match self.0 {
            Inner::Binary(bytes) => (Encoding::Binary, bytes),
            Inner::Text(bytes) => (Encoding::Text, bytes),
            Inner::ToAgent(envelope) => (encoding, envelope.encode(encoding)?),
            Inner::FromAgent(envelope) => (encoding, envelope.encode(encoding)?),
        };
        if bytes.len() > max_bytes {
            let message = format!("a frame of {} bytes is over the limit of {max_bytes}", bytes.len());
            return Err(Error::new(ErrorKind::LimitExceeded, "frame.encode", message));
        }
        Ok((encoding, bytes))
    }

    /// Reads what an orchestrator sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if it is not a frame of the protocol.
    pub fn into_to_agent(self) -> Result<Envelope<ToAgent>> {
        match self.0 {
            Inner::Binary(bytes) => Envelope::decode(Encoding::Binary, &bytes),
            Inner::Text(bytes) => Envelope::decode(Encoding::Text, &bytes),
            Inner::ToAgent(envelope) => Ok(*envelope),
            Inner::FromAgent(_) => Err(wrong_direction()),
        }
    }

    /// Reads what an agent sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if it is not a frame of the protocol.
    pub fn into_from_agent(self) -> Result<Envelope<FromAgent>> {
        match self.0 {
            Inner::Binary(bytes) => Envelope::decode(Encoding::Binary, &bytes),
            Inner::Text(bytes) => Envelope::decode(Encoding::Text, &bytes),
            Inner::FromAgent(envelope) => Ok(*envelope),
            Inner::ToAgent(_) => Err(wrong_direction()),
        }
    }
}

impl From<Envelope<ToAgent>> for Frame {
    fn from(envelope: Envelope<ToAgent>) -> Self {
        Self(Inner::ToAgent(Box::new(envelope)))
    }
}

impl From<Envelope<FromAgent>> for Frame {
    fn from(envelope: Envelope<FromAgent>) -> Self {
        Self(Inner::FromAgent(Box::new(envelope)))
    }
}

/// Prints the size only: frames carry secrets and arguments.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Binary(bytes) => write!(f, "Frame(binary, {} bytes)", bytes.len()),
            Inner::Text(bytes) => write!(f, "Frame(text, {} bytes)", bytes.len()),
            Inner::ToAgent(envelope) => write!(f, "Frame({} messages to an agent)", envelope.messages.len()),
            Inner::FromAgent(envelope) => {
                write!(f, "Frame({} messages from an agent)", envelope.messages.len())
            }
        }
    }
}

fn wrong_direction() -> Error {
    Error::new(ErrorKind::Corrupt, "frame.decode", "the frame goes in the other direction")
}

fn _dyn_compatible(_: &dyn Listener, _: &dyn Connector, _: &dyn Connection) {}
