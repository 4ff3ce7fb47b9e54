//! Users, their roles, logins and keys.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::auth::{Permission, Role};
use mamos_http::{NewKey, UserChange};
use mamos_store::{SqliteSettings, SqliteStore};
use serde_json::json;

use crate::host::{Host, PASSWORD, slow_store};

const ME: &str = "/api/v1/me";

#[tokio::test]
async fn a_login_says_who_one_is_until_it_is_over() {
    let host = Host::new();
    host.user("ann", &["operator"]).await;
    let answer = host.login("ann", PASSWORD).await;
    assert_eq!(answer.status, 200);
    let token = answer.body["token"].as_str().unwrap();
    assert!(token.starts_with("mamos_ses_"));
    let me = host.get(ME, token).await;
    assert_eq!((me.status, &me.body["principal"]), (200, &json!("user:ann")));
    assert_eq!(me.body["roles"], json!(["operator"]));
    let second = host.logged_in("ann").await;
    assert_eq!(host.call("POST", "/api/v1/logout", Some(token), None).await.status, 204);
    assert_eq!(host.get(ME, token).await.status, 401);
    assert_eq!(host.get(ME, &second).await.status, 200, "the other login is another");
    host.advance(Duration::from_secs(12 * 3600 - 1));
    assert_eq!(host.get(ME, &second).await.status, 200);
    host.advance(Duration::from_secs(1));
    assert_eq!(host.get(ME, &second).await.status, 401);
}

#[tokio::test]
async fn a_wrong_user_and_a_wrong_password_are_told_alike() {
    let host = Host::new();
    host.user("ann", &["operator"]).await;
    host.access.create_user(&"bot".parse().unwrap(), None, ["operator".to_owned()].into()).await.unwrap();
    let wrong = host.login("ann", "not the password").await;
    assert_eq!(wrong.status, 401);
    for (user, password) in [
        ("bob", PASSWORD),
        ("bot", PASSWORD),
        ("bot", ""),
        ("ANN", PASSWORD),
        ("ann\u{0}", PASSWORD),
        ("", ""),
        (&"a".repeat(60_000), PASSWORD),
        ("ann", &"x".repeat(60_000)),
    ] {
        let answer = host.call_with(
            "POST",
            "/api/v1/login",
            None,
            Some(json!({ "user": user, "password": password })),
            &[("from", "198.51.100.1")],
        );
        let answer = answer.await;
        assert_eq!(answer.status, 401, "{}", &user[..user.len().min(9)]);
        assert_eq!(answer.body, wrong.body);
    }
}

#[tokio::test]
async fn what_ends_logins_ends_all_of_them_and_keys_live_as_their_owner() {
    let host = Host::new();
    host.user("root", &["admin"]).await;
    let root = host.logged_in("root").await;
    let ann = host.user("ann", &["operator"]).await;
    let key = host.key(&ann, NewKey::default()).await;

    let first = host.logged_in("ann").await;
    assert_eq!(host.get(ME, &first).await.status, 200);
    let body = json!({ "password": PASSWORD, "new_password": "another long password" });
    let changed = host.call("PUT", "/api/v1/me/password", Some(&first), Some(body)).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(host.get(ME, &first).await.status, 401);
    let second = changed.body["token"].as_str().unwrap();
    assert_eq!(host.get(ME, second).await.status, 200);
    assert_eq!(host.get(ME, &key).await.status, 200);
    assert_eq!(host.login("ann", PASSWORD).await.status, 401);

    let user = host.get("/api/v1/users/ann", &root).await;
    let tag = user.headers["etag"].to_str().unwrap().to_owned();
    let patch = async |body, tag: &str| {
        let headers = [("if-match", tag)];
        host.call_with("PATCH", "/api/v1/users/ann", Some(&root), Some(body), &headers).await
    };
    let disabled = patch(json!({ "disabled": true }), &tag).await;
    assert_eq!((disabled.status, &disabled.body["disabled"]), (200, &json!(true)), "{}", disabled.body);
    for token in [second, &key] {
        assert_eq!(host.get(ME, token).await.status, 401);
    }
    assert_eq!(host.login("ann", "another long password").await.status, 401);
    assert_eq!(patch(json!({ "disabled": false }), &tag).await.status, 412, "the tag is old");
    assert_eq!(patch(json!({ "disabled": false }), "*").await.status, 200);
    assert_eq!(host.get(ME, second).await.status, 401, "a login that is over stays so");
    assert_eq!(host.get(ME, &key).await.status, 200);

    let without = host.call("DELETE", "/api/v1/users/ann", Some(&root), None).await;
    assert_eq!(without.status, 428);
    let removed = host.call_with("DELETE", "/api/v1/users/ann", Some(&root), None, &[("if-match", "*")]);
    assert_eq!(removed.await.status, 204);
    assert_eq!(host.get(ME, &key).await.status, 401);
    host.user("ann", &["operator"]).await;
    assert_eq!(host.get(ME, &key).await.status, 401, "another user by the same name");
    assert!(host.documents("api_keys").await.is_empty());
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_gone_at_once() {
    let host = Host::new();
    host.user("root", &["admin"]).await;
    let ann = host.user("ann", &["admin"]).await;
    let token = host.logged_in("ann").await;
    assert_eq!(host.get("/api/v1/users", &token).await.status, 200);
    let roles = Some(["read-only".to_owned()].into());
    host.access.change_user(&ann, UserChange { roles, ..UserChange::default() }, None).await.unwrap();
    assert_eq!(host.get("/api/v1/users", &token).await.status, 403);
}

#[tokio::test]
async fn an_admin_is_always_left() {
    let host = Host::new();
    host.user("root", &["admin"]).await;
    let root = host.logged_in("root").await;
    let any = [("if-match", "*")];
    let patch = async |name: &str, body| {
        host.call_with("PATCH", &format!("/api/v1/users/{name}"), Some(&root), Some(body), &any).await.status
    };
    let remove = async |name: &str| {
        host.call_with("DELETE", &format!("/api/v1/users/{name}"), Some(&root), None, &any).await.status
    };
    assert_eq!(patch("root", json!({ "roles": ["operator"] })).await, 409);
    assert_eq!(patch("root", json!({ "disabled": true })).await, 409);
    assert_eq!(remove("root").await, 409);
    host.user("eve", &["admin"]).await;
    assert_eq!(patch("eve", json!({ "disabled": true })).await, 200);
    assert_eq!(remove("root").await, 409, "one that is disabled does not count");
    assert_eq!(patch("eve", json!({ "disabled": false })).await, 200);

    // Two who take it from each other at the same time.
    let (root, eve) = ("root".parse().unwrap(), "eve".parse().unwrap());
    let take = |name| {
        let change = UserChange { is_disabled: Some(true), ..UserChange::default() };
        host.access.change_user(name, change, None)
    };
    let (first, second) = tokio::join!(take(&root), take(&eve));
    assert!(first.is_ok() != second.is_ok());
}

#[tokio::test]
async fn an_admin_is_left_even_if_two_orchestrators_take_one_away_each() {
    for seed in 0..16 {
        let store = slow_store(seed);
        let (one, other) = (Host::over(store.clone(), |api| api), Host::over(store, |api| api));
        let admin = || ["admin".to_owned()].into();
        let (root, eve) = ("root".parse().unwrap(), "eve".parse().unwrap());
        for name in [&root, &eve] {
            one.access.create_user(name, None, admin()).await.unwrap();
        }
        let disable = UserChange { is_disabled: Some(true), ..UserChange::default() };
        let (first, second) =
            tokio::join!(one.access.change_user(&root, disable, None), other.access.remove_user(&eve, None));
        assert!(first.is_err() || second.is_err(), "{seed}");
        let mut enabled = 0;
        for name in [&root, &eve] {
            enabled += usize::from(one.access.user(name).await.is_ok_and(|user| !user.is_disabled));
        }
        assert!(enabled > 0, "{seed}");
    }
}

#[tokio::test]
async fn a_key_may_no_more_than_it_was_made_for() {
    let host = Host::new();
    host.user("ann", &["admin"]).await;
    let ann = host.logged_in("ann").await;
    let body = json!({
        "name": "reader", "permissions": ["read_audit"], "expires_in_ms": 60_000, "cidr": ["198.51.100.0/24"],
    });
    let made = host.call("POST", "/api/v1/me/keys", Some(&ann), Some(body)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let (key, id) = (made.body["token"].as_str().unwrap(), made.body["id"].as_str().unwrap());
    assert!(key.starts_with("mamos_key_") && !id.contains(&key[10..20]));
    let from = |address: &'static str| {
        let host = &host;
        async move { host.call_with("GET", "/api/v1/audit", Some(key), None, &[("from", address)]).await.status }
    };
    assert_eq!(from("192.0.2.1").await, 401);
    assert_eq!(from("198.51.100.7").await, 200);
    assert_eq!(from("192.0.2.1").await, 401, "that it is known does not help");
    assert_eq!(from("::ffff:198.51.100.7").await, 200);
    let there = [("from", "198.51.100.7")];
    assert_eq!(host.call_with("GET", "/api/v1/users", Some(key), None, &there).await.status, 403);
    // Nor can it make one that may more.
    let more = Some(json!({ "name": "more" }));
    assert_eq!(host.call_with("POST", "/api/v1/me/keys", Some(key), more, &there).await.status, 403);

    let listed = host.get("/api/v1/me/keys", &ann).await;
    assert_eq!(listed.body["items"][0]["id"], id);
    assert!(listed.body["items"][0]["last_used_at"].is_string());
    assert!(!listed.body.to_string().contains(key) && listed.body["items"][0].get("token").is_none());
    host.advance(Duration::from_secs(60));
    assert_eq!(from("198.51.100.7").await, 401, "expired");
}

#[tokio::test]
async fn a_key_is_removed_by_its_owner_or_an_admin_and_is_good_for_nothing_at_once() {
    let host = Host::new();
    let (ann, bob) = (host.user("ann", &["operator"]).await, host.user("bob", &["admin"]).await);
    let anns = host.key(&ann, NewKey::default()).await;
    let second = host.key(&ann, NewKey::default()).await;
    let bobs = host.key(&bob, NewKey::default()).await;
    assert_eq!(host.get(ME, &anns).await.status, 200);
    let id = async |token: &str, path: &str| {
        let keys = host.get(path, token).await.body;
        keys["items"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    let of_ann: Vec<String> = id(&second, "/api/v1/me/keys").await;
    let of_bob: Vec<String> = id(&bobs, "/api/v1/me/keys").await;
    let all: Vec<String> = id(&bobs, "/api/v1/keys").await;
    assert_eq!((of_ann.len(), of_bob.len(), all.len()), (2, 1, 3));
    let remove = async |token: &str, key: &str| {
        host.call("DELETE", &format!("/api/v1/me/keys/{key}"), Some(token), None).await.status
    };
    assert_eq!(remove(&anns, &of_ann[0]).await, 403, "a key may not remove keys");
    let login = host.logged_in("ann").await;
    assert_eq!(remove(&login, &of_bob[0]).await, 404, "nor anybody those of others");
    for key in of_ann {
        assert_eq!(host.call("DELETE", &format!("/api/v1/keys/{key}"), Some(&bobs), None).await.status, 204);
    }
    for token in [anns, second] {
        assert_eq!(host.get(ME, &token).await.status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn the_use_of_a_key_is_written_once_a_minute() {
    let host = Host::new();
    let ann = "ann".parse().unwrap();
    host.access.create_user(&ann, None, ["operator".to_owned()].into()).await.unwrap();
    let key = host.key(&ann, NewKey::default()).await;
    let use_after = async |seconds| {
        host.advance(Duration::from_secs(seconds));
        // So that the store is asked again.
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(host.get(ME, &key).await.status, 200);
        host.access.keys_of(&ann).await.unwrap()[0].last_used_at.unwrap()
    };
    let first = use_after(0).await;
    assert_eq!(use_after(59).await, first);
    assert_eq!(use_after(1).await, first + Duration::from_secs(60));
}

#[tokio::test]
async fn roles_are_made_used_and_kept_while_somebody_has_them() {
    let host = Host::new();
    host.user("root", &["admin"]).await;
    let root = host.logged_in("root").await;
    let call = async |method: &str, path: &str, body| {
        let answer = host.call_with(method, path, Some(&root), body, &[("if-match", "*")]).await;
        (answer.status, answer.body)
    };
    let night = "/api/v1/roles/night-shift";
    assert_eq!(call("PUT", night, Some(json!({ "permissions": ["read"] }))).await.0, 201);
    host.user("ann", &["night-shift"]).await;
    let ann = host.logged_in("ann").await;
    assert_eq!(host.get(ME, &ann).await.body["permissions"], json!(["read"]));
    assert_eq!(call("PUT", night, Some(json!({ "permissions": ["read", "read_audit"] }))).await.0, 200);
    assert_eq!(host.get(ME, &ann).await.body["permissions"], json!(["read", "read_audit"]));
    assert_eq!(call("DELETE", night, None).await.0, 409);
    assert_eq!(call("PATCH", "/api/v1/users/ann", Some(json!({ "roles": [] }))).await.0, 200);
    assert_eq!(call("DELETE", night, None).await.0, 204);
    assert_eq!(call("DELETE", night, None).await.0, 404);
    for role in ["admin", "operator", "read-only", "agent"] {
        let path = format!("/api/v1/roles/{role}");
        assert_eq!(call("PUT", &path, Some(json!({ "permissions": [] }))).await.0, 409, "{role}");
        assert_eq!(call("DELETE", &path, None).await.0, 409, "{role}");
    }
    let (status, problem) = call("PUT", night, Some(json!({ "permissions": ["read", "fly"] }))).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/permissions/1")));
    for roles in [json!(["agent"]), json!(["night-shift"]), json!([""]), json!([format!("{:9999}", "x")])] {
        let (status, problem) = call("PATCH", "/api/v1/users/ann", Some(json!({ "roles": roles }))).await;
        assert_eq!(status, 422);
        assert!(problem.to_string().len() < 600);
    }
}

#[tokio::test]
async fn users_are_made_once_with_a_name_and_a_password_that_can_be() {
    let host = Host::new();
    host.user("root", &["admin"]).await;
    let root = host.logged_in("root").await;
    let make = async |body| host.call("POST", "/api/v1/users", Some(&root), Some(body)).await;
    let made = make(json!({ "name": "ann", "password": PASSWORD, "roles": ["read-only"] })).await;
    assert_eq!((made.status, made.headers["location"].to_str().unwrap()), (201, "/api/v1/users/ann"));
    assert!(!made.body.to_string().contains("argon2") && !made.body.to_string().contains(PASSWORD));
    assert_eq!(make(json!({ "name": "ann", "roles": [] })).await.status, 409);
    for name in ["", "Ann", "ann b", "-a", "ä", "a/b", "../x", &"a".repeat(65)] {
        assert_eq!(make(json!({ "name": name, "roles": [] })).await.status, 422, "{name}");
    }
    for password in ["short", "", &"x".repeat(513)] {
        let answer = make(json!({ "name": "bob", "password": password, "roles": [] })).await;
        assert_eq!(answer.status, 422);
    }
    let unknown = make(json!({ "name": "bob", "roles": [], "admin": true })).await;
    assert_eq!(unknown.status, 422);
    let first = host.get("/api/v1/users?limit=1", &root).await.body;
    assert_eq!(first["items"][0]["name"], "ann");
    let next = format!("/api/v1/users?cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(host.get(&next, &root).await.body["items"][0]["name"], "root");
    for query in ["limit=0", "limit=501", "cursor=%21", "x=1"] {
        assert_eq!(host.get(&format!("/api/v1/users?{query}"), &root).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn users_logins_and_keys_outlive_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mamos.db");
    let open = async || Arc::new(SqliteStore::open(SqliteSettings::new(&path)).await.unwrap());
    let (login, key) = {
        let host = Host::over(open().await, |api| api);
        let role = Role { name: "night".to_owned(), permissions: [Permission::ReadAudit].into() };
        host.access.put_role(&role).await.unwrap();
        let ann = host.user("ann", &["night"]).await;
        (host.logged_in("ann").await, host.key(&ann, NewKey::default()).await)
    };
    let host = Host::over(open().await, |api| api);
    for token in [login, key, host.logged_in("ann").await] {
        assert_eq!(host.get("/api/v1/audit", &token).await.status, 200);
    }
}

#[tokio::test]
async fn users_and_keys_are_made_once_for_an_idempotency_key_and_nothing_secret_is_kept() {
    let host = Host::new();
    host.user("root", &["admin"]).await;
    let root = host.logged_in("root").await;
    let again = [("idempotency-key", "once")];
    let post = async |path, body: &serde_json::Value| {
        host.call_with("POST", path, Some(&root), Some(body.clone()), &again).await
    };
    let replayed = |answer: &crate::host::Answer| answer.headers.contains_key("idempotency-replayed");

    let ann = json!({ "name": "ann", "password": PASSWORD, "roles": ["read-only"] });
    let first = post("/api/v1/users", &ann).await;
    let second = post("/api/v1/users", &ann).await;
    assert_eq!((first.status, second.status), (201, 201), "{}", second.body);
    assert_eq!((replayed(&first), replayed(&second)), (false, true));
    assert_eq!(first.body, second.body);
    assert_eq!(first.headers["location"], second.headers["location"]);
    let other = post("/api/v1/users", &json!({ "name": "bob", "roles": [] })).await;
    assert_eq!((other.status, &other.body["code"]), (422, &json!("idempotency_key_reused")));

    let nightly = json!({ "name": "nightly" });
    let first = post("/api/v1/me/keys", &nightly).await;
    let second = post("/api/v1/me/keys", &nightly).await;
    assert_eq!((first.status, second.status), (201, 201), "{}", second.body);
    assert_eq!(first.body["id"], second.body["id"]);
    assert!(first.body["token"].is_string() && second.body["token"].is_null(), "{}", second.body);
    assert_eq!(host.get("/api/v1/me/keys", &root).await.body["items"].as_array().unwrap().len(), 1);

    // Another password gives the same fingerprint, so the fingerprint says nothing about the password.
    let token = first.body["token"].as_str().unwrap();
    let documents = host.documents("idempotency").await;
    assert_eq!(documents.len(), 2);
    assert!(documents.iter().all(|kept| !kept.contains(token) && !kept.contains(PASSWORD)), "{documents:?}");
    let guessed = json!({ "name": "ann", "password": "another password", "roles": ["read-only"] });
    assert!(replayed(&post("/api/v1/users", &guessed).await));
}

#[tokio::test]
async fn cursors_of_users_keys_and_the_audit_log_are_good_for_their_list_only() {
    let host = Host::new();
    let root = host.user("root", &["admin"]).await;
    host.user("ann", &[]).await;
    for _ in 0..2 {
        host.key(&root, NewKey::default()).await;
    }
    let root = host.logged_in("root").await;
    host.login("ann", PASSWORD).await;
    let lists = ["users", "keys", "audit"];
    for list in lists {
        let first = host.get(&format!("/api/v1/{list}?limit=1"), &root).await;
        let cursor = first.body["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {}", first.body));
        assert!(first.headers["link"].to_str().unwrap().contains(cursor), "{list}");
        for other in lists {
            let next = host.get(&format!("/api/v1/{other}?limit=1&cursor={cursor}"), &root).await;
            assert_eq!(next.status, if other == list { 200 } else { 400 }, "{list} {other}: {}", next.body);
            if other == list {
                assert_ne!(next.body["items"], first.body["items"], "{list}");
            }
        }
    }
    let filtered = host.get("/api/v1/audit?limit=1", &root).await.body["next_cursor"].clone();
    let path = format!("/api/v1/audit?action=login&cursor={}", filtered.as_str().unwrap());
    assert_eq!(host.get(&path, &root).await.status, 400, "of other filters");
}

#[tokio::test]
async fn a_user_that_the_caller_has_is_not_sent_again() {
    let host = Host::new();
    host.user("root", &["admin"]).await;
    let root = host.logged_in("root").await;
    let path = "/api/v1/users/root";
    let tag = host.get(path, &root).await.headers["etag"].to_str().unwrap().to_owned();
    let known = [("if-none-match", tag.as_str())];
    assert_eq!(host.call_with("GET", path, Some(&root), None, &known).await.status, 304);
}
