//! The URL alone says where the server is and how to reach it: no variable of the environment, and no `~/.pgpass`.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use mamos_core::store::Store;
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::PostgresServer;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// A process of this program that has it opens that URL, prints what came of it, and does nothing else.
const CHILD: &str = "MAMOS_TEST_OPEN";

/// A server that wants passwords, with a user `app`, its database `app`, and a file with its password.
struct Bed {
    server: PostgresServer,
    root: PathBuf,
    home: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let mut server = PostgresServer::start();
        server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'");
        server.sql("CREATE DATABASE app OWNER app");
        server.require_passwords();
        let root = server.offer_tls();
        let home = tempfile::tempdir().unwrap();
        let passwords = home.path().join(".pgpass");
        std::fs::write(&passwords, "*:*:*:*:secret\n").unwrap();
        // One that others may read is not believed.
        std::fs::set_permissions(&passwords, Permissions::from_mode(0o600)).unwrap();
        Self { server, root, home }
    }

    /// What came of opening that URL in a process with these variables.
    fn open(&self, test: &str, url: &str, variables: &[(&str, &str)]) -> String {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([test, "--exact", "--nocapture"]).env("HOME", self.home.path()).env(CHILD, url);
        let output = child.envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let found = said.lines().find_map(|line| line.split_once("came of it: ")).map(|(_, rest)| rest);
        found.unwrap_or_else(|| panic!("{output:?}")).to_owned()
    }
}

#[expect(clippy::print_stdout, reason = "the other process reads it")]
async fn child(url: &str) {
    match PostgresStore::open(PostgresSettings::new(url)).await {
        Err(error) => println!("came of it: {:?}, {error}", error.kind()),
        Ok(store) => {
            store.time().await.unwrap();
            // All is named, so that the spy is not led astray itself.
            let spy = PgConnectOptions::from_str(url).unwrap().database("app").ssl_mode(PgSslMode::Disable);
            let mut spy = spy.application_name("spy").connect().await.unwrap();
            let seen = "SELECT string_agg(DISTINCT application_name, ',') FROM pg_stat_activity \
                        WHERE usename = current_user AND application_name <> 'spy'";
            let names: String = sqlx::query_scalar(seen).fetch_one(&mut spy).await.unwrap();
            println!("came of it: {} by {names}", store.describe());
        }
    }
}

#[tokio::test]
async fn no_variable_changes_where_the_store_is_and_how_it_is_reached() {
    const TEST: &str = "no_variable_changes_where_the_store_is_and_how_it_is_reached";
    if let Ok(url) = std::env::var(CHILD) {
        return child(&url).await;
    }
    let bed = Bed::new();
    let port = bed.server.port();
    let open = |url: &str, variables: &[(&str, &str)]| bed.open(TEST, url, variables);

    let all = format!("postgres://app:secret@127.0.0.1:{port}/app");
    let opened = format!("postgres at 127.0.0.1:{port}/app (schema mamos) by mamos");
    let hostile = [
        ("PGHOST", "192.0.2.1"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGPASSWORD", "wrong"),
        ("PGDATABASE", "none"),
        ("PGAPPNAME", "hostile"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/nowhere"),
    ];
    assert_eq!(open(&all, &hostile), opened);
    // The database is that of the user.
    assert_eq!(open(&format!("postgres://app:secret@127.0.0.1:{port}"), &hostile), opened);

    // The right password is in three places where nobody looks.
    let file = bed.home.path().join(".pgpass");
    let passwords = [("PGPASSWORD", "secret"), ("PGPASSFILE", file.to_str().unwrap())];
    let refused = open(&format!("postgres://app@127.0.0.1:{port}/app"), &passwords);
    assert!(refused.starts_with("Config, ") && refused.contains("the URL has none"), "{refused}");

    let server = [("PGHOST", "127.0.0.1"), ("PGPORT", &port.to_string())];
    let elsewhere = open("postgres:///app?user=mamos_nobody&password=secret", &server);
    assert!(elsewhere.contains("localhost:5432/app"), "{elsewhere}");

    let root = [("PGSSLROOTCERT", bed.root.to_str().unwrap())];
    let unknown = open(&format!("{all}?sslmode=verify-full"), &root);
    assert!(unknown.contains("`sslrootcert`"), "{unknown}");
}

#[tokio::test]
async fn a_variable_that_cannot_be_kept_out_is_refused() {
    const TEST: &str = "a_variable_that_cannot_be_kept_out_is_refused";
    if let Ok(url) = std::env::var(CHILD) {
        return child(&url).await;
    }
    let bed = Bed::new();
    let url = format!("postgres://app:secret@127.0.0.1:{}/app", bed.server.port());
    let options = ("PGOPTIONS", "-c default_transaction_read_only=on");
    for (name, value) in [options, ("PGSSLCERT", "/nowhere"), ("PGSSLKEY", "/nowhere")] {
        let refused = bed.open(TEST, &url, &[(name, value)]);
        assert!(refused.starts_with("Config, "), "{refused}");
        assert!(refused.contains(&format!("{name} is set for this program")), "{refused}");
    }
    // Named in the URL, they are the URL's.
    let named = format!("{url}?sslcert=/nowhere&sslkey=/nowhere");
    let taken = bed.open(TEST, &named, &[("PGSSLCERT", "/elsewhere"), ("PGSSLKEY", "/elsewhere")]);
    assert!(taken.contains("no file that sslrootcert, sslcert or sslkey names"), "{taken}");
}
