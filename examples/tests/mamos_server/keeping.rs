//! What was stored is there after a restart, for the owner only, and in a backup.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::place::{Place, set_up};

fn mode(path: &str) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn users_agents_and_jobs_are_there_after_a_restart() {
    let place = Place::new();
    let mut server = place.start(&[]).await;
    set_up(&place, &mut server).await;
    let token = place.ctl(&server, "", &["tokens", "create"], "").await.out;
    let mut agent = place.agent(&server, &["--registration-token", token.trim()]).await;
    let ran = place.ctl(&server, "", &["run", "hello", "whom=ann", "--follow"], "").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello ann\n"), "{}", ran.err);
    let before = place.ctl(&server, "", &["jobs", "list", "--json"], "").await.out;
    let id = place.ctl(&server, "", &["agents", "list", "--json"], "").await.out;

    let address = server.address();
    server.stop().await;
    agent.until("no link to the orchestrator").await;
    let server = place.start(&["--listen", &address]).await;
    agent.until(": connected agent=").await;
    // The login is good, too.
    assert_eq!(place.ctl(&server, "", &["jobs", "list", "--json"], "").await.out, before);
    let agents = place.ctl(&server, "", &["agents", "list", "--json"], "").await.out;
    let name = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["id"].clone();
    assert_eq!(name(&agents), name(&id));
    let ran = place.ctl(&server, "", &["run", "hello", "whom=bob", "--follow"], "").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello bob\n"), "{}", ran.err);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_are_for_the_owner_only() {
    let place = Place::new();
    let server = place.start(&[]).await;
    assert_eq!(mode(&place.path("state")), 0o700);
    let files: Vec<_> =
        fs::read_dir(place.path("state")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().any(|path| path.ends_with("mamos.db")), "{files:?}");
    for path in files {
        assert_eq!(mode(path.to_str().unwrap()), 0o600, "{}", path.display());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_while_the_server_runs_and_can_be_served() {
    let place = Place::new();
    let none = place.ended(&["backup", &place.path("copy.db")]).await;
    assert_eq!(none.code, 3, "there is no database yet: {}", none.err);
    let mut server = place.start(&[]).await;
    set_up(&place, &mut server).await;
    let made = place.ended(&["backup", &place.path("copy.db")]).await;
    assert_eq!(made.code, 0, "{}", made.err);
    assert_eq!(mode(&place.path("copy.db")), 0o600);
    let again = place.ended(&["backup", &place.path("copy.db")]).await;
    assert!(again.code == 4 && again.err.contains("is there already"), "{}", again.err);
    let memory = place.ended(&["--store", "memory", "backup", &place.path("other.db")]).await;
    assert_eq!(memory.code, 2, "{}", memory.err);

    let address = server.address();
    server.stop().await;
    let store = format!("sqlite:{}", place.path("copy.db"));
    let server = place.start(&["--store", &store, "--listen", &address]).await;
    let users = place.ctl(&server, "", &["users", "list", "--json"], "").await;
    assert!(users.out.contains("\"admin\""), "{}", users.err);
    server.stop().await;
}
