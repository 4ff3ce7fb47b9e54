//! Random operations give the same answers as in the memory store.

#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/redis.rs"]
mod support;

use mamos_store::conformance::model::same_answers;
use mamos_store::{MemoryStore, RedisStore};

use crate::support::Prefix;

async fn play(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let prefix = Prefix::shared();
        let store = RedisStore::open(prefix.settings()).await.unwrap();
        if let Err(difference) = same_answers(&MemoryStore::new(), &store, seed, 300).await {
            panic!("{difference}");
        }
    }
}

// Two halves, so that one waits for Redis while the other does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_give_the_same_answers_as_in_memory() {
    play(0..25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_random_operations_give_the_same_answers_as_in_memory() {
    play(25..50).await;
}
