//! Buses: messages between programs, by topic.

#[cfg(feature = "amqp")]
pub mod amqp;
pub mod memory;

#[cfg(feature = "amqp")]
pub use amqp::{AmqpBus, AmqpSettings, DurableQueues};
pub use memory::MemoryBus;
