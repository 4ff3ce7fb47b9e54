//! What the SQLite store does with its file: restarts, damage, limits, neighbours.

#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::store::{
    AgentStore, DocumentChange, DocumentStore, DocumentWrite, EnqueueResult, Expected, JobFilter, JobStore,
    PageRequest, QueueStore, Store, Written,
};
use mamos_core::{ErrorKind, JobState};
use mamos_store::{Durability, SqliteSettings, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn job(n: u128) -> NewJob {
    let lane = Lane::new("mail".parse().unwrap(), "mail.send".parse().unwrap(), Selector::any());
    NewJob::new(JobId::from_parts(NOW, n), Arc::new(lane), Bytes::from(vec![b'x'; 1000]))
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(SqliteSettings::new(path)).await.unwrap()
}

/// A connection of someone else's to the same file.
async fn host(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn stored(store: &SqliteStore) -> usize {
    store.jobs(JobFilter::default(), PageRequest::first(1000)).await.unwrap().items.len()
}

#[tokio::test]
async fn all_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let store = open(&path).await;
    store.enqueue(vec![job(1), job(2)], NOW).await.unwrap();
    store.set_paused(&"mail".parse().unwrap(), true).await.unwrap();
    let before = store.job(job(1).id).await.unwrap();
    store.close().await;
    assert_eq!(store.enqueue(vec![job(3)], NOW).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(!directory.path().join("mamos.db-wal").exists(), "a closed file stands alone");

    let store = open(&path).await;
    assert_eq!(store.job(job(1).id).await.unwrap(), before);
    assert!(before.is_some());
    assert_eq!(store.paused_queues().await.unwrap().len(), 1);
    assert_eq!(
        store.enqueue(vec![job(2)], NOW).await.unwrap()[0].result,
        EnqueueResult::Repeat(JobState::Ready)
    );
}

#[tokio::test]
async fn documents_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let put = |key: &str, bytes: usize, expires_at| DocumentWrite {
        collection: "notes".to_owned(),
        key: key.to_owned(),
        expected: Expected::Absent,
        change: DocumentChange::Put { value: vec![0xfe; bytes].into(), expires_at },
    };
    let writes = vec![put("large", 1024 * 1024, None), put("short", 3, Some(NOW + Duration::from_secs(9)))];
    let store = open(&path).await;
    store.write_documents(writes.clone(), NOW).await.unwrap();
    let before = store.document("notes", "short", NOW).await.unwrap();
    store.close().await;

    let store = open(&path).await;
    assert_eq!(store.document("notes", "short", NOW).await.unwrap(), before);
    assert_eq!(store.document("notes", "large", NOW).await.unwrap().unwrap().value.len(), 1024 * 1024);
    assert_eq!(store.document("notes", "short", NOW + Duration::from_secs(9)).await.unwrap(), None);
    // An answer that was lost in the crash is given now.
    assert_eq!(store.write_documents(writes, NOW).await.unwrap(), [Written::Done(1), Written::Done(1)]);
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_its_files() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("mamos.db")).await;
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    assert_eq!(stored(&store).await, 1);
    store.backup(&directory.path().join("copy.db")).await.unwrap();
    let mut modes = Vec::new();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        modes.push((file.file_name().into_string().unwrap(), mode));
    }
    modes.sort();
    let wanted = ["copy.db", "mamos.db", "mamos.db-shm", "mamos.db-wal"];
    assert_eq!(modes, wanted.map(|name| (name.to_owned(), 0o600)));
}

#[cfg(unix)]
#[tokio::test]
async fn the_permissions_of_a_file_that_is_there_are_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    open(&path).await.close().await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    open(&path).await.close().await;
    let mut host = host(&path).await;
    sqlx::query("INSERT INTO _mamos_migrations VALUES (99)").execute(&mut host).await.unwrap();
    let error = SqliteStore::open(SqliteSettings::new(&path)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("schema 99"), "{error}");
    assert!(error.to_string().contains("mamos.db"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    std::fs::write(&path, "this is a text and no database at all\n".repeat(500)).unwrap();
    let error = SqliteStore::open(SqliteSettings::new(&path)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("mamos.db"), "{error}");
}

#[tokio::test]
async fn a_path_that_cannot_work_is_a_matter_of_settings() {
    let directory = tempfile::tempdir().unwrap();
    let read_only = directory.path().join("read-only.db");
    open(&read_only).await.close().await;
    let mut permissions = std::fs::metadata(&read_only).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&read_only, permissions).unwrap();
    let sealed = directory.path().join("sealed");
    std::fs::create_dir(&sealed).unwrap();
    let mut permissions = std::fs::metadata(&sealed).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&sealed, permissions).unwrap();
    let cases = [
        (directory.path().to_path_buf(), "is a directory"),
        (directory.path().join("nowhere/mamos.db"), "does not exist; create it"),
        (read_only, "read-only"),
        (sealed.join("mamos.db"), "read-only"),
    ];
    for (path, expected) in cases {
        let error = SqliteStore::open(SqliteSettings::new(&path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_full_file_refuses_what_does_not_fit_and_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let store = SqliteStore::open(SqliteSettings::new(&path).max_bytes(400 * 1024)).await.unwrap();
    let mut acknowledged = 0;
    let error = loop {
        let jobs = (0..10).map(|n| job(acknowledged + n)).collect();
        match store.enqueue(jobs, NOW).await {
            Ok(_) => acknowledged += 10,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(acknowledged >= 100, "{acknowledged}");
    store.close().await;

    let store = SqliteStore::open(SqliteSettings::new(&path)).await.unwrap();
    assert_eq!(stored(&store).await as u128, acknowledged);
    // With room again, the refused ones can be stored.
    assert!(store.enqueue(vec![job(acknowledged)], NOW).await.is_ok());
}

#[tokio::test]
async fn one_bad_operation_of_a_batch_does_not_fail_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let store = Arc::new(open(&path).await);
    store.enqueue(vec![job(1), job(2)], NOW).await.unwrap();
    let mut host = host(&path).await;
    sqlx::query("UPDATE mamos_job SET state = 77 WHERE seq = 1").execute(&mut host).await.unwrap();
    // All are queued before the writer gets its turn, so that they share a transaction.
    let (bad, good, other) = tokio::join!(
        store.cancel(vec![job(1).id], mamos_core::job::CancelRequest::new("", Duration::ZERO), NOW),
        store.cancel(vec![job(2).id], mamos_core::job::CancelRequest::new("", Duration::ZERO), NOW),
        store.enqueue(vec![job(3)], NOW),
    );
    let bad = bad.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Corrupt, "{bad}");
    assert!(bad.to_string().contains("77"), "{bad}");
    assert!(good.is_ok() && other.is_ok());
    assert_eq!(store.job(job(1).id).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.job(job(2).id).await.unwrap().unwrap().state, JobState::Cancelled);
}

#[tokio::test]
async fn a_locked_file_is_unavailable_and_then_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let settings = SqliteSettings::new(&path).busy_timeout(Duration::from_millis(20));
    let store = SqliteStore::open(settings).await.unwrap();
    let mut host = host(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut host).await.unwrap();
    let error = store.enqueue(vec![job(1)], NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("locked by another connection"), "{error}");
    // Readers do not wait for writers.
    assert_eq!(stored(&store).await, 0);
    sqlx::query("ROLLBACK").execute(&mut host).await.unwrap();
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    assert_eq!(stored(&store).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let stores = [Arc::new(open(&path).await), Arc::new(open(&path).await)];
    let mut tasks = Vec::new();
    for (n, store) in (0..200_u128).zip(stores.iter().cycle().cloned()) {
        // Half of the ids are stored by both.
        tasks.push(tokio::spawn(async move { store.enqueue(vec![job(n / 2)], NOW).await.unwrap() }));
    }
    let mut fresh = 0;
    for task in tasks {
        fresh += usize::from(matches!(task.await.unwrap()[0].result, EnqueueResult::Stored(_)));
    }
    assert_eq!(fresh, 100);
    for store in &stores {
        assert_eq!(stored(store).await, 100);
    }
}

#[tokio::test]
async fn the_tables_of_the_host_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.db");
    let mut host = host(&path).await;
    let tables = "CREATE TABLE job (name TEXT); INSERT INTO job VALUES ('mine'); \
                  CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY); \
                  INSERT INTO _sqlx_migrations VALUES (42)";
    sqlx::raw_sql(tables).execute(&mut host).await.unwrap();
    let store = open(&path).await;
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    let row = sqlx::query("SELECT (SELECT name FROM job), (SELECT version FROM _sqlx_migrations)");
    let row = row.fetch_one(&mut host).await.unwrap();
    assert_eq!((row.get::<String, _>(0), row.get::<i64, _>(1)), ("mine".to_owned(), 42));
    let foreign = "SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'mamos%' AND name NOT LIKE '_mamos%' \
                   AND name NOT LIKE 'sqlite_%' AND name NOT IN ('job', '_sqlx_migrations')";
    let row = sqlx::query(foreign).fetch_one(&mut host).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 0, "every table of ours begins with mamos");
}

#[tokio::test]
async fn what_a_dropped_caller_queued_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("mamos.db")).await;
    for n in 0..50 {
        let mut call = store.enqueue(vec![job(n)], NOW);
        // Polled once, which queues it, and then dropped.
        let waker = std::task::Waker::noop();
        assert!(call.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        drop(call);
    }
    // The writer takes operations in order, so these were done before.
    store.enqueue(vec![job(50)], NOW).await.unwrap();
    assert_eq!(stored(&store).await, 51);
}

#[tokio::test]
async fn a_backup_holds_everything_and_opens() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("mamos.db")).await;
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    let copy = directory.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    assert_eq!(stored(&open(&copy).await).await, 1);
    let error = store.backup(&copy).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unavailable, "store.backup"));
    assert!(error.to_string().contains("copy.db"), "{error}");
    assert_eq!(stored(&open(&copy).await).await, 1, "it never overwrites");
}

#[tokio::test]
async fn the_store_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let settings = SqliteSettings::new(&path).durability(Durability::Normal).readers(1);
    let store = SqliteStore::open(settings).await.unwrap();
    assert_eq!(store.describe(), format!("sqlite (durability normal) at {}", path.display()));
    assert!(store.agents(PageRequest::default()).await.unwrap().items.is_empty());
}
