//! The bus over NATS, against real servers.

use std::cell::RefCell;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::{ErrorKind, Result};
use mamos_testbed::{NatsServer, free_port, nats_agent_config, nats_url, unique_name};
use mamos_transport::bus::nats::NatsCredentials;
use mamos_transport::bus::{NatsBus, NatsSettings};

use crate::common::{self, assert_refused, message, receive, subscribe};

/// A bus with the server that it needs.
struct Kept(NatsBus, #[expect(dead_code, reason = "ends with the bus")] NatsServer);

#[async_trait]
impl Bus for Kept {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        self.0.publish(messages).await
    }
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        self.0.subscribe(subscribe).await
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Streams outlive a bus, so the kit leaves none on the shared server.
async fn fresh() -> Box<dyn Bus> {
    let server = NatsServer::start();
    let bus = NatsBus::connect(NatsSettings::new(server.url())).await.unwrap();
    Box::new(Kept(bus, server))
}

mod kit {
    mamos_transport::bus_conformance!(super::fresh);
}

#[tokio::test]
async fn the_largest_message_arrives_in_parts() {
    common::the_largest_message_arrives(&*fresh().await).await;
}

#[tokio::test]
async fn the_shared_server_serves() {
    let settings = NatsSettings { prefix: unique_name(), ..NatsSettings::new(nats_url()) };
    let bus = NatsBus::connect(settings).await.unwrap();
    let mut subscription = subscribe(&bus, "a", None, Delivery::Transient).await.unwrap();
    bus.publish(vec![message("a", "x")]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "x");
}

#[tokio::test]
async fn work_goes_on_after_an_outage() {
    let server = RefCell::new(NatsServer::start());
    let url = server.borrow().url();
    let settings = NatsSettings { publish_timeout: Duration::from_secs(2), ..NatsSettings::new(url) };
    let bus = NatsBus::connect(settings).await.unwrap();
    common::work_goes_on_after_an_outage(
        &bus,
        || server.borrow_mut().kill(),
        || server.borrow_mut().resume(),
    )
    .await;
}

#[tokio::test]
async fn an_agent_is_kept_to_its_link() {
    let server = NatsServer::with_config(&nats_agent_config("mamos", "L"));
    let user = |user: &str, password: &str, inbox: &str| NatsSettings {
        credentials: NatsCredentials::User { user: user.into(), password: password.into() },
        inbox_prefix: inbox.into(),
        ..NatsSettings::new(server.url())
    };
    let orchestrator = NatsBus::connect(user("orchestrator", "o", "_INBOX")).await.unwrap();
    let agent = NatsBus::connect(user("agent", "a", "_INBOX.L")).await.unwrap();
    common::an_agent_is_kept_to_its_link(&orchestrator, &agent).await;
    let in_url = |url: &str| NatsSettings::new(url.replace("HOST", &format!("127.0.0.1:{}", server.port())));
    NatsBus::connect(in_url("nats://orchestrator:%6f@HOST")).await.unwrap();
    assert_refused(NatsBus::connect(in_url("nats://orchestrator:secret@HOST")).await, ErrorKind::Denied);
    assert_refused(NatsBus::connect(user("agent", "secret", "_INBOX.L")).await, ErrorKind::Denied);
    assert_refused(NatsBus::connect(user("agent", "a", "_INBOX")).await, ErrorKind::Denied);
}

#[tokio::test]
async fn without_jetstream_durable_delivery_says_what_to_do() {
    let server = NatsServer::with_config("");
    let bus = NatsBus::connect(NatsSettings::new(server.url())).await.unwrap();
    let mut transient = subscribe(&bus, "a", Some("g"), Delivery::Transient).await.unwrap();
    bus.publish(vec![message("a", "x")]).await.unwrap();
    assert_eq!(receive(&mut *transient).await, "x");
    let error = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("jetstream {}"), "{error}");
}

#[tokio::test]
async fn wrong_settings_are_told_without_secrets() {
    for url in ["", "http://x", "nats://user:secret@", "amqp://user:secret@127.0.0.1"] {
        assert_refused(NatsBus::connect(NatsSettings::new(url)).await, ErrorKind::Config);
    }
    let nobody = format!("nats://user:secret@127.0.0.1:{}", free_port());
    assert_refused(NatsBus::connect(NatsSettings::new(nobody)).await, ErrorKind::Unavailable);
    for prefix in ["", "a.b", "*", ">"] {
        let settings = NatsSettings { prefix: prefix.into(), ..NatsSettings::new("nats://127.0.0.1") };
        assert_refused(NatsBus::connect(settings).await, ErrorKind::Config);
    }
    let credentials = NatsCredentials::Creds("secret".into());
    let settings = NatsSettings { credentials, ..NatsSettings::new("nats://u:secret@127.0.0.1") };
    assert!(!format!("{settings:?}").contains("secret"));
    assert_refused(NatsBus::connect(settings).await, ErrorKind::Config);
}
