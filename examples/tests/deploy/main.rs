//! `examples/deploy` holds together: what its files name is there, and the programs understand what they read.
//! No container is started.

#![expect(clippy::unwrap_used, reason = "tests")]

mod compose;
mod place;
mod programs;
