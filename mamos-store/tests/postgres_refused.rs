//! Servers that refuse: passwords, TLS and standbys. Each says what is wrong and what to do, and shows no password.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::sync::Arc;

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::store::{JobStore, Store};
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::PostgresServer;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn job(n: u128) -> NewJob {
    let lane = Lane::new("mail".parse().unwrap(), "mail.send".parse().unwrap(), Selector::any());
    NewJob::new(JobId::from_parts(NOW, n), Arc::new(lane), Bytes::new())
}

async fn refused(url: String, kind: ErrorKind, words: &str) {
    let error = PostgresStore::open(PostgresSettings::new(&url)).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(!format!("{error}{error:?}").contains("hunter"), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_one_are_told_and_not_shown() {
    let mut server = PostgresServer::start();
    server.sql("CREATE ROLE app LOGIN PASSWORD 'hunter2'; CREATE ROLE nologin PASSWORD 'hunter2'");
    server.sql("GRANT CREATE ON DATABASE test TO app");
    server.require_passwords();
    let at = format!("127.0.0.1:{}", server.port());
    let config = ErrorKind::Config;
    refused(format!("postgres://app:hunter1@{at}/test"), config, "refuses the password").await;
    refused(format!("postgres://app@{at}/test"), config, "the URL has none").await;
    // The server does not tell those from a wrong password.
    refused(format!("postgres://nobody:hunter2@{at}/test"), config, "refuses the password").await;
    refused(format!("postgres://nologin:hunter2@{at}/test"), config, "right to log in").await;
    refused(format!("postgres://app:hunter2@{at}/none"), config, "no such database").await;
    let right = PostgresSettings::new(format!("postgres://app:hunter2@{at}/test"));
    let store = PostgresStore::open(right).await.unwrap();
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    // The password changes while the store is open: connections are there, and new ones fail and say why.
    server.sql("ALTER ROLE app PASSWORD 'hunter3'");
    server.kill_backends();
    let error = loop {
        match store.enqueue(vec![job(2)], NOW).await {
            // The connection that was killed is noticed first.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            answer => break answer.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(!format!("{error}{error:?}").contains("hunter"), "{error:?}");
    server.sql("ALTER ROLE app PASSWORD 'hunter2'");
    store.enqueue(vec![job(2)], NOW).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let mut server = PostgresServer::start();
    let plain = server.url();
    refused(format!("{plain}?sslmode=require"), ErrorKind::Unavailable, "check `sslmode`").await;
    let root = server.offer_tls();
    let with = |more: &str| format!("{plain}?{more}");
    refused(with("sslmode=verify-full"), ErrorKind::Unavailable, "`sslrootcert`").await;
    let unknown = format!("sslmode=verify-full&sslrootcert={}.none", root.display());
    refused(with(&unknown), ErrorKind::Unavailable, "no file that sslrootcert").await;
    let alone = format!("sslmode=require&sslcert={}", root.display());
    refused(with(&alone), ErrorKind::Config, "asks for what cannot be had").await;
    for good in [format!("sslmode=verify-full&sslrootcert={}", root.display()), "sslmode=require".to_owned()]
    {
        let store = PostgresStore::open(PostgresSettings::new(with(&good))).await.unwrap();
        store.time().await.unwrap();
        let encrypted = "SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                         WHERE ssl AND application_name = 'mamos'";
        assert_eq!(server.sql(encrypted), "t", "{good}");
        store.close().await;
    }
}

#[tokio::test]
async fn what_is_no_postgresql_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"-ERR unknown command\r\n").await.unwrap();
        }
    });
    let url = format!("postgres://app:hunter2@127.0.0.1:{port}/test");
    refused(url, ErrorKind::Unavailable, "no PostgreSQL").await;
    answering.abort();
}

#[tokio::test]
async fn a_standby_is_refused_and_taken_once_it_is_the_primary() {
    let mut primary = PostgresServer::start();
    let store = PostgresStore::open(PostgresSettings::new(primary.url())).await.unwrap();
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    let mut standby = primary.standby();
    // With the tables and without them.
    refused(standby.url(), ErrorKind::Unavailable, "name the primary").await;
    let other = PostgresSettings::new(standby.url()).schema("other");
    let error = PostgresStore::open(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
    // The standby now answers where the primary was, as behind a name or an address that moves.
    primary.stop_in_order();
    standby.move_to(primary.port());
    let error = loop {
        let error = store.enqueue(vec![job(2)], NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        // The connection to the primary is noticed to be gone first.
        if error.to_string().contains("read-only") {
            break error;
        }
    };
    assert!(error.to_string().contains("name the primary"), "{error}");
    assert!(store.job(job(1).id).await.unwrap().is_some(), "it can be read");
    standby.sql("SELECT pg_promote()");
    store.enqueue(vec![job(2)], NOW).await.unwrap();
    assert!(store.job(job(1).id).await.unwrap().is_some());
    assert!(store.hints().unwrap().listen().await.is_ok());
    store.close().await;
}
