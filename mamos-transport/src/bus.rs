//! Buses: messages between programs, by topic.

pub mod memory;

pub use memory::MemoryBus;
