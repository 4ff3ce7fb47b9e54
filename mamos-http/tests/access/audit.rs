//! What is on record, and what is nowhere.

use std::collections::BTreeSet;

use mamos_http::NewKey;
use serde_json::{Value, json};

use crate::host::{Host, PASSWORD};

async fn records(host: &Host, query: &str) -> Vec<[String; 5]> {
    let auditor = "auditor".parse().unwrap();
    let key = host.key(&auditor, NewKey::default()).await;
    let answer = host.get(&format!("/api/v1/audit?limit=500&{query}"), &key).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let text = |record: &Value, name: &str| record[name].as_str().unwrap().to_owned();
    let fields = ["principal", "action", "target", "outcome", "peer"];
    let items = answer.body["items"].as_array().unwrap();
    items.iter().rev().map(|record| fields.map(|field| text(record, field))).collect()
}

fn record(principal: &str, action: &str, target: &str, outcome: &str) -> [String; 5] {
    [principal, action, target, outcome, "192.0.2.1"].map(ToOwned::to_owned)
}

#[tokio::test]
async fn logins_and_what_needs_a_permission_are_on_record_and_strangers_are_not() {
    let host = Host::new();
    host.user("auditor", &["admin"]).await;
    host.user("ann", &["read-only"]).await;
    assert_eq!(host.login("ann", "not the password").await.status, 401);
    // Somebody types the password where the name belongs.
    assert_eq!(host.login("my secret Password!", "x").await.status, 401);
    let ann = host.logged_in("ann").await;
    let root = host.logged_in("auditor").await;
    let body = || Some(json!({ "name": "bob", "roles": [] }));
    assert_eq!(host.call("POST", "/api/v1/users", None, body()).await.status, 401);
    assert_eq!(host.call("POST", "/api/v1/users", Some("mamos_key_x"), body()).await.status, 401);
    assert_eq!(host.call("POST", "/api/v1/users", Some(&ann), body()).await.status, 403);
    assert_eq!(host.call("POST", "/api/v1/users", Some(&root), body()).await.status, 201);
    assert_eq!(host.call("POST", "/api/v1/users", Some(&root), body()).await.status, 409);
    assert_eq!(host.get("/api/v1/users/bob", &root).await.status, 200);
    assert_eq!(host.call("POST", "/api/v1/logout", Some(&ann), None).await.status, 204);
    let expected = [
        record("anonymous", "login", "user:ann", "denied"),
        record("anonymous", "login", "", "denied"),
        record("user:ann", "login", "user:ann", "done"),
        record("user:auditor", "login", "user:auditor", "done"),
        record("user:ann", "user.create", "", "denied"),
        record("user:auditor", "user.create", "bob", "done"),
        record("user:auditor", "user.create", "", "failed"),
        record("user:ann", "logout", "", "done"),
    ];
    let found = records(&host, "").await;
    // The clock of this test stands still: records of one moment have no order.
    let (found, expected) = (BTreeSet::from_iter(found), BTreeSet::from(expected));
    assert_eq!(found, expected);
    assert_eq!(records(&host, "action=user.&outcome=done").await.len(), 1);
    assert_eq!(records(&host, "principal=user:ann").await.len(), 3);
    let text = host.documents("audit").await.join("\n");
    assert!(!text.contains("my secret"), "{text}");
}

#[tokio::test]
async fn the_setup_is_on_record() {
    let host = Host::new();
    let token = host.access.setup_token().await.unwrap().unwrap();
    for token in ["mamos_setup_wrong", token.expose()] {
        let body = json!({ "setup_token": token, "user": "auditor", "password": PASSWORD });
        host.call("POST", "/api/v1/setup", None, Some(body)).await;
    }
    let mut found = records(&host, "action=setup").await;
    found.sort();
    let expected = [
        record("anonymous", "setup", "user:auditor", "denied"),
        record("user:auditor", "setup", "user:auditor", "done"),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn nobody_fills_the_log_with_denials() {
    let host = Host::new();
    host.user("auditor", &["admin"]).await;
    let ann = host.user("ann", &["read-only"]).await;
    let key = host.key(&ann, NewKey::default()).await;
    for _ in 0..300 {
        let answer = host.call("POST", "/api/v1/signing-keys/rotate", Some(&key), None).await;
        assert_eq!(answer.status, 403);
    }
    let written = records(&host, "").await.len();
    assert!((60..100).contains(&written), "{written}");
}

#[tokio::test]
async fn no_secret_is_in_the_store() {
    let host = Host::new();
    let setup = host.access.setup_token().await.unwrap().unwrap();
    let body = json!({ "setup_token": setup.expose(), "user": "ann", "password": PASSWORD });
    let first = host.call("POST", "/api/v1/setup", None, Some(body)).await;
    let login = first.body["token"].as_str().unwrap().to_owned();
    let made = host.call("POST", "/api/v1/me/keys", Some(&login), Some(json!({ "name": "k" }))).await;
    let key = made.body["token"].as_str().unwrap().to_owned();
    let agent = host.agent().await;
    for token in [&login, &key, &agent.token] {
        assert_eq!(host.get("/api/v1/me", token).await.status, 200);
    }
    for collection in ["users", "logins", "api_keys", "roles", "setup", "audit", "signing_keys"] {
        let text = host.documents(collection).await.join("\n");
        assert_eq!(text.is_empty(), collection == "roles", "{collection}");
        for secret in [PASSWORD, setup.expose(), &login, &key, &agent.token] {
            assert!(!text.contains(&secret[secret.len() - 20..]), "{collection}");
        }
    }
}
