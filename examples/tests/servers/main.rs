//! The programs over real brokers and databases, by one line each.
//!
//! The name of this binary tells `scripts/test.sh` that it needs all servers.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod agents_users;
mod over_bus;
#[path = "../mamos_server/place.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod place;
mod several;
mod trouble;
