//! The bus over NATS as users of every sort, and with as few rights as durable delivery needs.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use mamos_core::bus::{Bus, Delivery, MAX_MESSAGE_BYTES};
use mamos_core::{Error, ErrorKind};
use mamos_testbed::NatsServer;
use mamos_transport::bus::nats::NatsCredentials;
use mamos_transport::bus::{NatsBus, NatsSettings, open};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::common::{assert_refused, message, receive, subscribe};

#[tokio::test]
async fn a_user_proves_its_nkey() {
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let config = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key());
    let server = NatsServer::with_config(&config);
    let with = |seed: String| NatsSettings {
        credentials: NatsCredentials::NkeySeed(seed),
        ..NatsSettings::new(server.url())
    };
    let seed = user.seed().unwrap();
    assert!(!format!("{:?}", with(seed.clone())).contains(&seed));
    carries(&NatsBus::connect(with(seed.clone())).await.unwrap()).await;
    assert_refused(NatsBus::connect(with(stranger.seed().unwrap())).await, ErrorKind::Denied);
    assert_refused(NatsBus::connect(NatsSettings::new(server.url())).await, ErrorKind::Denied);
    assert_refused(NatsBus::connect(with("secret".to_owned())).await, ErrorKind::Config);

    let file = file_with(&format!("{seed}\n"));
    carries(&*open(&format!("{}?nkey={}", server.url(), file.path().display())).await.unwrap()).await;
}

#[tokio::test]
async fn a_user_shows_its_jwt_and_proves_its_key() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let operator_jwt = jwt(&operator, &operator, json!({ "type": "operator", "version": 2 }));
    let limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1 });
    let account_jwt = jwt(&operator, &account, json!({ "type": "account", "version": 2, "limits": limits }));
    let server = NatsServer::with_config(&format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}\n",
        account.public_key()
    ));
    let may = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "pub": { "deny": ["mamos.t.denied"] }, "sub": {} });
    let user = KeyPair::new_user();
    let creds = creds(&jwt(&account, &user, may.clone()), &user);
    let with = |text: &str| NatsSettings {
        credentials: NatsCredentials::Creds(text.to_owned()),
        ..NatsSettings::new(server.url())
    };
    assert!(!format!("{:?}", with(&creds)).contains(&user.seed().unwrap()));
    let bus = NatsBus::connect(with(&creds)).await.unwrap();
    carries(&bus).await;
    // The rights of the JWT hold.
    assert_refused(bus.publish(vec![message("denied", "x")]).await, ErrorKind::Denied);

    let file = file_with(&creds);
    carries(&*open(&format!("{}?creds={}", server.url(), file.path().display())).await.unwrap()).await;

    // The JWT of one with the key of another, and a JWT of an account that the operator did not sign for.
    let other = KeyPair::new_user();
    let stolen = self::creds(&jwt(&account, &user, may.clone()), &other);
    assert_refused(NatsBus::connect(with(&stolen)).await, ErrorKind::Denied);
    let forged = self::creds(&jwt(&KeyPair::new_account(), &other, may), &other);
    assert_refused(NatsBus::connect(with(&forged)).await, ErrorKind::Denied);
}

#[tokio::test]
async fn files_of_secrets_are_told_without_what_is_in_them() {
    let file = file_with("secret");
    for parameter in ["creds", "nkey"] {
        let url = format!("nats://127.0.0.1?{parameter}={}", file.path().display());
        assert_refused(open(&url).await.map(|bus| bus.describe()), ErrorKind::Config);
        let missing = format!("nats://127.0.0.1?{parameter}=/nowhere/file");
        let error = open(&missing).await.map(|bus| bus.describe()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("/nowhere/file"), "{error}");
        assert_refused(
            open(&format!("redis://127.0.0.1?{parameter}=x")).await.map(|bus| bus.describe()),
            ErrorKind::Config,
        );
    }
}

/// What `docs/bus-nats.md` lists for a durable subscription, with its example's topic `orders` and group
/// `billing`; `mamos` stands for the prefix.
const RIGHTS: [&str; 12] = [
    "_INBOX.>",
    "$JS.API.STREAM.INFO.mamos_d_STREAM",
    "$JS.API.STREAM.INFO.mamos_p_STREAM",
    "$JS.API.STREAM.CREATE.mamos_d_STREAM",
    "$JS.API.STREAM.CREATE.mamos_p_STREAM",
    "$JS.API.CONSUMER.INFO.mamos_d_STREAM.CONSUMER",
    "$JS.API.CONSUMER.CREATE.mamos_d_STREAM.CONSUMER.>",
    "$JS.API.CONSUMER.MSG.NEXT.mamos_d_STREAM.CONSUMER",
    "$JS.ACK.mamos_d_STREAM.CONSUMER.>",
    "$JS.API.STREAM.MSG.GET.mamos_p_STREAM",
    "$JS.API.STREAM.MSG.GET.mamos_d_STREAM",
    "$JS.API.STREAM.PURGE.mamos_p_STREAM",
];

/// As that page computes them: `printf 'orders\0' | sha256sum | cut -c1-32`, and with `billing\0` after it.
const STREAM: &str = "e8da53958094e1ea9b7cf5e820639dd5";
const CONSUMER: &str = "3cce84f23b1c0e4cb8db8bba0b1e66d3";

fn right(listed: &str, prefix: &str) -> String {
    let named = listed.replace("STREAM.CONSUMER", &format!("{STREAM}.{CONSUMER}"));
    named.replace("_STREAM", &format!("_{STREAM}")).replace("mamos_", &format!("{prefix}_"))
}

/// One user has all of the rights, and each of the others lacks one of them.
#[tokio::test]
async fn durable_delivery_needs_the_rights_that_are_listed_and_no_others() {
    let users: Vec<_> = (0..=RIGHTS.len()).map(user_without).collect();
    let server = NatsServer::with_jetstream(&format!(
        "authorization {{ users = [ {{ user: all, password: p }}, {} ] }}",
        users.join(", ")
    ));
    for lacks in (0..=RIGHTS.len()).rev() {
        let prefix = format!("u{lacks}");
        let with = |user: &str| NatsSettings {
            credentials: NatsCredentials::User { user: user.to_owned(), password: "p".to_owned() },
            prefix: prefix.clone(),
            publish_timeout: Duration::from_secs(3),
            ..NatsSettings::new(server.url())
        };
        let publisher = NatsBus::connect(with("all")).await.unwrap();
        let works = receives_durably(with(&prefix), &publisher).await;
        let Some(lacking) = RIGHTS.get(lacks) else {
            works.unwrap();
            continue;
        };
        let error = works.expect_err(lacking);
        assert_eq!(error.kind(), ErrorKind::Denied, "{lacking}: {error}");
        let named = right(lacking, &prefix).replace('>', "");
        assert!(error.to_string().contains(&named), "{named}: {error}");
    }
}

fn user_without(lacks: usize) -> String {
    let rights = RIGHTS.iter().enumerate().filter(|(number, _)| *number != lacks);
    let rights: Vec<_> = rights.map(|(_, text)| format!("{:?}", right(text, &format!("u{lacks}")))).collect();
    format!(
        "{{ user: u{lacks}, password: p, permissions: {{ publish: [{}], subscribe: [\"_INBOX.>\"] }} }}",
        rights.join(", ")
    )
}

/// A small and a large message arrive, are acknowledged, and leave nothing behind.
async fn receives_durably(settings: NatsSettings, publisher: &NatsBus) -> Result<(), Error> {
    let start = Instant::now();
    let bus = NatsBus::connect(settings).await?;
    let subscribed = subscribe(&bus, "orders", Some("billing"), Delivery::Durable).await;
    assert!(start.elapsed() < Duration::from_secs(2), "noticed late: {:?}", start.elapsed());
    let mut subscription = subscribed?;
    let large = Bytes::from(vec![7; MAX_MESSAGE_BYTES]);
    for payload in [Bytes::from_static(b"small"), large, Bytes::from_static(b"last")] {
        publisher.publish(vec![message("orders", payload.clone())]).await?;
        let received = timeout(Duration::from_secs(10), subscription.receive()).await;
        let received = received.expect("something comes, or an error")?.unwrap();
        assert!(received.payload == payload, "{} bytes", received.payload.len());
        subscription.acknowledge(received.receipt).await?;
    }
    // Acknowledging goes on in the background.
    match timeout(Duration::from_secs(4), subscription.receive()).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(received)) => panic!("nothing more was published: {received:?}"),
        Err(_) => Ok(()),
    }
}

async fn carries(bus: &dyn Bus) {
    let mut subscription = subscribe(bus, "a", Some("g"), Delivery::Transient).await.unwrap();
    bus.publish(vec![message("a", "x")]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "x");
}

fn file_with(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// A token as `nsc` makes them: <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt>.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let claims = json!({ "jti": "a", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": nats });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let signed = format!("{head}.{}", encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn creds(jwt: &str, user: &KeyPair) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    )
}
