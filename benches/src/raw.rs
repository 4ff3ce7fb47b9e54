//! The baselines: the least code that does the same on the same store.

pub(crate) mod memory;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod sqlite;
