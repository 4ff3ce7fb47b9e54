//! The transport kit over a link over Redis.

#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/links.rs"]
mod links;

use mamos_transport::conformance::Pair;

async fn fresh() -> Pair {
    links::pair(&mamos_testbed::redis_url()).await
}

mamos_transport::transport_conformance!(fresh);
