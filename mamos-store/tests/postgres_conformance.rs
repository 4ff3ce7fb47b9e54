//! The promises of the store ports, kept by the PostgreSQL store.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use mamos_store::conformance::Fresh;
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::PostgresSchema;

async fn fresh() -> Fresh {
    let schema = PostgresSchema::unique();
    // Many tests run at once, and the server has connections for some.
    let settings = PostgresSettings::new(schema.url()).schema(schema.name()).connections(3);
    Fresh::with_guard(PostgresStore::open(settings).await.unwrap(), schema)
}

mamos_store::store_conformance!(fresh);
