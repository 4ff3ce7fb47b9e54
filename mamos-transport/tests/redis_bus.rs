//! The bus over Redis, against real servers.

#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/buses.rs"]
mod buses;

use std::cell::RefCell;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::{ErrorKind, Result};
use mamos_testbed::{RedisServer, free_port, redis_agent_acl, redis_url, unique_name};
use mamos_transport::bus::{RedisBus, RedisBusSettings};

use buses::{assert_refused, message, receive, subscribe};

/// A bus with the server that it needs.
struct Kept(RedisBus, #[expect(dead_code, reason = "ends with the bus")] RedisServer);

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
    let server = RedisServer::with_settings(&[]);
    let bus = RedisBus::connect(RedisBusSettings::new(server.url())).await.unwrap();
    Box::new(Kept(bus, server))
}

mod kit {
    mamos_transport::bus_conformance!(super::fresh);
}

#[tokio::test]
async fn the_largest_message_arrives() {
    buses::the_largest_message_arrives(&*fresh().await).await;
}

#[tokio::test]
async fn the_shared_server_serves() {
    let settings = RedisBusSettings { prefix: unique_name(), ..RedisBusSettings::new(redis_url()) };
    let bus = RedisBus::connect(settings).await.unwrap();
    let mut subscription = subscribe(&bus, "a", None, Delivery::Transient).await.unwrap();
    bus.publish(vec![message("a", "x")]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "x");
}

#[tokio::test]
async fn work_goes_on_after_an_outage() {
    let server = RefCell::new(RedisServer::start());
    let url = server.borrow().url();
    let settings = RedisBusSettings { publish_timeout: Duration::from_secs(2), ..RedisBusSettings::new(url) };
    let bus = RedisBus::connect(settings).await.unwrap();
    buses::work_goes_on_after_an_outage(&bus, || server.borrow_mut().kill(), || server.borrow_mut().resume())
        .await;
}

#[tokio::test]
async fn an_agent_is_kept_to_its_link() {
    let server = RedisServer::with_settings(&[]);
    let acl = redis_agent_acl("mamos", "L");
    let words: Vec<_> = std::iter::once("ACL").chain(acl.iter().map(String::as_str)).collect();
    assert_eq!(server.command(&words), "OK");
    let orchestrator = RedisBus::connect(RedisBusSettings::new(server.url())).await.unwrap();
    let url = |password: &str| format!("redis://agent:{password}@127.0.0.1:{}", server.port());
    let agent = RedisBus::connect(RedisBusSettings::new(url("a"))).await.unwrap();
    buses::an_agent_is_kept_to_its_link(&orchestrator, &agent).await;
    assert_refused(RedisBus::connect(RedisBusSettings::new(url("secret"))).await, ErrorKind::Denied);
}

#[tokio::test]
async fn entries_of_others_are_acknowledged_away() {
    let server = RedisServer::with_settings(&[]);
    let bus = RedisBus::connect(RedisBusSettings::new(server.url())).await.unwrap();
    let mut subscription = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap();
    server.command(&["XADD", "mamos:d:a", "*", "foreign", "x"]);
    bus.publish(vec![message("a", "ours")]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "ours");
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while server.command(&["XLEN", "mamos:d:a"]) != "0" {
        assert!(std::time::Instant::now() < end, "what all acknowledged stays in the stream");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.command(&["SET", "mamos:d:b", "foreign"]);
    assert_refused(subscribe(&bus, "b", Some("g"), Delivery::Durable).await, ErrorKind::Config);
}

#[tokio::test]
async fn a_dead_member_loses_its_messages_to_another() {
    let server = RedisServer::with_settings(&[]);
    let settings = || RedisBusSettings {
        redeliver_after: Duration::from_millis(500),
        ..RedisBusSettings::new(server.url())
    };
    let bus = RedisBus::connect(settings()).await.unwrap();
    let mut subscription = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap();
    // A consumer that was given a message and gives no sign of life.
    server.command(&["XADD", "mamos:d:a", "*", "p", "orphan"]);
    server.command(&["XREADGROUP", "GROUP", "g", "dead", "STREAMS", "mamos:d:a", ">"]);
    assert_eq!(receive(&mut *subscription).await, "orphan");
}

#[tokio::test]
async fn a_full_topic_refuses_the_whole_batch() {
    let server = RedisServer::with_settings(&[]);
    let settings = RedisBusSettings { durable_messages: 2, ..RedisBusSettings::new(server.url()) };
    let bus = RedisBus::connect(settings).await.unwrap();
    let mut subscription = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap();
    assert_refused(bus.publish(vec![message("a", "x"); 3]).await, ErrorKind::LimitExceeded);
    bus.publish(vec![message("a", "y"); 2]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "y");
}

#[tokio::test]
async fn wrong_settings_are_told_without_secrets() {
    for url in ["", "http://x", "redis://user:secret@", "amqp://user:secret@127.0.0.1"] {
        let connected = RedisBus::connect(RedisBusSettings::new(url)).await;
        assert!(connected.is_err(), "{url}");
        if url.is_empty() || url.contains("http") || url.contains("amqp") {
            assert_refused(connected, ErrorKind::Config);
        }
    }
    let nobody = format!("redis://user:secret@127.0.0.1:{}", free_port());
    let settings = RedisBusSettings::new(nobody);
    assert!(!format!("{settings:?}").contains("secret"));
    assert_refused(RedisBus::connect(settings).await, ErrorKind::Unavailable);
    let settings = RedisBusSettings { prefix: "*".into(), ..RedisBusSettings::new("redis://127.0.0.1") };
    assert_refused(RedisBus::connect(settings).await, ErrorKind::Config);
}
