//! The buses over NATS and Redis, over TLS: whom they believe. RabbitMQ's is in `amqp_faults.rs`.

use std::time::Duration;

use mamos_core::bus::{Bus, Delivery};
use mamos_core::{ErrorKind, Result};
use mamos_testbed::{NatsServer, RedisServer, free_port};
use mamos_transport::bus::{NatsBus, NatsSettings, RedisBus, RedisBusSettings, open};

use crate::certificates::{Certificates, strange_authority};
use crate::common::{message, receive, subscribe};

const TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn nats_is_believed_with_a_certificate_of_the_authority_for_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let made = Certificates::new(directory.path());
    let tls = format!("cert_file: \"{}\", key_file: \"{}\"", made.certificate.display(), made.key.display());
    let server = NatsServer::with_jetstream(&format!("tls {{ {tls} }}"));
    let connect = async |url: String, ca: &str| {
        NatsBus::connect(NatsSettings { ca_pem: Some(ca.to_owned()), ..NatsSettings::new(url) }).await
    };
    let url = |host: &str| format!("tls://u:secret@{host}:{}", server.port());
    carries(&connect(url("localhost"), &made.ca_pem).await.unwrap()).await;
    // A server that asks for TLS gets it, whatever the URL says.
    let plain = url("localhost").replace("tls://", "nats://");
    carries(&connect(plain.clone(), &made.ca_pem).await.unwrap()).await;
    assert_distrusted(connect(plain, &strange_authority()).await);
    assert_distrusted(connect(url("localhost"), &strange_authority()).await);
    assert_distrusted(connect(url("127.0.0.1"), &made.ca_pem).await);
    // The system's authorities do not know it either.
    assert_distrusted(NatsBus::connect(NatsSettings::new(url("localhost"))).await);
    assert_opens(&url("localhost"), &made).await;

    let without = NatsServer::with_config("");
    let url = format!("tls://u:secret@localhost:{}", without.port());
    assert_distrusted(connect(url, &made.ca_pem).await);
}

#[tokio::test]
async fn redis_is_believed_with_a_certificate_of_the_authority_for_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let made = Certificates::new(directory.path());
    let port = free_port();
    let server = RedisServer::with_settings(&[
        "--tls-port",
        &port.to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        made.certificate.to_str().unwrap(),
        "--tls-key-file",
        made.key.to_str().unwrap(),
        "--tls-ca-cert-file",
        made.ca.to_str().unwrap(),
    ]);
    assert_eq!(server.command(&["ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all"]), "OK");
    let connect = async |url: String, ca: &str| {
        RedisBus::connect(RedisBusSettings {
            ca_pem: Some(ca.to_owned()),
            publish_timeout: TIMEOUT,
            ..RedisBusSettings::new(url)
        })
        .await
    };
    let url = |host: &str| format!("rediss://u:secret@{host}:{port}");
    carries(&connect(url("localhost"), &made.ca_pem).await.unwrap()).await;
    assert_distrusted(connect(url("localhost"), &strange_authority()).await);
    assert_distrusted(connect(url("127.0.0.1"), &made.ca_pem).await);
    assert_distrusted(RedisBus::connect(RedisBusSettings::new(url("localhost"))).await);
    assert_opens(&url("localhost"), &made).await;

    // The port without TLS, where the server waits for more.
    let url = format!("rediss://u:secret@localhost:{}", server.port());
    let error = connect(url, &made.ca_pem).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("has TLS at this port"), "{error}");
}

/// Every way of delivery, each of which has a connection of its own with Redis.
async fn carries(bus: &dyn Bus) {
    assert!(!bus.describe().contains("secret"), "{}", bus.describe());
    for (topic, group, delivery) in [
        ("alone", None, Delivery::Transient),
        ("group", Some("g"), Delivery::Transient),
        ("durable", Some("g"), Delivery::Durable),
    ] {
        let mut subscription = subscribe(bus, topic, group, delivery).await.unwrap();
        bus.publish(vec![message(topic, "over TLS")]).await.unwrap();
        assert_eq!(receive(&mut *subscription).await, "over TLS", "{topic}");
    }
}

fn assert_distrusted<T: std::fmt::Debug>(connected: Result<T>) {
    let error = connected.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.to_string().contains("check the CA and the name in the URL"), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    let provider = rustls::crypto::CryptoProvider::get_default();
    assert!(provider.is_none(), "that is for the program to choose");
}

/// By its URL alone.
async fn assert_opens(url: &str, made: &Certificates) {
    carries(&*open(&format!("{url}?ca={}", made.ca.display())).await.unwrap()).await;
    let directory = tempfile::tempdir().unwrap();
    let strange = directory.path().join("strange.pem");
    std::fs::write(&strange, strange_authority()).unwrap();
    assert_distrusted(open(&format!("{url}?ca={}", strange.display())).await.map(|bus| bus.describe()));
}
