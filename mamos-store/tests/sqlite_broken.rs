//! Rows of SQLite that cannot be understood. Its columns take values of any type.

#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/broken.rs"]
mod broken;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::Store;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::lease::Verdict;
use mamos_core::store::{ClaimGroup, PageRequest, Taker};
use mamos_store::{Durability, SqliteSettings, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};

use crate::broken::{Bed, Database, NOW, TTL, admit, attach, ids, job, jobs, lane};

/// Someone else's connection to the file of the store.
struct File {
    host: SqliteConnection,
    _directory: tempfile::TempDir,
}

impl Database for File {
    const DAMAGE: &'static [(&'static str, &'static str)] = &[
        ("UPDATE mamos_spec SET details = '{\"timeout\":' WHERE seq = 2", "details"),
        ("UPDATE mamos_spec SET details = '[1, 2]' WHERE seq = 2", "details"),
        ("UPDATE mamos_spec SET details = x'00ff' WHERE seq = 2", "details"),
        ("UPDATE mamos_spec SET details = CAST(x'7b22ff' AS TEXT) WHERE seq = 2", "details"),
        ("UPDATE mamos_spec SET payload = 5 WHERE seq = 2", "payload"),
        ("DELETE FROM mamos_spec WHERE seq = 2", "payload"),
        ("UPDATE mamos_job SET id = x'01' WHERE seq = 2", "id"),
        ("UPDATE mamos_job SET epoch = x'01' WHERE seq = 2", "epoch"),
        ("UPDATE mamos_job SET attempt = -4 WHERE seq = 2", "attempt"),
        ("UPDATE mamos_job SET priority = 'high' WHERE seq = 2", "priority"),
        ("UPDATE mamos_job SET run_at = 1.5 WHERE seq = 2", "run_at"),
    ];
    const BROKEN_AGENT: &'static [&'static str] =
        &["profile = 'garbage'", "public_key = x'01'", "instance = x'01'", "revoked_at = 'long ago'"];
    const BROKEN_DOCUMENT: &'static [&'static str] =
        &["value = 5", "revision = -1", "revision = 'first'", "expires_at = 'never'"];
    const KEY_2: &'static str = "x'32'";
    const NO_KEY: &'static str = "x'32ff'";

    async fn open() -> (Arc<dyn Store>, Self) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mamos.db");
        let settings = SqliteSettings::new(&path).durability(Durability::Off);
        let store = SqliteStore::open(settings).await.unwrap();
        let options = SqliteConnectOptions::new().filename(&path);
        let host = SqliteConnection::connect_with(&options).await.unwrap();
        (Arc::new(store), Self { host, _directory: directory })
    }

    async fn change(&mut self, statement: &str) -> u64 {
        let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut self.host).await;
        done.unwrap().rows_affected()
    }

    async fn text(&mut self, query: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut self.host).await.unwrap()
    }
}

broken_rows!(File);

#[tokio::test]
async fn a_sweep_gets_past_times_that_are_none() {
    let mut bed = Bed::<File>::new().await;
    let later = Some(NOW + Duration::from_secs(5));
    let due = |n| NewJob { run_at: later, ..job(n) };
    let overdue = NewJob { deadline: later, ..job(3) };
    bed.store.enqueue(vec![due(1), due(2), overdue], NOW).await.unwrap();
    bed.damage("UPDATE mamos_job SET run_at = x'00' WHERE seq = 1").await;
    bed.damage("UPDATE mamos_job SET is_cancel = x'00' WHERE seq = 3").await;
    let swept = bed.store.sweep(100, NOW + TTL).await.unwrap();
    assert_eq!((swept.promoted, swept.overdue.len(), swept.has_more), (1, 0, false));
    assert_eq!((bed.state(3).await, bed.failure(3).await.0), (6, "corrupt".to_owned()));
    bed.damage("UPDATE mamos_job SET deadline = x'00' WHERE seq = 2").await;
    let swept = bed.store.sweep(100, NOW + TTL).await.unwrap();
    assert_eq!((swept.next_due, swept.has_more), (None, false));
}

#[tokio::test]
async fn a_broken_session_or_lane_leaves_the_others_alone() {
    let mut bed = Bed::<File>::new().await;
    bed.enqueue(1).await;
    let other = Arc::new(Lane::new("other".parse().unwrap(), "other".parse().unwrap(), Selector::any()));
    let lost = NewJob::new(JobId::from_parts(NOW, 99), other, Bytes::new());
    bed.store.enqueue(vec![lost], NOW).await.unwrap();
    let agent = admit(&*bed.store, 2).await;
    let broken = attach(&*bed.store, &agent, 2, Vec::new()).await.session;
    bed.damage("UPDATE mamos_session SET agent = 'nobody' WHERE no = 2").await;
    bed.damage("UPDATE mamos_lane SET queue = '!' WHERE queue = 'other'").await;
    let verdicts = bed.store.renew(vec![broken, bed.session], TTL, NOW).await.unwrap();
    assert_eq!(verdicts, [Verdict::Missing, Verdict::Applied]);
    assert_eq!(bed.store.sessions().await.unwrap().len(), 1);
    assert_eq!(bed.store.ready_lanes().await.unwrap().len(), 1);
    let takers = [broken, bed.session].map(|session| Taker { session, limit: 5 });
    let group = ClaimGroup { lanes: vec![lane().id()], takers: takers.to_vec() };
    let claimed = bed.store.claim(vec![group], NOW).await.unwrap();
    assert_eq!(claimed.stale, [broken.id]);
    assert_eq!(ids(&jobs(claimed)), [job(1).id]);
    assert_eq!(bed.store.agents(PageRequest::default()).await.unwrap().items.len(), 2);
}
