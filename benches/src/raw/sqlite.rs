//! Baselines in SQL, with the same library and the same durability: what the database costs.
//!
//! One narrow table, with the partial index that a claim needs, and nothing else: no fencing, no
//! sessions, no retries, no history.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Row};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::bed;
use crate::measures::enqueue::{CALLERS, take_one};
use crate::measures::latency::nanos;
use crate::measures::{BULK, payload};
use crate::settings::{Durability, Settings};

/// How many jobs one transaction claims or finishes.
const BATCH: u64 = 500;

const SCHEMA: &str = "
    CREATE TABLE job (
        id       INTEGER PRIMARY KEY,
        state    INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        run_at   INTEGER NOT NULL,
        payload  BLOB NOT NULL
    );
    CREATE INDEX job_ready ON job (priority DESC, run_at, id) WHERE state = 0;
";
const INSERT: &str = "INSERT INTO job (state, priority, run_at, payload) VALUES (0, 0, ?, ?)";
const CLAIM: &str = "
    UPDATE job SET state = 1 WHERE id IN (
        SELECT id FROM job WHERE state = 0 ORDER BY priority DESC, run_at, id LIMIT ?
    ) RETURNING id, payload
";
const FINISH: &str = "UPDATE job SET state = 2 WHERE state = 1 AND id IN (SELECT value FROM json_each(?))";
const DELETE: &str = "DELETE FROM job WHERE state = 1 AND id IN (SELECT value FROM json_each(?))";

/// What becomes of a finished row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finished {
    Kept,
    Deleted,
}

/// A database with the one table.
struct Database {
    connection: SqliteConnection,
    _directory: TempDir,
}

impl Database {
    async fn make(settings: &Settings) -> anyhow::Result<Self> {
        let directory = bed::directory(settings)?;
        let path = directory.path().join("raw.db");
        let synchronous = match settings.durability {
            Durability::Full => SqliteSynchronous::Full,
            Durability::Normal => SqliteSynchronous::Normal,
            Durability::Off => SqliteSynchronous::Off,
        };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            // As the store of MAMOS has them: a baseline with worse settings would flatter it.
            .pragma("cache_size", "-65536")
            .pragma("wal_autocheckpoint", "4096")
            .row_buffer_size(1024);
        let mut connection = SqliteConnection::connect_with(&options)
            .await
            .with_context(|| format!("no database can be made at {}; is the disk full?", path.display()))?;
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
        Ok(Self { connection, _directory: directory })
    }

    async fn insert_all(&mut self, count: u64, payload_bytes: usize) -> anyhow::Result<Duration> {
        let payload = payload(payload_bytes);
        let insert = |rows: u64| {
            let values = vec!["(0, 0, ?, ?)"; usize::try_from(rows).unwrap_or(BULK)].join(", ");
            format!("INSERT INTO job (state, priority, run_at, payload) VALUES {values}")
        };
        let whole = insert(BULK as u64);
        let begun = Instant::now();
        for first in (0..count).step_by(BULK) {
            let last = (first + BULK as u64).min(count);
            let statement = if last - first == BULK as u64 { whole.clone() } else { insert(last - first) };
            let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
            for run_at in first..last {
                query = query.bind(i64::try_from(run_at)?).bind(payload.as_ref());
            }
            let mut transaction = self.connection.begin().await?;
            query.execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ok(begun.elapsed())
    }

    /// Claims up to that many, and gives their ids as a JSON array, with the bytes of their payloads.
    async fn claim(&mut self, limit: u64) -> anyhow::Result<(u64, usize, String)> {
        let mut transaction = self.connection.begin().await?;
        let rows = sqlx::query(CLAIM).bind(i64::try_from(limit)?).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        let mut bytes = 0;
        let mut ids = Vec::with_capacity(rows.len());
        for row in &rows {
            ids.push(row.try_get::<i64, _>(0)?);
            bytes += row.try_get::<&[u8], _>(1)?.len();
        }
        Ok((rows.len() as u64, bytes, serde_json::to_string(&ids)?))
    }

    async fn finish(&mut self, ids: String, finished: Finished) -> anyhow::Result<u64> {
        let statement = match finished {
            Finished::Kept => FINISH,
            Finished::Deleted => DELETE,
        };
        let mut transaction = self.connection.begin().await?;
        let done = sqlx::query(statement).bind(ids).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(done.rows_affected())
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(self.connection.close().await?)
    }
}

/// Inserts one at a time, a commit each; the callers take turns on one connection.
pub(crate) async fn enqueue(settings: &Settings, count: u64) -> anyhow::Result<Duration> {
    let database = Arc::new(Mutex::new(Database::make(settings).await?));
    let left = Arc::new(AtomicU64::new(count));
    let mut callers: JoinSet<sqlx::Result<()>> = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CALLERS {
        let (database, left) = (Arc::clone(&database), Arc::clone(&left));
        let payload = payload(settings.payload_bytes);
        callers.spawn(async move {
            while take_one(&left) {
                let connection = &mut database.lock().await.connection;
                sqlx::query(INSERT).bind(0_i64).bind(payload.as_ref()).execute(connection).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(begun.elapsed())
}

/// Inserts many at a time.
pub(crate) async fn bulk(settings: &Settings, count: u64) -> anyhow::Result<Duration> {
    let mut database = Database::make(settings).await?;
    let took = database.insert_all(count, settings.payload_bytes).await?;
    database.close().await?;
    Ok(took)
}

/// Claims and finishes everything.
pub(crate) async fn drain(settings: &Settings, count: u64, finished: Finished) -> anyhow::Result<Duration> {
    let mut database = Database::make(settings).await?;
    database.insert_all(count, settings.payload_bytes).await?;
    let (mut done, mut bytes) = (0, 0);
    let begun = Instant::now();
    loop {
        let (claimed, read, ids) = database.claim(BATCH).await?;
        if claimed == 0 {
            break;
        }
        bytes += read;
        done += database.finish(ids, finished).await?;
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
    let mut database = Database::make(settings).await?;
    let payload = payload(settings.payload_bytes);
    let mut histogram = Histogram::new(3)?;
    for _ in 0..samples {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        let connection = &mut database.connection;
        sqlx::query(INSERT).bind(0_i64).bind(payload.as_ref()).execute(connection).await?;
        let (claimed, _, ids) = database.claim(1).await?;
        histogram.record(nanos(begun.elapsed()))?;
        anyhow::ensure!(claimed == 1, "the baseline claimed {claimed} jobs instead of one");
        database.finish(ids, Finished::Kept).await?;
    }
    database.close().await?;
    Ok(histogram)
}
