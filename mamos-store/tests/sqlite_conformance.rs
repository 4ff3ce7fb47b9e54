//! The promises of the store ports, kept by the SQLite store.

#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use mamos_store::conformance::Fresh;
use mamos_store::{SqliteSettings, SqliteStore};

async fn fresh() -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    let settings = SqliteSettings::new(directory.path().join("mamos.db"));
    Fresh::with_guard(SqliteStore::open(settings).await.unwrap(), directory)
}

mamos_store::store_conformance!(fresh);
