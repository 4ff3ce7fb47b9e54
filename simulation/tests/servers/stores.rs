//! The kit of stores over each of them.

use std::future::Future;
use std::sync::Arc;

use mamos_core::Store;
use mamos_store::conformance::{Fresh, PROMISES};
use mamos_store::{
    MemoryStore, PostgresSettings, PostgresStore, RedisSettings, RedisStore, SqliteSettings, SqliteStore,
};
use mamos_testbed::{PostgresSchema, RedisServer};

use super::{Line, beside, broken, kept, yes};

pub(crate) fn lines() -> Vec<Line> {
    vec![
        beside(|| line("memory", "nothing", || async { Fresh::new(MemoryStore::new()) })),
        beside(|| line("[SQLite](store-sqlite.md)", "both, with `durability` `full`", sqlite)),
        beside(|| line("[PostgreSQL](store-postgres.md)", "both, with `synchronous_commit` `on`", postgres)),
        beside(|| async {
            // One server for all promises: each has a prefix of its own.
            let server = Arc::new(RedisServer::start());
            let fresh = || redis(Arc::clone(&server));
            line("[Redis](store-redis.md)", "both, with `appendfsync` `always`", fresh).await
        }),
    ]
}

async fn line<F: Future<Output = Fresh>>(name: &str, survives: &str, fresh: impl Fn() -> F) -> String {
    let broken = broken(PROMISES.iter().map(|promise| {
        let fresh = fresh();
        async move { promise.failure(fresh.await).await.map(|_| promise.name) }
    }));
    let broken = broken.await;
    let one = fresh().await;
    let store: &Arc<dyn Store> = one.store();
    let (hints, time) = (store.hints().is_some(), store.time().await.unwrap().is_some());
    format!(
        "| {name} | {} | {} | {} | {} | {survives} |",
        kept(PROMISES.len(), &broken),
        yes(hints && time),
        yes(hints),
        yes(time),
    )
}

async fn sqlite() -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    let settings = SqliteSettings::new(directory.path().join("jobs.db"));
    Fresh::with_guard(SqliteStore::open(settings).await.unwrap(), directory)
}

async fn postgres() -> Fresh {
    let schema = PostgresSchema::unique();
    let settings = PostgresSettings::new(schema.url()).schema(schema.name()).connections(3);
    Fresh::with_guard(PostgresStore::open(settings).await.unwrap(), schema)
}

async fn redis(server: Arc<RedisServer>) -> Fresh {
    let settings = RedisSettings::new(server.url()).prefix(mamos_testbed::unique_name());
    Fresh::with_guard(RedisStore::open(settings).await.unwrap(), server)
}
