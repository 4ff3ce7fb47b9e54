//! Stores for MAMOS: memory, SQLite, PostgreSQL and Redis, and the conformance kit that every store passes.
//!
//! - [`MemoryStore`]: keeps everything in memory. The reference: what it answers is what is right.
//! - [`SqliteStore`]: keeps everything in one file, for one orchestrator on one machine.
//! - `PostgresStore`, with the feature `postgres`: keeps everything in a PostgreSQL database, for several
//!   orchestrators.
//! - `RedisStore`, with the feature `redis`: keeps everything in one Redis, for several orchestrators.
//! - [`open`]: any of them by its URL.
//! - With the feature `conformance`, for those who write a store: [`conformance`] (the promises as
//!   tests, and a model test against the memory store), [`faulty`] (a store that fails on purpose) and
//!   [`broken`] (stores that break a promise, which prove that the kit notices).
//!
//! `docs/writing-a-store.md` is the guide to a store of your own.

#[cfg(feature = "conformance")]
pub mod broken;
#[cfg(feature = "conformance")]
pub mod conformance;
mod documents;
#[cfg(feature = "conformance")]
pub mod faulty;
mod hints;
pub mod memory;
mod open;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use crate::memory::MemoryStore;
pub use crate::open::open;
#[cfg(feature = "postgres")]
pub use crate::postgres::{PostgresSettings, PostgresStore};
#[cfg(feature = "redis")]
pub use crate::redis::{RedisSettings, RedisStore};
#[cfg(feature = "sqlite")]
pub use crate::sqlite::{Durability, SqliteSettings, SqliteStore};
