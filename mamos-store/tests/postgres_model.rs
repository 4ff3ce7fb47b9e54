//! Random operations give the same answers as in the memory store.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use mamos_store::conformance::model::same_answers;
use mamos_store::{MemoryStore, PostgresSettings, PostgresStore};
use mamos_testbed::PostgresSchema;

/// Each seed has a schema of its own. Half of them in each of two tests, which run at the same time.
async fn compare(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let schema = PostgresSchema::unique();
        // What is compared does not depend on syncing.
        let url = format!("{}?options=-c%20synchronous_commit%3Doff", schema.url());
        let settings = PostgresSettings::new(url).schema(schema.name()).connections(2);
        let store = PostgresStore::open(settings).await.unwrap();
        if let Err(difference) = same_answers(&MemoryStore::new(), &store, seed, 300).await {
            panic!("{difference}");
        }
        store.close().await;
    }
}

#[tokio::test]
async fn random_operations_give_the_same_answers_as_in_memory() {
    compare(0..8).await;
}

#[tokio::test]
async fn other_random_operations_give_the_same_answers_as_in_memory() {
    compare(1000..1008).await;
}
