//! The memory store keeps every promise.

use mamos_store::MemoryStore;
use mamos_store::conformance::Fresh;

async fn fresh() -> Fresh {
    Fresh::new(MemoryStore::new())
}

mamos_store::store_conformance!(fresh);
