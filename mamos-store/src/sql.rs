//! What the stores in SQL databases have in common: how rows are understood, and how jobs and agents change.

pub(crate) mod agents;
pub(crate) mod changes;
pub(crate) mod fault;
pub(crate) mod log;
mod people;
pub(crate) mod rows;
