//! Thin programs over MAMOS, to read and to run.
//!
//! - `cargo run --release --bin quickstart`: the tour, in [`quickstart`].
//! - `mamos-server` ([`server_program`]), `mamos-agent` ([`agent_program`]) and `mamosctl` ([`ctl`]): the programs
//!   to operate with; their settings are read by [`config`].
//! - `cargo run -p mamos-examples --example embedded`: the shortest way to a first result. The other
//!   examples beside it show one idea each, in at most 80 lines.

pub mod agent_program;
pub mod config;
pub mod ctl;
mod in_process;
mod program;
pub mod quickstart;
pub mod server_program;

pub use crate::in_process::in_process;

// The code in the README is compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

// So is what the documents show.
#[cfg(doctest)]
#[doc = include_str!("../../docs/several-orchestrators.md")]
struct SeveralOrchestrators;
