//! `mamos-agent` does what it says, against a true orchestrator: measured by exit codes, what it prints,
//! and what the orchestrator has on record.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod life;
mod place;
mod service;
mod settings;
