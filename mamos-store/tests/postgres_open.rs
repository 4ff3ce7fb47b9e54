//! Opening: schemas, versions, rights, and errors that say what to do. And the host's own transaction.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::hint::{Heard, HintListener, lanes_ready};
use mamos_core::id::JobId;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::job::{NewJob, UniqueKey};
use mamos_core::store::{EnqueueResult, JobStore, Store};
use mamos_core::{ErrorKind, JobState};
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::{PostgresSchema, PostgresServer, free_port};
use sqlx::{Connection, PgConnection};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn job(n: u128) -> NewJob {
    let lane = Lane::new("mail".parse().unwrap(), "mail.send".parse().unwrap(), Selector::any());
    NewJob::new(JobId::from_parts(NOW, n), Arc::new(lane), Bytes::from(format!("payload {n}")))
}

fn settings(schema: &PostgresSchema) -> PostgresSettings {
    PostgresSettings::new(schema.url()).schema(schema.name()).connections(2)
}

/// The URL of the shared server for another user, database or password.
fn url(schema: &PostgresSchema, user: &str, database: &str) -> String {
    let address = schema.url().rsplit('@').next().unwrap().split('/').next().unwrap().to_owned();
    format!("postgres://{user}@{address}/{database}")
}

async fn refused(settings: PostgresSettings, kind: ErrorKind, words: &str) {
    let error = PostgresStore::open(settings).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_who_open_at_once_all_find_the_tables() {
    let schema = PostgresSchema::unique();
    let opening: Vec<_> = (0..4).map(|_| tokio::spawn(PostgresStore::open(settings(&schema)))).collect();
    for opened in opening {
        let store = opened.await.unwrap().unwrap();
        assert!(store.queues_are_empty().await);
        store.close().await;
    }
    assert_eq!(schema.sql("SELECT count(*) = max(version) FROM _mamos_migrations"), "t");
}

#[tokio::test]
async fn tables_of_the_first_version_are_brought_up_to_date_with_what_is_in_them() {
    let schema = PostgresSchema::unique();
    let store = PostgresStore::open(settings(&schema)).await.unwrap();
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    store.close().await;
    // What the first version had instead of what came later.
    schema.sql("DROP INDEX mamos_job_ready");
    schema
        .sql("CREATE INDEX mamos_job_ready ON mamos_job (lane, priority DESC, run_at, seq) WHERE state = 2");
    schema.sql("DELETE FROM _mamos_migrations WHERE version > 1");
    refused(settings(&schema).migrate(false), ErrorKind::Config, "open it once with `migrate`").await;
    let short = Duration::from_secs(1);
    let mut somebody = PgConnection::connect(schema.url()).await.unwrap();
    let read = format!("BEGIN; SELECT count(*) FROM {}.mamos_job", schema.name());
    sqlx::raw_sql(sqlx::AssertSqlSafe(read)).execute(&mut somebody).await.unwrap();
    refused(settings(&schema).timeout(short), ErrorKind::Unavailable, "holds a lock").await;
    assert_eq!(schema.sql("SELECT max(version) FROM _mamos_migrations"), "1", "nothing was half done");
    somebody.close().await.unwrap();
    // Somebody else migrates, and that may take longer than daily work.
    let mut slow = PgConnection::connect(schema.url()).await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_lock(x'6d616d6f73000001'::bigint)").execute(&mut slow).await.unwrap();
    let done = async {
        tokio::time::sleep(2 * short).await;
        slow.close().await.unwrap();
    };
    let (store, ()) = tokio::join!(PostgresStore::open(settings(&schema).timeout(short)), done);
    let store = store.unwrap();
    assert_eq!(schema.sql("SELECT max(version) FROM _mamos_migrations"), "2");
    let index = schema.sql("SELECT indexdef FROM pg_indexes WHERE indexname = 'mamos_job_ready'");
    assert!(index.contains("- (priority)::integer"), "{index}");
    assert_eq!(store.job(job(1).id).await.unwrap().unwrap().state, JobState::Ready);
}

trait Empty {
    async fn queues_are_empty(&self) -> bool;
}

impl Empty for PostgresStore {
    async fn queues_are_empty(&self) -> bool {
        mamos_core::store::QueueStore::queues(self).await.unwrap().is_empty()
    }
}

#[tokio::test]
async fn what_was_stored_is_there_when_it_is_opened_again() {
    let schema = PostgresSchema::unique();
    let store = PostgresStore::open(settings(&schema)).await.unwrap();
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    store.close().await;
    assert_eq!(store.enqueue(vec![job(2)], NOW).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.job(job(1).id).await.unwrap_err().kind(), ErrorKind::Closed);
    // Without the right to change tables, as daily work should be.
    let store = PostgresStore::open(settings(&schema).migrate(false)).await.unwrap();
    assert_eq!(store.job(job(1).id).await.unwrap().unwrap().state, JobState::Ready);
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused_and_left_as_it_is() {
    let schema = PostgresSchema::unique();
    PostgresStore::open(settings(&schema)).await.unwrap().close().await;
    schema.sql("INSERT INTO _mamos_migrations VALUES (99)");
    refused(settings(&schema), ErrorKind::Config, "schema version 99").await;
    refused(settings(&schema).migrate(false), ErrorKind::Config, "use the newer version").await;
}

#[tokio::test]
async fn missing_tables_are_an_error_when_migrations_are_off() {
    let schema = PostgresSchema::unique();
    refused(settings(&schema).migrate(false), ErrorKind::Config, "open it once with `migrate`").await;
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let schema = PostgresSchema::unique();
    for wrong in ["", "mysql://host/db", "postgres://user:se%ret@host:port/db", "/var/lib/mamos.db"] {
        refused(PostgresSettings::new(wrong), ErrorKind::Config, "cannot be understood").await;
    }
    refused(settings(&schema).schema(""), ErrorKind::Config, "`schema`").await;
    refused(settings(&schema).schema("pg_mamos"), ErrorKind::Config, "pg_").await;
    let nobody = url(&schema, "mamos_nobody:secret", "test");
    refused(PostgresSettings::new(nobody), ErrorKind::Config, "check the user in the URL").await;
    let nowhere = url(&schema, "postgres", "mamos_no_such_database");
    refused(PostgresSettings::new(nowhere), ErrorKind::Config, "no such database").await;
    let timeout = Duration::from_secs(10);
    let closed = format!("postgres://postgres@127.0.0.1:{}/test", free_port());
    refused(PostgresSettings::new(closed).timeout(timeout), ErrorKind::Unavailable, "check that it runs")
        .await;
    let unknown = "postgres://postgres@no-such-host.invalid/test";
    refused(PostgresSettings::new(unknown).timeout(timeout), ErrorKind::Unavailable, "no-such-host").await;
}

#[tokio::test]
async fn a_password_is_never_shown() {
    let server = PostgresServer::start();
    let url = server.url().replace("postgres@", "postgres:hunter2@");
    let settings = PostgresSettings::new(&url);
    assert!(!format!("{settings:?}").contains("hunter2"));
    let store = PostgresStore::open(settings).await.unwrap();
    let hints = store.hints().unwrap();
    let listener = hints.listen().await.unwrap();
    for shown in [format!("{store:?}"), store.describe(), format!("{hints:?}{listener:?}"), hints.describe()]
    {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let error = PostgresStore::open(PostgresSettings::new(url.replace("/test", "/none"))).await.unwrap_err();
    assert!(!format!("{error:?}{error}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    let schema = PostgresSchema::unique();
    let role = schema.name().to_owned();
    let limited = PostgresSettings::new(url(&schema, &role, "test")).schema(schema.name());
    schema.sql(&format!("CREATE ROLE {role} LOGIN"));
    // It may make no schema.
    let no_schema = PostgresStore::open(limited.clone()).await.unwrap_err();
    // The tables are somebody else's.
    PostgresStore::open(settings(&schema)).await.unwrap().close().await;
    schema.sql(&format!("GRANT USAGE ON SCHEMA {role} TO {role}"));
    let no_tables = PostgresStore::open(limited.clone()).await.unwrap_err();
    schema.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA {role} TO {role}"));
    let no_writes = PostgresStore::open(limited.clone()).await.unwrap_err();
    schema.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {role} TO {role}; \
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA {role} TO {role}"
    ));
    let with_rights = PostgresStore::open(limited).await;
    let stored = match &with_rights {
        Ok(store) => Some(store.enqueue(vec![job(1)], NOW).await),
        Err(_) => None,
    };
    if let Ok(store) = &with_rights {
        store.close().await;
    }
    schema.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    for error in [no_schema, no_tables, no_writes] {
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("lacks a right"), "{error}");
    }
    with_rights.unwrap();
    assert_eq!(stored.unwrap().unwrap()[0].result, EnqueueResult::Stored(JobState::Ready));
}

#[tokio::test]
async fn a_read_only_server_is_told_apart() {
    let schema = PostgresSchema::unique();
    PostgresStore::open(settings(&schema)).await.unwrap().close().await;
    let url = format!("{}?options=-c%20default_transaction_read_only%3Don", schema.url());
    let read_only = PostgresSettings::new(url).schema(schema.name());
    refused(read_only, ErrorKind::Unavailable, "name the primary").await;
}

#[tokio::test]
async fn a_server_without_free_connections_says_so() {
    let server = PostgresServer::with_settings(&["max_connections=4", "superuser_reserved_connections=0"]);
    let mut held = Vec::new();
    while let Ok(connection) = PgConnection::connect(&server.url()).await {
        held.push(connection);
        assert!(held.len() < 10);
    }
    refused(PostgresSettings::new(server.url()), ErrorKind::Unavailable, "max_connections").await;
}

#[tokio::test]
async fn jobs_are_stored_exactly_if_the_host_commits() {
    let schema = PostgresSchema::unique();
    let store = PostgresStore::open(settings(&schema)).await.unwrap();
    let mut host = PgConnection::connect(schema.url()).await.unwrap();

    let mut transaction = host.begin().await.unwrap();
    let stored = store.enqueue_in(&mut transaction, vec![job(1), job(1)], NOW).await.unwrap();
    let results: Vec<EnqueueResult> = stored.into_iter().map(|stored| stored.result).collect();
    assert_eq!(results, [EnqueueResult::Stored(JobState::Ready), EnqueueResult::Repeat(JobState::Ready)]);
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(path, "\"$user\", public", "the host's settings are as they were");
    assert!(store.job(job(1).id).await.unwrap().is_none(), "nobody sees it yet");
    transaction.rollback().await.unwrap();
    assert!(store.job(job(1).id).await.unwrap().is_none());

    let mut transaction = host.begin().await.unwrap();
    let key = Some(UniqueKey::new("one").unwrap());
    let keyed = NewJob { unique_key: key.clone(), ..job(2) };
    let other = NewJob { unique_key: key, ..job(3) };
    let stored = store.enqueue_in(&mut transaction, vec![keyed, other], NOW).await.unwrap();
    assert_eq!(stored[1].result, EnqueueResult::UniqueKeyTaken { by: job(2).id });
    transaction.commit().await.unwrap();
    assert_eq!(store.job(job(2).id).await.unwrap().unwrap().state, JobState::Ready);

    // Without a transaction around it, it is one of its own.
    store.enqueue_in(&mut host, vec![job(4)], NOW).await.unwrap();
    assert_eq!(store.job(job(4).id).await.unwrap().unwrap().state, JobState::Ready);
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut host).await.unwrap();
    assert_eq!(path, "\"$user\", public");
}

/// What comes next. A hint that was told comes soon.
async fn heard(listener: &mut dyn HintListener) -> Heard {
    tokio::time::timeout(Duration::from_secs(30), listener.next()).await.expect("nothing is heard")
}

#[tokio::test]
async fn orchestrators_hear_of_the_hosts_jobs_with_its_commit() {
    let schema = PostgresSchema::unique();
    let store = PostgresStore::open(settings(&schema)).await.unwrap();
    let hints = store.hints().unwrap();
    let mut listener = hints.listen().await.unwrap();
    let mut host = PgConnection::connect(schema.url()).await.unwrap();
    let lane = |job: &NewJob| lanes_ready(vec![job.lane.id()]).remove(0);
    let later = NewJob { run_at: Some(NOW + Duration::from_secs(60)), ..job(1) };
    let other = Lane::new("mail".parse().unwrap(), "mail.read".parse().unwrap(), Selector::any());
    let other = NewJob { lane: Arc::new(other), ..job(5) };

    // Rolled back, not due, there already, or not wanted: nobody hears of that. Hints keep their order, so the
    // first that is heard tells.
    let mut transaction = host.begin().await.unwrap();
    store.enqueue_in(&mut transaction, vec![job(2)], NOW).await.unwrap();
    transaction.rollback().await.unwrap();
    store.enqueue_in(&mut host, vec![later], NOW).await.unwrap();
    let silent = settings(&schema).hints_with_commit(false);
    let silent = PostgresStore::open(silent).await.unwrap();
    silent.enqueue_in(&mut host, vec![job(3)], NOW).await.unwrap();
    store.enqueue_in(&mut host, vec![job(3)], NOW).await.unwrap();

    let mut transaction = host.begin().await.unwrap();
    store.enqueue_in(&mut transaction, vec![other.clone(), job(3)], NOW).await.unwrap();
    // Told by another connection meanwhile, and heard before, as the transaction is still open.
    hints.tell(vec![Bytes::from_static(b"meanwhile")]).await.unwrap();
    assert_eq!(heard(&mut *listener).await, Heard::Hint(Bytes::from_static(b"meanwhile")));
    transaction.commit().await.unwrap();
    assert_eq!(heard(&mut *listener).await, Heard::Hint(lane(&other)));

    // Without a transaction, at once.
    store.enqueue_in(&mut host, vec![job(4)], NOW).await.unwrap();
    assert_eq!(heard(&mut *listener).await, Heard::Hint(lane(&job(4))));
}
