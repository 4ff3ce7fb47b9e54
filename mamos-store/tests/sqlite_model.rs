//! Random operations give the same answers as in the memory store.

#![cfg(feature = "sqlite")]

use mamos_store::conformance::model::same_answers;
use mamos_store::{Durability, MemoryStore, SqliteSettings, SqliteStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_give_the_same_answers_as_in_memory() {
    for seed in 0..24 {
        let directory = tempfile::tempdir().unwrap();
        // What is compared does not depend on syncing.
        let settings = SqliteSettings::new(directory.path().join("mamos.db")).durability(Durability::Off);
        let store = SqliteStore::open(settings).await.unwrap();
        if let Err(difference) = same_answers(&MemoryStore::new(), &store, seed, 250).await {
            panic!("{difference}");
        }
    }
}
