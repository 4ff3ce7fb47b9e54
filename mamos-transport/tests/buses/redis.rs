//! The bus over Redis, against real servers.

use std::cell::RefCell;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::{ErrorKind, Result};
use mamos_testbed::{RedisServer, free_port, redis_agent_acl, redis_url, unique_name};
use mamos_transport::bus::{RedisBus, RedisBusSettings};

use crate::common::{self, assert_refused, message, receive, subscribe};

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
    common::the_largest_message_arrives(&*fresh().await).await;
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
    common::work_goes_on_after_an_outage(
        &bus,
        || server.borrow_mut().kill(),
        || server.borrow_mut().resume(),
    )
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
    common::an_agent_is_kept_to_its_link(&orchestrator, &agent).await;
    assert_refused(RedisBus::connect(RedisBusSettings::new(url("secret"))).await, ErrorKind::Denied);
}

#[tokio::test]
async fn entries_of_others_are_acknowledged_away() {
    let server = RedisServer::with_settings(&[]);
    let bus = RedisBus::connect(RedisBusSettings::new(server.url())).await.unwrap();
    let mut subscription = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap();
    server.command(&["XADD", "mamos:d:a", "*", "foreign", "x"]);
    let too_large = format!("redis.call('XADD', 'mamos:d:a', '*', 'p', {TOO_LARGE})");
    server.command(&["EVAL", &too_large, "0"]);
    bus.publish(vec![message("a", "ours")]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "ours");
    common::eventually(async || server.command(&["XLEN", "mamos:d:a"]) == "0").await;
}

#[tokio::test]
async fn what_others_publish_is_dropped_if_it_is_too_large() {
    let server = RedisServer::with_settings(&[]);
    let bus = RedisBus::connect(RedisBusSettings::new(server.url())).await.unwrap();
    let mut alone = subscribe(&bus, "a", None, Delivery::Transient).await.unwrap();
    let mut grouped = subscribe(&bus, "a", Some("g"), Delivery::Transient).await.unwrap();
    for command in ["'PUBLISH', 'mamos:t:a'", "'RPUSH', 'mamos:q:a|g'"] {
        server.command(&["EVAL", &format!("redis.call({command}, {TOO_LARGE})"), "0"]);
    }
    bus.publish(vec![message("a", "ours")]).await.unwrap();
    assert_eq!(receive(&mut *alone).await, "ours");
    assert_eq!(receive(&mut *grouped).await, "ours");
}

/// One byte more than the largest message.
const TOO_LARGE: &str = "string.rep('x', 8 * 1024 * 1024 + 1)";

#[tokio::test]
async fn keys_of_others_are_told() {
    let server = RedisServer::with_settings(&[]);
    let bus = RedisBus::connect(RedisBusSettings::new(server.url())).await.unwrap();
    for (topic, key, delivery) in [
        ("a", "mamos:d:a", Delivery::Durable),
        ("b", "mamos:c:b|g", Delivery::Durable),
        ("c", "mamos:w:c|g", Delivery::Durable),
        ("d", "mamos:m:d", Delivery::Transient),
    ] {
        server.command(&["SET", key, "foreign"]);
        assert_refused(subscribe(&bus, topic, Some("g"), delivery).await, ErrorKind::Config);
        if matches!(topic, "a" | "d") {
            assert_refused(bus.publish(vec![message(topic, "x")]).await, ErrorKind::Config);
        }
        // Nobody else is disturbed, and it works once the key is gone.
        let mut other = subscribe(&bus, "other", Some("g"), delivery).await.unwrap();
        bus.publish(vec![message("other", "x")]).await.unwrap();
        assert_eq!(receive(&mut *other).await, "x", "{key}");
        server.command(&["DEL", key]);
        let mut subscription = subscribe(&bus, topic, Some("g"), delivery).await.unwrap();
        bus.publish(vec![message(topic, "x")]).await.unwrap();
        assert_eq!(receive(&mut *subscription).await, "x", "{key}");
    }
    // A stream that somebody else made is as good as one of ours, if his group acknowledges.
    server.command(&["XADD", "mamos:d:e", "*", "p", "older"]);
    let mut subscription = subscribe(&bus, "e", Some("g"), Delivery::Durable).await.unwrap();
    bus.publish(vec![message("e", "x")]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "x");
    common::eventually(async || server.command(&["XLEN", "mamos:d:e"]) == "0").await;
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
