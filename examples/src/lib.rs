//! Thin programs over MAMOS, to read and to run.
//!
//! - `cargo run --release --bin quickstart`: the tour, in [`quickstart`].
//! - `cargo run -p mamos-examples --example embedded`: the shortest way to a first result. The other
//!   examples beside it show one idea each, in at most 80 lines.

mod in_process;
pub mod quickstart;

pub use crate::in_process::in_process;

// The code in the README is compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
