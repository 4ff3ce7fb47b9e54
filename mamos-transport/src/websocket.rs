//! The agents' end of a WebSocket; the orchestrator's end is in `mamos-http`.
//!
//! A frame is one WebSocket message: binary for MessagePack, text for JSON. The subprotocol says which of
//! the two the orchestrator answers with: [`BINARY_PROTOCOL`] or [`TEXT_PROTOCOL`]. A message may come in
//! any number of pieces; MAMOS itself sends pieces of 8 KiB, so that both ends keep small buffers.
//!
//! With `wss://` the certificate of the orchestrator must be signed by an authority that the system
//! trusts, or by one of your own, or have the fingerprint that you pinned. Only TLS 1.3 is spoken.

mod connection;
mod connector;
mod failure;
mod fingerprint;
mod tls;

pub use connector::BINARY_PROTOCOL;
pub use connector::DEFAULT_PATH;
pub use connector::TEXT_PROTOCOL;
pub use connector::WebSocketConnector;
pub use connector::WebSocketConnectorBuilder;
