//! The promises of the store ports, kept by the Redis store.

#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/redis.rs"]
mod support;

use mamos_store::RedisStore;
use mamos_store::conformance::Fresh;

use crate::support::Prefix;

async fn fresh() -> Fresh {
    let prefix = Prefix::shared();
    let store = RedisStore::open(prefix.settings()).await.unwrap();
    Fresh::with_guard(store, prefix)
}

mamos_store::store_conformance!(fresh);
