//! `mamosctl` asks what it should, shows what it gets, and ends with the right exit code.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod account;
mod endings;
mod orders;
mod streams;
mod stub;
mod tls;
