//! Transports and buses for MAMOS.
//!
//! A transport moves opaque frames between an agent and an orchestrator, behind the ports in
//! [`mamos_core::transport`]. Which one to take:
//!
//! | | both sides are | reliable | encrypted |
//! |---|---|---|---|
//! | [`memory`] | in one process | yes | needs none |
//! | [`socket::UnixFrameListener`] | on one machine | yes | needs none; the file's mode protects it |
//! | [`socket::TcpFrameListener`] | on one machine or a trusted network | yes | no |
//! | [`link_over_bus`] | at the same broker | no; the protocol sees to it | yes, between the two ends |
//! | [`WebSocketConnector`] | anywhere; the orchestrator's end is in `mamos-http` | yes | TLS 1.3 with `wss://` |
//!
//! [`AnyOf`] connects to whichever of several orchestrators answers.
//!
//! A bus carries messages by topic, behind [`mamos_core::bus`]; [`bus::memory`] is the one inside a
//! process. `bus::amqp` is the one over RabbitMQ.
//!
//! With the feature `conformance` come the conformance kits for transports and buses of your own, a
//! fault injector, and connections and buses that break promises on purpose. How to write a transport is
//! told in `docs/writing-a-transport.md`.

mod any_of;
pub mod bus;
pub mod link_over_bus;
pub mod memory;

#[cfg(feature = "socket")]
pub mod socket;
#[cfg(feature = "websocket")]
pub mod websocket;

#[cfg(feature = "conformance")]
pub mod broken;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "conformance")]
pub mod encoded;
#[cfg(feature = "conformance")]
pub mod faulty;

pub use any_of::AnyOf;
#[cfg(feature = "amqp")]
pub use bus::{AmqpBus, AmqpSettings};
#[cfg(feature = "websocket")]
pub use websocket::WebSocketConnector;
