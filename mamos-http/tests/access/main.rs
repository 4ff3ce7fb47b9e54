//! Who may what: through the router, over a store in memory.

#![expect(clippy::unwrap_used, reason = "tests")]

mod audit;
mod host;
mod limits;
mod routes;
mod setup;
mod tokens;
mod users;
