//! What the stores in SQL databases have in common: how rows are understood, and how jobs change.

pub(crate) mod changes;
pub(crate) mod fault;
pub(crate) mod rows;
