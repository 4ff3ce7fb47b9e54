//! The first admin.

use std::time::Duration;

use serde_json::json;

use crate::host::{Answer, Host, PASSWORD, slow_store};

async fn set_up(host: &Host, token: &str, user: &str) -> Answer {
    let body = json!({ "setup_token": token, "user": user, "password": PASSWORD });
    host.call("POST", "/api/v1/setup", None, Some(body)).await
}

#[tokio::test]
async fn the_first_admin_is_made_once_even_by_two_at_once() {
    let host = Host::new();
    let token = host.access.setup_token().await.unwrap().unwrap();
    let token = token.expose();
    assert!(token.starts_with("mamos_setup_"));
    let short = json!({ "setup_token": token, "user": "ann", "password": "short" });
    assert_eq!(host.call("POST", "/api/v1/setup", None, Some(short)).await.status, 422);
    assert_eq!(set_up(&host, token, "Not A Name").await.status, 422);
    assert_eq!(set_up(&host, &format!("{token}0"), "ann").await.status, 401);
    let (first, second) = tokio::join!(set_up(&host, token, "ann"), set_up(&host, token, "bob"));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    let login = if first.status == 200 { first } else { second };
    let users = host.get("/api/v1/users", login.body["token"].as_str().unwrap()).await;
    assert_eq!(users.status, 200);
    assert_eq!(users.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(users.body["items"][0]["roles"], json!(["admin"]));
    assert!(host.access.setup_token().await.unwrap().is_none(), "somebody is there");
    assert_eq!(set_up(&host, token, "eve").await.status, 401);
}

#[tokio::test]
async fn a_setup_token_ends_after_a_day_or_with_the_next_start() {
    let host = Host::new();
    let first = host.access.setup_token().await.unwrap().unwrap();
    let second = host.access.setup_token().await.unwrap().unwrap();
    assert_eq!(set_up(&host, first.expose(), "ann").await.status, 401);
    host.advance(Duration::from_secs(24 * 3600));
    assert_eq!(set_up(&host, second.expose(), "ann").await.status, 401);
    let third = host.access.setup_token().await.unwrap().unwrap();
    assert_eq!(set_up(&host, third.expose(), "ann").await.status, 200);
}

#[tokio::test]
async fn a_token_that_was_shown_before_somebody_was_made_is_worthless_then() {
    let host = Host::new();
    let token = host.access.setup_token().await.unwrap().unwrap();
    host.user("ann", &["admin"]).await;
    assert_eq!(set_up(&host, token.expose(), "eve").await.status, 401);
}

#[tokio::test]
async fn of_two_orchestrators_that_are_set_up_at_once_one_is_told_no() {
    for seed in 0..8 {
        let store = slow_store(seed);
        let (one, other) = (Host::over(store.clone(), |api| api), Host::over(store, |api| api));
        let token = one.access.setup_token().await.unwrap().unwrap();
        let token = token.expose();
        let (first, second) = tokio::join!(set_up(&one, token, "ann"), set_up(&other, token, "bob"));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401], "{seed}");
        assert_eq!(one.documents("users").await.len(), 1);
    }
}
