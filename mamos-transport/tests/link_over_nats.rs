//! The transport kit over a link over NATS.

#![cfg(feature = "nats")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/links.rs"]
mod links;

use mamos_transport::conformance::Pair;

async fn fresh() -> Pair {
    links::pair(&mamos_testbed::nats_url()).await
}

mamos_transport::transport_conformance!(fresh);
