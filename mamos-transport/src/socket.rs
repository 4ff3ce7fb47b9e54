//! TCP and Unix sockets with length-prefixed frames.
//!
//! On the wire a frame is one byte for the encoding (`0` MessagePack, `1` JSON), four bytes for the
//! length, big-endian, and as many bytes. Nothing is encrypted and nobody is authenticated here: bind TCP
//! to loopback or to a network that you trust, and let a Unix socket's mode say who may connect. The
//! agent's credentials travel inside the first frame.
//!
//! A length is checked against the limit before any memory is set aside for it, and memory is set aside
//! only as bytes arrive. A connection whose peer breaks the format ends; the others do not notice.
//!
//! A peer that vanishes without a word, as when its network is cut, is noticed by silence only: that is
//! what the protocol's heartbeats are for.

mod framing;
mod stream;
mod tcp;
mod unix;

pub use stream::FrameConnection;
pub use tcp::TcpFrameConnector;
pub use tcp::TcpFrameListener;
pub use unix::UnixFrameConnector;
pub use unix::UnixFrameListener;
