//! Hostile tokens of agents: each is refused, and told why.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mamos_core::auth::KeyPair;
use serde_json::{Value, json};

use crate::host::{Host, Registered};

const ME: &str = "/api/v1/me";

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn with(mut value: Value, field: &str, other: Value) -> Value {
    value[field] = other;
    value
}

/// The key that signs now, as whoever stole the store would have it.
async fn signer(host: &Host) -> KeyPair {
    let document = host.documents("signing_keys").await.pop().unwrap();
    let stored: Value = serde_json::from_str(document.split_once(' ').unwrap().1).unwrap();
    let seed = URL_SAFE_NO_PAD.decode(stored["seed"].as_str().unwrap()).unwrap();
    KeyPair::from_seed(seed.try_into().unwrap()).unwrap()
}

fn signed(header: &Value, claims: &Value, pair: &KeyPair) -> String {
    let text = format!("{}.{}", encode(header), encode(claims));
    format!("{text}.{}", pair.sign(text.as_bytes()))
}

async fn refused(host: &Host, what: &str, token: &str, says: &str) {
    let answer = host.get(ME, token).await;
    assert_eq!(answer.status, 401, "{what}: {}", answer.body);
    assert_eq!(answer.body["code"], "unauthenticated", "{what}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(says), "{what}: {detail}");
}

async fn is_known(host: &Host, agent: &Registered) {
    let answer = host.get(ME, &agent.token).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["principal"], format!("agent:{}", agent.id));
    assert_eq!(answer.body["roles"], json!(["agent"]));
    assert_eq!(answer.body["permissions"], json!([]));
}

#[tokio::test]
async fn a_forged_token_is_refused_however_it_was_forged() {
    let host = Host::new();
    let agent = host.agent().await;
    is_known(&host, &agent).await;
    let token = &agent.token;
    let (header, claims) = (part(token, 0), part(token, 1));
    let ours = signer(&host).await;
    assert_eq!(
        host.get(ME, &signed(&header, &claims, &ours)).await.status,
        200,
        "the forge below makes good tokens, so that each is refused for its one flaw"
    );

    let kid = header["kid"].clone();
    let none = json!({ "alg": "none", "typ": "JWT", "kid": kid });
    refused(&host, "alg none, unsigned", &format!("{}.{}.", encode(&none), encode(&claims)), "EdDSA").await;
    refused(&host, "alg none, signed", &signed(&none, &claims, &ours), "EdDSA").await;

    // With the public key, which everybody can read, as the shared secret.
    for secret in [ours.public_key().as_bytes().to_vec(), ours.public_key().to_string().into_bytes()] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = kid.as_str().map(ToOwned::to_owned);
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&secret)).unwrap();
        refused(&host, "HS256", &token, "EdDSA").await;
    }

    let foreign = KeyPair::generate().unwrap();
    refused(&host, "another key", &signed(&header, &claims, &foreign), "signature").await;
    refused(&host, "the agent's own key", &signed(&header, &claims, &agent.key), "signature").await;
    let unknown = with(header.clone(), "kid", json!(foreign.public_key().thumbprint()));
    refused(&host, "unknown kid", &signed(&unknown, &claims, &foreign), "not known").await;
    refused(
        &host,
        "path as kid",
        &signed(&with(header.clone(), "kid", json!("../users/ann")), &claims, &ours),
        "not known",
    )
    .await;

    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": foreign.public_key().to_string() });
    for (field, value) in [
        ("jwk", jwk),
        ("jku", json!("https://example.invalid/keys")),
        ("x5u", json!("https://example.invalid/cert")),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
    ] {
        refused(&host, field, &signed(&with(header.clone(), field, value.clone()), &claims, &ours), "EdDSA")
            .await;
        refused(&host, field, &signed(&with(header.clone(), field, value), &claims, &foreign), "EdDSA").await;
    }

    let mut parts: Vec<String> = token.split('.').map(ToOwned::to_owned).collect();
    let other = host.agent().await;
    parts[1] = encode(&with(claims.clone(), "sub", json!(other.id.to_string())));
    refused(&host, "tampered claims", &parts.join("."), "signature").await;
    for length in [0, 63, 65] {
        let signature = URL_SAFE_NO_PAD.encode(vec![7; length]);
        let (signed, _) = token.rsplit_once('.').unwrap();
        refused(&host, "signature of another length", &format!("{signed}.{signature}"), "signature").await;
    }

    for (field, value, says) in [
        ("aud", json!("somebody-else"), "somebody else"),
        ("iss", json!("somebody-else"), "somebody else"),
        ("aud", json!(["mamos-agent"]), "not an agent's token"),
        ("admin", json!(true), "not an agent's token"),
        ("exp", json!("never"), "not an agent's token"),
        ("cnf", json!({ "jkt": other.key.public_key().thumbprint() }), "bound to another key"),
        ("sub", json!(other.id.to_string()), "bound to another key"),
        ("sub", json!("test-00000000-0000-7000-8000-000000000000"), "not known"),
    ] {
        refused(&host, field, &signed(&header, &with(claims.clone(), field, value), &ours), says).await;
    }
}

#[tokio::test]
async fn what_is_no_token_at_all_is_refused() {
    let host = Host::new();
    let agent = host.agent().await;
    for (token, says) in [
        ("x".repeat(4097), "longer than 4096"),
        ("a.".repeat(2049), "longer than 4096"),
        ("..".to_owned(), "not an agent's token"),
        ("a.b".to_owned(), "not an agent's token"),
        (format!("{}.x", agent.token), "not an agent's token"),
        ("hunter2".to_owned(), "no login, no key"),
        (format!("mamos_key_{}", "0".repeat(64)), "not known"),
        (format!("mamos_ses_{}", "0".repeat(64)), "log in again"),
        ("mamos_ses_".to_owned(), "log in again"),
    ] {
        refused(&host, &token[..token.len().min(40)], &token, says).await;
    }
    for header in ["Bearer", "Bearer ", "Basic YTpi", "", "Bearer\u{a0}x"] {
        let answer = host.call_with("GET", ME, None, None, &[("authorization", header)]).await;
        assert_eq!(answer.status, 401, "{header:?}");
    }
    let twice = [("authorization", "Bearer x"), ("authorization", "Bearer y")];
    assert_eq!(host.call_with("GET", ME, None, None, &twice).await.status, 401);
}

#[tokio::test]
async fn a_token_is_good_from_its_beginning_to_its_end() {
    let host = Host::new();
    let agent = host.agent().await;
    let (header, claims) = (part(&agent.token, 0), part(&agent.token, 1));
    let ours = signer(&host).await;
    let iat = claims["iat"].as_i64().unwrap();
    let future = with(with(claims, "iat", json!(iat + 120)), "exp", json!(iat + 7200));
    refused(&host, "from the future", &signed(&header, &future, &ours), "future").await;
    host.advance(Duration::from_secs(3599));
    is_known(&host, &agent).await;
    host.advance(Duration::from_secs(1));
    refused(&host, "expired", &agent.token, "expired").await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_revoked_or_decommissioned_is_refused_within_a_second() {
    let host = Host::new();
    let agent = host.agent().await;
    is_known(&host, &agent).await;
    host.orchestrator.revoke_agent(&agent.id, "stolen").await.unwrap();
    tokio::time::advance(Duration::from_millis(999)).await;
    refused(&host, "revoked", &agent.token, "revoked").await;
    host.orchestrator.reinstate_agent(&agent.id).await.unwrap();
    is_known(&host, &agent).await;
    host.orchestrator.decommission_agent(&agent.id).await.unwrap();
    tokio::time::advance(Duration::from_millis(999)).await;
    refused(&host, "decommissioned", &agent.token, "decommissioned").await;
}

#[tokio::test]
async fn a_rotation_keeps_the_tokens_that_were_made_before() {
    let host = Host::new();
    let agent = host.agent().await;
    host.user("ann", &["admin"]).await;
    let ann = host.logged_in("ann").await;
    let before = host.call("GET", "/.well-known/jwks.json", None, None).await.body["keys"].clone();
    let rotated = host.call("POST", "/api/v1/signing-keys/rotate", Some(&ann), None).await;
    assert_eq!(rotated.status, 200);
    let after = host.call("GET", "/.well-known/jwks.json", None, None).await.body["keys"].clone();
    assert_eq!((before.as_array().unwrap().len(), after.as_array().unwrap().len()), (1, 2));
    assert_eq!(after[1]["kid"], rotated.body["kid"]);
    assert!(!after.to_string().contains("seed") && after[0].get("d").is_none());
    is_known(&host, &agent).await;
    let second = host.agent().await;
    assert_eq!(part(&second.token, 0)["kid"], rotated.body["kid"]);
    is_known(&host, &second).await;
}
