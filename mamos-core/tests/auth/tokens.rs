//! The tokens of agents, checked with a JWT library of somebody else and against its tokens.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use mamos_core::auth::{KeyPair, Secret, SigningKeys, TokenFault, TokenPolicy};
use mamos_core::store::{DocumentChange, DocumentFilter, DocumentWrite, Expected, PageRequest};
use mamos_core::{AgentId, AgentKind, ErrorKind, Store, Timestamp};
use mamos_store::MemoryStore;
use serde_json::{Value, json};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A moment, in seconds after the beginning of the tests.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_790_000_000 + seconds) * 1_000_000)
}

fn agent() -> AgentId {
    AgentId::from_parts(AgentKind::new("test").unwrap(), at(0), 7)
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

fn keys(store: &Arc<dyn Store>) -> SigningKeys {
    SigningKeys::new(Arc::clone(store), TokenPolicy::default())
}

async fn issue(keys: &SigningKeys, own: &KeyPair, now: Timestamp) -> Secret {
    keys.issue(&agent(), &own.public_key(), now).await.unwrap().token
}

/// Why the token is refused; `None` if it is good.
async fn fault(keys: &SigningKeys, token: &Secret, now: Timestamp) -> Option<String> {
    let error = keys.verify(token, now).await.err()?;
    assert_eq!(error.kind(), ErrorKind::Denied);
    Some(error.message().to_owned())
}

fn is(fault: TokenFault) -> Option<String> {
    Some(fault.to_string())
}

fn header_of(token: &Secret) -> Value {
    let header = token.expose().split('.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
}

/// The private half of a signing key in the form of RFC 8410, as other libraries take it.
async fn private_key(store: &Arc<dyn Store>, id: &str) -> EncodingKey {
    let document = store.document("signing_keys", id, at(0)).await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&document.value).unwrap();
    let seed = URL_SAFE_NO_PAD.decode(stored["seed"].as_str().unwrap()).unwrap();
    let pair = KeyPair::from_seed(seed.clone().try_into().unwrap()).unwrap();
    let mut der =
        vec![0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    der.extend(seed);
    der.extend([0x81, 0x21, 0x00]);
    der.extend(pair.public_key().as_bytes());
    EncodingKey::from_ed_der(&der)
}

fn foreign(key: &EncodingKey, id: &str, claims: &Value) -> Secret {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(id.to_owned());
    Secret::new(jsonwebtoken::encode(&header, claims, key).unwrap())
}

fn claims(own: &KeyPair, made: i64, ends: i64) -> Value {
    let seconds = |seconds| at(seconds).as_micros() / 1_000_000;
    json!({
        "iss": "mamos", "aud": "mamos-agent", "sub": agent().to_string(), "jti": "1",
        "iat": seconds(made), "exp": seconds(ends), "cnf": { "jkt": own.public_key().thumbprint() },
    })
}

#[tokio::test]
async fn another_library_reads_our_tokens_with_our_published_keys() {
    let (keys, own) = (keys(&store()), KeyPair::generate().unwrap());
    let token = issue(&keys, &own, at(0)).await;
    let published = keys.public_keys(at(0)).await.unwrap();
    let header = jsonwebtoken::decode_header(token.expose()).unwrap();
    assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::EdDSA, Some("JWT")));
    let jwk = published.iter().find(|jwk| Some(&jwk.kid) == header.kid.as_ref()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["mamos-agent"]);
    validation.set_issuer(&["mamos"]);
    // The clock of this test is not that of the machine.
    validation.validate_exp = false;
    let key = DecodingKey::from_ed_components(&jwk.x).unwrap();
    let read = jsonwebtoken::decode::<Value>(token.expose(), &key, &validation).unwrap().claims;
    assert_eq!(read["sub"], agent().to_string());
    assert_eq!(read["exp"].as_i64().unwrap() - read["iat"].as_i64().unwrap(), HOUR);
    assert_eq!(read["cnf"]["jkt"], own.public_key().thumbprint());
    let published = serde_json::to_value(jwk).unwrap();
    assert_eq!(published["use"], "sig");
    assert_eq!(published.as_object().unwrap().len(), 6, "and no private half: {published}");
}

#[tokio::test]
async fn we_read_the_tokens_of_another_library_that_has_our_key() {
    let store = store();
    let (keys, own) = (keys(&store), KeyPair::generate().unwrap());
    let id = header_of(&issue(&keys, &own, at(0)).await)["kid"].as_str().unwrap().to_owned();
    let key = private_key(&store, &id).await;
    let read = keys.verify(&foreign(&key, &id, &claims(&own, 0, HOUR)), at(1)).await.unwrap();
    assert_eq!((read.sub.clone(), read.expires_at()), (agent(), at(HOUR)));
    assert!(read.is_bound_to(&own.public_key()));
    assert!(!read.is_bound_to(&KeyPair::generate().unwrap().public_key()));
    for (field, value) in [("aud", json!("other")), ("iss", json!("other"))] {
        let mut claims = claims(&own, 0, HOUR);
        claims[field] = value;
        let token = foreign(&key, &id, &claims);
        assert_eq!(fault(&keys, &token, at(1)).await, is(TokenFault::WrongAudience), "{field}");
    }
    let mut hmac = Header::new(Algorithm::HS256);
    hmac.kid = Some(id.clone());
    let secret = EncodingKey::from_secret(own.public_key().as_bytes());
    let token = jsonwebtoken::encode(&hmac, &claims(&own, 0, HOUR), &secret).unwrap();
    assert_eq!(fault(&keys, &Secret::new(token), at(1)).await, is(TokenFault::Malformed));
}

#[tokio::test]
async fn a_token_is_good_for_its_life_and_admits_for_some_time_after_it() {
    let store = store();
    let (keys, own) = (keys(&store), KeyPair::generate().unwrap());
    let issued = keys.issue(&agent(), &own.public_key(), at(0)).await.unwrap();
    assert_eq!(issued.renew_at, at(HOUR / 2));
    let token = issued.token;
    assert_eq!(fault(&keys, &token, at(HOUR - 1)).await, None);
    assert_eq!(fault(&keys, &token, at(HOUR)).await, is(TokenFault::Expired));
    let last = HOUR + 30 * DAY - 1;
    assert!(keys.read(&token, at(last)).await.is_ok());
    assert_eq!(keys.read(&token, at(last + 1)).await.unwrap_err().message(), TokenFault::Expired.to_string());
    // Clocks of two orchestrators may differ by a minute.
    assert_eq!(fault(&keys, &token, at(-60)).await, None);
    assert_eq!(fault(&keys, &token, at(-61)).await, is(TokenFault::NotYetValid));
}

#[tokio::test]
async fn hostile_times_do_not_overflow() {
    let store = store();
    let (keys, own) = (keys(&store), KeyPair::generate().unwrap());
    let id = header_of(&issue(&keys, &own, at(0)).await)["kid"].as_str().unwrap().to_owned();
    let key = private_key(&store, &id).await;
    for (iat, exp, expected) in [
        (i64::MAX, i64::MAX, is(TokenFault::NotYetValid)),
        (i64::MIN, i64::MIN, is(TokenFault::Expired)),
        (i64::MIN, i64::MAX, None),
    ] {
        let mut claims = claims(&own, 0, HOUR);
        (claims["iat"], claims["exp"]) = (json!(iat), json!(exp));
        let token = foreign(&key, &id, &claims);
        assert_eq!(fault(&keys, &token, at(1)).await, expected, "{iat} {exp}");
        if let Ok(claims) = keys.verify(&token, at(1)).await {
            let _ = claims.renew_at();
        }
    }
}

#[tokio::test]
async fn after_a_rotation_the_old_key_is_good_until_it_retires() {
    let store = store();
    let (keys, own) = (keys(&store), KeyPair::generate().unwrap());
    let old = issue(&keys, &own, at(0)).await;
    let old_id = header_of(&old)["kid"].as_str().unwrap().to_owned();
    let old_key = private_key(&store, &old_id).await;
    let new_id = keys.rotate(at(60)).await.unwrap();
    let new = issue(&keys, &own, at(60)).await;
    assert_eq!(header_of(&new)["kid"], new_id);
    assert_ne!(old_id, new_id);
    for token in [&old, &new] {
        assert_eq!(fault(&keys, token, at(61)).await, None);
    }
    // The life of a token, the time to come back after it, and what clocks may differ.
    let retires = 60 + HOUR + 30 * DAY + 2 * 60;
    let late = foreign(&old_key, &old_id, &claims(&own, retires - 10, retires + HOUR));
    assert_eq!(fault(&keys, &late, at(retires - 1)).await, None);
    assert_eq!(fault(&keys, &late, at(retires)).await, is(TokenFault::UnknownKey));
    let ids: Vec<String> =
        keys.public_keys(at(retires)).await.unwrap().into_iter().map(|jwk| jwk.kid).collect();
    assert!(ids.contains(&new_id) && !ids.contains(&old_id));
}

#[tokio::test]
async fn keys_rotate_by_themselves() {
    let (keys, own) = (keys(&store()), KeyPair::generate().unwrap());
    let kid = async |now| header_of(&issue(&keys, &own, now).await)["kid"].clone();
    let first = kid(at(0)).await;
    assert_eq!(kid(at(30 * DAY - 1)).await, first);
    let second = kid(at(30 * DAY)).await;
    assert_ne!(second, first);
    assert_eq!(kid(at(31 * DAY)).await, second);
}

#[tokio::test(start_paused = true)]
async fn another_orchestrator_learns_a_new_key_by_its_name_and_asks_the_store_at_most_once_a_second() {
    let store = store();
    let (first, second, own) = (keys(&store), keys(&store), KeyPair::generate().unwrap());
    let token = issue(&first, &own, at(0)).await;
    assert_eq!(fault(&second, &token, at(0)).await, None);
    first.rotate(at(0)).await.unwrap();
    let token = issue(&first, &own, at(0)).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(fault(&second, &token, at(0)).await, None, "it asked just now, and asks once more");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(900) && waited < Duration::from_millis(1100), "{waited:?}");
    // A clock that jumps back does not end the asking.
    first.rotate(at(-100)).await.unwrap();
    let token = issue(&first, &own, at(-30)).await;
    assert_eq!(fault(&second, &token, at(-30)).await, None);
}

#[tokio::test]
async fn whoever_begins_at_once_agrees() {
    let store = store();
    let (first, second, own) = (keys(&store), keys(&store), KeyPair::generate().unwrap());
    let (a, b, c) =
        tokio::join!(issue(&first, &own, at(0)), issue(&first, &own, at(0)), issue(&second, &own, at(0)));
    assert_eq!(header_of(&a)["kid"], header_of(&b)["kid"], "one orchestrator makes one key");
    for keys in [&first, &second] {
        for token in [&a, &b, &c] {
            assert_eq!(fault(keys, token, at(2)).await, None);
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_left_out_and_the_others_work() {
    let store = store();
    let own = KeyPair::generate().unwrap();
    let token = issue(&keys(&store), &own, at(0)).await;
    let write = |key: &str, value: &'static [u8]| DocumentWrite {
        collection: "signing_keys".to_owned(),
        key: key.to_owned(),
        expected: Expected::Any,
        change: DocumentChange::Put { value: Bytes::from_static(value), expires_at: None },
    };
    let writes = vec![write("a", b"broken"), write("b", br#"{"seed":"AAAA","created_at":0}"#)];
    store.write_documents(writes, at(0)).await.unwrap();
    let keys = keys(&store);
    assert_eq!(fault(&keys, &token, at(1)).await, None);
    assert_eq!(keys.public_keys(at(1)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_rotation_and_its_overlap_are_one_write() {
    let store = store();
    let keys = keys(&store);
    for _ in 0..3 {
        keys.rotate(at(0)).await.unwrap();
    }
    let filter =
        DocumentFilter { collection: "signing_keys".to_owned(), prefix: String::new(), is_descending: false };
    let page = store.documents(filter, PageRequest::first(10), at(0)).await.unwrap();
    let lasting = page.items.iter().filter(|document| document.expires_at.is_none()).count();
    assert_eq!((page.items.len(), lasting), (3, 1));
}
