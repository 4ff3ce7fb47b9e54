//! Baselines in SQL on a PostgreSQL, with the same library: what the database costs.
//!
//! One narrow table, with the partial index that a claim needs, and nothing else: no fencing, no
//! sessions, no retries, no history.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::task::JoinSet;

use super::sqlite::Finished;
use crate::measures::enqueue::{CALLERS, take_one};
use crate::measures::latency::nanos;
use crate::measures::{BULK, payload};
use crate::settings::Settings;

/// How many jobs one statement claims or finishes.
const BATCH: i64 = 500;
/// How many connections do so at once.
const CONNECTIONS: u32 = 8;

const TABLE: &str = "
    CREATE TABLE job (
        id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        state    smallint NOT NULL DEFAULT 0,
        priority smallint NOT NULL DEFAULT 0,
        run_at   bigint NOT NULL,
        payload  bytea NOT NULL
    );
    CREATE INDEX job_ready ON job (priority DESC, run_at, id) WHERE state = 0;
";
const INSERT: &str = "INSERT INTO job (run_at, payload) VALUES ($1, $2)";
const INSERT_ALL: &str = "INSERT INTO job (run_at, payload) SELECT * FROM unnest($1::bigint[], $2::bytea[])";
const CLAIM: &str = "
    WITH picked AS MATERIALIZED (
        SELECT id FROM job WHERE state = 0 ORDER BY priority DESC, run_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE job SET state = 1 FROM picked WHERE job.id = picked.id RETURNING job.id, job.payload
";
const FINISH: &str = "UPDATE job SET state = 2 WHERE state = 1 AND id = ANY($1)";
const DELETE: &str = "DELETE FROM job WHERE state = 1 AND id = ANY($1)";

/// A schema of its own on the server.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Schema {
    /// A name that no other run has, on the given server or the one on this machine.
    pub(crate) fn unique(url: Option<&str>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mamos_bench_{}_{number}", std::process::id());
        Self {
            url: url.unwrap_or("postgres://postgres@127.0.0.1:5432/test?sslmode=disable").to_owned(),
            name,
        }
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<PgConnection> {
        let failed = || "the server does not take a connection; name another one with --url".to_owned();
        PgConnection::connect(&self.url).await.with_context(failed)
    }

    /// Drops it with everything in it.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let drop = format!("SET client_min_messages = error; DROP SCHEMA IF EXISTS {} CASCADE", self.name);
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await?;
        Ok(())
    }
}

/// The one table, and connections to it.
struct Database {
    schema: Schema,
    pool: PgPool,
}

impl Database {
    async fn make(settings: &Settings) -> anyhow::Result<Self> {
        let schema = Schema::unique(settings.url.as_deref());
        let mut connection = schema.connect().await?;
        let path = format!("SET search_path = {}; SET jit = off", schema.name);
        let create = format!("CREATE SCHEMA {}; {path}; {TABLE}", schema.name);
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
        let pool = PgPoolOptions::new()
            .min_connections(CONNECTIONS)
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let path = path.clone();
                Box::pin(
                    async move { sqlx::raw_sql(AssertSqlSafe(path)).execute(connection).await.map(|_| ()) },
                )
            })
            .connect(&schema.url)
            .await?;
        Ok(Self { schema, pool })
    }

    async fn insert_all(&self, count: u64, payload_bytes: usize) -> anyhow::Result<Duration> {
        let payload = payload(payload_bytes);
        let mut connection = self.pool.acquire().await?;
        let begun = Instant::now();
        for first in (0..count).step_by(BULK) {
            let last = (first + BULK as u64).min(count);
            let times: Vec<i64> = (first..last).map(|at| at as i64).collect();
            let payloads = vec![payload.as_ref(); times.len()];
            sqlx::query(INSERT_ALL).bind(times).bind(payloads).execute(&mut *connection).await?;
        }
        Ok(begun.elapsed())
    }

    async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        self.schema.remove().await
    }
}

/// Claims up to that many, and gives their ids with the bytes of their payloads.
async fn claim(connection: &mut PgConnection, limit: i64) -> anyhow::Result<(Vec<i64>, usize)> {
    let rows = sqlx::query(CLAIM).bind(limit).fetch_all(connection).await?;
    let mut bytes = 0;
    let mut ids = Vec::with_capacity(rows.len());
    for row in &rows {
        ids.push(row.try_get::<i64, _>(0)?);
        bytes += row.try_get::<&[u8], _>(1)?.len();
    }
    Ok((ids, bytes))
}

async fn finish(connection: &mut PgConnection, ids: Vec<i64>, finished: Finished) -> anyhow::Result<u64> {
    let statement = match finished {
        Finished::Kept => FINISH,
        Finished::Deleted => DELETE,
    };
    Ok(sqlx::query(statement).bind(ids).execute(connection).await?.rows_affected())
}

/// Inserts one at a time, a commit each; the callers share the connections.
pub(crate) async fn enqueue(settings: &Settings, count: u64) -> anyhow::Result<Duration> {
    let database = Database::make(settings).await?;
    let left = Arc::new(AtomicU64::new(count));
    let mut callers: JoinSet<sqlx::Result<()>> = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CALLERS {
        let (pool, left) = (database.pool.clone(), Arc::clone(&left));
        let payload = payload(settings.payload_bytes);
        callers.spawn(async move {
            while take_one(&left) {
                sqlx::query(INSERT).bind(0_i64).bind(payload.as_ref()).execute(&pool).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let took = begun.elapsed();
    database.close().await?;
    Ok(took)
}

/// Inserts many at a time.
pub(crate) async fn bulk(settings: &Settings, count: u64) -> anyhow::Result<Duration> {
    let database = Database::make(settings).await?;
    let took = database.insert_all(count, settings.payload_bytes).await?;
    database.close().await?;
    Ok(took)
}

/// Claims and finishes everything, on several connections at once.
pub(crate) async fn drain(settings: &Settings, count: u64, finished: Finished) -> anyhow::Result<Duration> {
    let database = Database::make(settings).await?;
    database.insert_all(count, settings.payload_bytes).await?;
    let mut workers: JoinSet<anyhow::Result<(u64, usize)>> = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        let pool = database.pool.clone();
        workers.spawn(async move {
            let mut connection = pool.acquire().await?;
            let (mut done, mut bytes) = (0, 0);
            loop {
                let (ids, read) = claim(&mut connection, BATCH).await?;
                if ids.is_empty() {
                    return Ok((done, bytes));
                }
                bytes += read;
                done += finish(&mut connection, ids, finished).await?;
            }
        });
    }
    let (mut done, mut bytes) = (0, 0);
    while let Some(worker) = workers.join_next().await {
        let (finished, read) = worker??;
        done += finished;
        bytes += read;
    }
    let took = begun.elapsed();
    anyhow::ensure!(done == count && bytes > 0, "the baseline finished {done} of {count} jobs");
    database.close().await?;
    Ok(took)
}

/// Inserts one and claims it, one at a time after a pause.
pub(crate) async fn latency(
    settings: &Settings,
    samples: u64,
    pause: Duration,
) -> anyhow::Result<Histogram<u64>> {
    let database = Database::make(settings).await?;
    let mut connection = database.pool.acquire().await?;
    let payload = payload(settings.payload_bytes);
    let mut histogram = Histogram::new(3)?;
    for _ in 0..samples {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        sqlx::query(INSERT).bind(0_i64).bind(payload.as_ref()).execute(&mut *connection).await?;
        let (claimed, _) = claim(&mut connection, 1).await?;
        histogram.record(nanos(begun.elapsed()))?;
        anyhow::ensure!(claimed.len() == 1, "the baseline claimed {} jobs instead of one", claimed.len());
        finish(&mut connection, claimed, Finished::Kept).await?;
    }
    drop(connection);
    database.close().await?;
    Ok(histogram)
}
