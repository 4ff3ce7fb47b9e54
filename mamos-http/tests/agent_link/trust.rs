//! Whom an agent believes.

use mamos_core::ErrorKind;
use mamos_core::transport::{Connector, Frame};
use mamos_transport::WebSocketConnector;
use mamos_transport::websocket::WebSocketConnectorBuilder;
use rcgen::date_time_ymd;

use crate::certificates::{Authority, Identity, params};
use crate::scene::{Scene, encrypted, plain, tls};

const LIMIT: usize = 1000;
const OTHER_PIN: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

async fn accepts(scene: &Scene, connector: WebSocketConnectorBuilder) {
    let (ours, theirs) = scene.connected(&connector.build().unwrap()).await;
    ours.send(Frame::text("{}")).await.unwrap();
    assert!(theirs.receive().await.unwrap().is_some());
    assert!(ours.peer().starts_with("wss:127.0.0.1:"), "{}", ours.peer());
}

async fn refuses(connector: WebSocketConnectorBuilder, kind: ErrorKind, why: &str) {
    let error = connector.build().unwrap().connect().await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[tokio::test]
async fn the_pinned_certificate_is_accepted_whoever_signed_it_and_whatever_its_name() {
    let identity = Identity::self_signed_for("somewhere.else");
    let scene = tls(identity.server(), LIMIT).await;
    accepts(&scene, encrypted(scene.address).pinned_fingerprint(identity.fingerprint())).await;
}

#[tokio::test]
async fn any_other_certificate_than_the_pinned_one_is_refused() {
    let identity = Identity::self_signed();
    let scene = tls(identity.server(), LIMIT).await;
    let connector = encrypted(scene.address).pinned_fingerprint(OTHER_PIN);
    refuses(connector.clone(), ErrorKind::Config, "not the pinned one").await;
    refuses(connector, ErrorKind::Config, &identity.fingerprint().to_lowercase()[7..]).await;
}

#[tokio::test]
async fn a_pinned_certificate_is_refused_from_one_who_lacks_its_key() {
    let (pinned, thief) = (Identity::self_signed(), Identity::self_signed());
    let scene = tls(pinned.server_with_key_of(&thief), LIMIT).await;
    let connector = encrypted(scene.address).pinned_fingerprint(pinned.fingerprint());
    refuses(connector, ErrorKind::Config, "not trusted").await;
}

#[tokio::test]
async fn a_certificate_of_the_given_authority_is_accepted() {
    let authority = Authority::new();
    let scene = tls(authority.signs().server(), LIMIT).await;
    accepts(&scene, encrypted(scene.address).ca(authority.pem)).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let scene = tls(Authority::new().signs().server(), LIMIT).await;
    refuses(encrypted(scene.address).ca(Authority::new().pem), ErrorKind::Config, "give its CA").await;
}

#[tokio::test]
async fn an_authority_that_the_system_does_not_know_is_refused() {
    let scene = tls(Authority::new().signs().server(), LIMIT).await;
    // On a machine without any authorities building fails, which is as good.
    let refused = match encrypted(scene.address).build() {
        Ok(connector) => connector.connect().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
}

#[tokio::test]
async fn with_authority_and_pin_both_must_hold() {
    let authority = Authority::new();
    let identity = authority.signs();
    let (scene, pin) = (tls(identity.server(), LIMIT).await, identity.fingerprint());
    accepts(&scene, encrypted(scene.address).ca(authority.pem.clone()).pinned_fingerprint(&pin)).await;
    let wrong_pin = encrypted(scene.address).ca(authority.pem).pinned_fingerprint(OTHER_PIN);
    refuses(wrong_pin, ErrorKind::Config, "not the pinned one").await;
    let wrong_ca = encrypted(scene.address).ca(Authority::new().pem).pinned_fingerprint(pin);
    refuses(wrong_ca, ErrorKind::Config, "not trusted").await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let scene = tls(authority.signs_with(params("somewhere.else")).server(), LIMIT).await;
    refuses(encrypted(scene.address).ca(authority.pem), ErrorKind::Config, "another name").await;
}

#[tokio::test]
async fn an_expired_certificate_is_worth_another_try_for_it_will_be_renewed() {
    let authority = Authority::new();
    let mut params = params("localhost");
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2002, 1, 1);
    let scene = tls(authority.signs_with(params).server(), LIMIT).await;
    refuses(encrypted(scene.address).ca(authority.pem), ErrorKind::Unavailable, "renew it").await;
}

#[tokio::test]
async fn a_server_that_knows_only_tls_1_2_is_refused() {
    let identity = Identity::self_signed();
    let scene = tls(identity.server_of_version(&rustls::version::TLS12), LIMIT).await;
    let connector = encrypted(scene.address).pinned_fingerprint(identity.fingerprint());
    refuses(connector, ErrorKind::Config, "must speak TLS 1.3").await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused() {
    let scene = plain(LIMIT).await;
    refuses(encrypted(scene.address).pinned_fingerprint(OTHER_PIN), ErrorKind::Config, "does not speak TLS")
        .await;
}

#[tokio::test]
async fn an_unencrypted_link_to_another_machine_must_be_allowed() {
    for url in ["ws://mamos.example", "ws://10.0.0.7:7117", "ws://[2001:db8::1]/x", "ws://localhost.example"]
    {
        let refused = WebSocketConnector::builder(url).build().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
        assert!(refused.to_string().contains("use wss://, or allow plain text"), "{refused}");
        WebSocketConnector::builder(url).allow_plain_text().build().unwrap();
    }
    for url in ["ws://localhost:7117", "ws://127.0.0.1", "ws://127.8.9.1", "ws://[::1]:80/path"] {
        WebSocketConnector::builder(url).build().unwrap();
    }
}

#[test]
fn settings_that_can_never_work_are_refused_at_once() {
    let refused = |builder: WebSocketConnectorBuilder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    };
    for url in [
        "",
        "mamos.example",
        "https://mamos.example",
        "wss://",
        "wss:///path",
        "wss://a:b@mamos.example",
        "wss://mamos.example:99999",
        "wss://-- --",
    ] {
        refused(WebSocketConnector::builder(url).pinned_fingerprint(OTHER_PIN));
    }
    let builder = || WebSocketConnector::builder("wss://mamos.example");
    refused(builder().pinned_fingerprint("sha256:12"));
    refused(builder().ca("no PEM"));
    refused(builder().ca("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    refused(WebSocketConnector::builder("ws://localhost").pinned_fingerprint(OTHER_PIN));
    refused(WebSocketConnector::builder("ws://localhost").ca(Authority::new().pem));
}
