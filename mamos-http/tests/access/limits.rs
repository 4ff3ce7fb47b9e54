//! Those who try too often.

use std::time::Duration;

use mamos_http::{NewKey, Rate};
use serde_json::json;

use crate::host::{Answer, Host, PASSWORD};

const ME: &str = "/api/v1/me";

async fn me(host: &Host, token: &str, from: &str) -> Answer {
    host.call_with("GET", ME, Some(token), None, &[("from", from)]).await
}

async fn login(host: &Host, user: &str, password: &str, from: &str) -> u16 {
    let body = json!({ "user": user, "password": password });
    host.call_with("POST", "/api/v1/login", None, Some(body), &[("from", from)]).await.status
}

#[tokio::test]
async fn wrong_tokens_are_limited_by_address_and_those_who_are_known_are_not_kept_out() {
    let host = Host::new();
    let ann = host.user("ann", &["read-only"]).await;
    let key = host.key(&ann, NewKey::default()).await;
    let late = host.key(&ann, NewKey::default()).await;
    assert_eq!(me(&host, &key, "2001:db8:0:1::1").await.status, 200);
    for index in 0..60 {
        let answer = me(&host, &format!("mamos_key_{index}"), &format!("2001:db8:0:1::{index:x}")).await;
        assert_eq!(answer.status, 401, "{index}");
    }
    let limited = me(&host, "mamos_key_x", "2001:db8:0:1:ffff::").await;
    assert_eq!((limited.status, limited.body["code"].as_str()), (429, Some("too_many_requests")));
    assert!(limited.headers.contains_key("retry-after"));
    assert_eq!(me(&host, &late, "2001:db8:0:1::9").await.status, 429, "nobody yet knows this one");
    assert_eq!(me(&host, &key, "2001:db8:0:1::9").await.status, 200);
    assert_eq!(me(&host, &late, "2001:db8:0:2::9").await.status, 200);
    assert_eq!(me(&host, &late, "2001:db8:0:1::9").await.status, 200);
}

#[tokio::test]
async fn guessed_passwords_are_limited_by_address() {
    let host = Host::new();
    host.user("ann", &["read-only"]).await;
    for index in 0..10 {
        assert_eq!(login(&host, &format!("user{index}"), "not the password", "192.0.2.66").await, 401);
    }
    let body = json!({ "user": "ann", "password": PASSWORD });
    let limited = host.call_with("POST", "/api/v1/login", None, Some(body), &[("from", "192.0.2.66")]).await;
    assert_eq!(limited.status, 429);
    let wait: u64 = limited.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    assert_eq!(login(&host, "ann", PASSWORD, "192.0.2.67").await, 200);
}

#[tokio::test]
async fn guesses_from_many_addresses_are_limited_by_user_and_do_not_lock_the_user_out() {
    let host = Host::new();
    host.user("ann", &["read-only"]).await;
    assert_eq!(login(&host, "ann", PASSWORD, "192.0.2.1").await, 200);
    for index in 0..10 {
        assert_eq!(login(&host, "ann", "not the password", &format!("198.51.100.{index}")).await, 401);
    }
    assert_eq!(login(&host, "ann", "not the password", "198.51.100.99").await, 429);
    assert_eq!(login(&host, "ann", PASSWORD, "198.51.100.99").await, 429, "it could be guessed right");
    assert_eq!(login(&host, "ann", PASSWORD, "192.0.2.1").await, 200, "from where ann is known to come");
    assert_eq!(login(&host, "bob", PASSWORD, "198.51.100.99").await, 401, "others are not concerned");
}

#[tokio::test]
async fn right_passwords_cost_nothing_until_there_are_a_great_many() {
    let host = Host::new();
    host.user("ann", &["read-only"]).await;
    for _ in 0..30 {
        assert_eq!(login(&host, "ann", PASSWORD, "192.0.2.1").await, 200);
    }
    assert_eq!(login(&host, "ann", PASSWORD, "192.0.2.1").await, 429);
    assert_eq!(host.documents("logins").await.len(), 30);
}

#[tokio::test]
async fn requests_are_limited_by_principal_wherever_they_come_from() {
    let rate = Rate::new(3, Duration::from_secs(3600));
    let host = Host::with(|api| api.request_rate(rate));
    let (ann, bob) = (host.user("ann", &["read-only"]).await, host.user("bob", &["read-only"]).await);
    let (first, second) = (host.key(&ann, NewKey::default()).await, host.key(&ann, NewKey::default()).await);
    for (remaining, token) in [(2, &first), (1, &second), (0, &first)] {
        let answer = me(&host, token, &format!("192.0.2.{remaining}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["ratelimit-limit"], "3");
        assert_eq!(answer.headers["ratelimit-remaining"].to_str().unwrap(), remaining.to_string());
        let reset: u64 = answer.headers["ratelimit-reset"].to_str().unwrap().parse().unwrap();
        assert!(reset.abs_diff(3600 * (3 - remaining)) <= 5, "{reset}");
    }
    let limited = me(&host, &second, "192.0.2.9").await;
    assert_eq!((limited.status, &limited.headers["ratelimit-remaining"].to_str().unwrap()), (429, &"0"));
    let wait: u64 = limited.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait > 3500);
    let bob = host.key(&bob, NewKey::default()).await;
    assert_eq!(me(&host, &bob, "192.0.2.9").await.status, 200);
}

#[tokio::test]
async fn strangers_are_limited_by_address_as_trusted_proxies_tell_it() {
    let rate = Rate::new(1, Duration::from_secs(3600));
    let host = Host::with(|api| api.request_rate(rate).trusted_proxies(["10.0.0.0/8".parse().unwrap()]));
    let from = async |connection: &str, forwarded: &str| {
        let headers = [("from", connection), ("x-forwarded-for", forwarded)];
        host.call_with("GET", "/.well-known/jwks.json", None, None, &headers).await.status
    };
    assert_eq!(from("10.0.0.1", "203.0.113.1").await, 200);
    assert_eq!(from("10.0.0.2", "203.0.113.1").await, 429);
    assert_eq!(from("10.0.0.1", "1.2.3.4, 203.0.113.1").await, 429, "what the client wrote is not believed");
    assert_eq!(from("10.0.0.1", "203.0.113.2").await, 200);
    assert_eq!(from("203.0.113.1", "203.0.113.9").await, 429, "not by a proxy");
}
