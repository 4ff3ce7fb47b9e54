//! Buses: messages between programs, by topic.

#[cfg(feature = "amqp")]
pub mod amqp;
#[cfg(any(feature = "nats", feature = "redis"))]
mod line;
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
mod open;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "broker-tls")]
mod tls;

#[cfg(feature = "amqp")]
pub use amqp::{AmqpBus, AmqpSettings, DurableQueues};
pub use memory::MemoryBus;
#[cfg(feature = "nats")]
pub use nats::{NatsBus, NatsSettings};
pub use open::open;
#[cfg(feature = "redis")]
pub use redis::{RedisBus, RedisBusSettings};
