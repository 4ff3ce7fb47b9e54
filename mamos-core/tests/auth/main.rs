//! Tokens of agents and the audit log, over a store in memory.

#![expect(clippy::unwrap_used, reason = "tests")]

mod audit;
mod link_key;
mod tokens;
