//! The bus over RabbitMQ keeps every promise of the kit.
#![cfg(feature = "amqp")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mamos_core::ErrorKind;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe};
use mamos_core::id::{GroupName, TopicName};
use mamos_transport::bus::DurableQueues;
use mamos_transport::{AmqpBus, AmqpSettings, bus_conformance};

/// One exchange for all tests: their topics are their own, and what they leave behind is forgotten.
fn settings() -> AmqpSettings {
    let mut settings = AmqpSettings::new(mamos_testbed::amqp_url());
    settings.exchange = "mamos_test".to_owned();
    settings.forget_groups_after = Some(Duration::from_secs(60));
    settings
}

async fn quorum() -> Box<dyn Bus> {
    Box::new(AmqpBus::connect(settings()).await.unwrap())
}

async fn classic() -> Box<dyn Bus> {
    let mut settings = settings();
    settings.durable_queues = DurableQueues::Classic;
    Box::new(AmqpBus::connect(settings).await.unwrap())
}

#[tokio::test]
async fn subscriptions_end_when_the_bus_is_closed() {
    let bus = AmqpBus::connect(settings()).await.unwrap();
    let topic = TopicName::new(mamos_testbed::unique_name()).unwrap();
    let subscribe = Subscribe { topic: topic.clone(), group: None, delivery: Delivery::Transient };
    let mut subscription = bus.subscribe(subscribe.clone()).await.unwrap();
    let same = bus.clone();
    drop(bus);
    same.publish(vec![Message { topic: topic.clone(), payload: "a".into() }]).await.unwrap();
    assert_eq!(subscription.receive().await.unwrap().unwrap().payload, "a");
    same.close();
    assert_eq!(subscription.receive().await.unwrap(), None);
    let refused = same.publish(vec![Message { topic, payload: "b".into() }]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed, "{refused:?}");
    let refused = same.subscribe(subscribe).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed, "{refused:?}");
}

#[test]
fn a_program_that_dies_gives_back_what_it_had() {
    let topic = TopicName::new(mamos_testbed::unique_name()).unwrap();
    let group = Some(GroupName::new("g").unwrap());
    let subscribe = Subscribe { topic: topic.clone(), group, delivery: Delivery::Durable };
    let dying = tokio::runtime::Runtime::new().unwrap();
    let held = dying.block_on(async {
        let bus = AmqpBus::connect(settings()).await.unwrap();
        let mut subscription = bus.subscribe(subscribe.clone()).await.unwrap();
        let message = |payload: &'static str| Message { topic: topic.clone(), payload: payload.into() };
        bus.publish(vec![message("0"), message("1")]).await.unwrap();
        let first = subscription.receive().await.unwrap().unwrap();
        subscription.acknowledge(first.receipt).await.unwrap();
        subscription.receive().await.unwrap().unwrap();
        (bus, subscription)
    });
    // Nothing of it runs any more, and nothing was said to the broker.
    dying.shutdown_background();
    std::mem::forget(held);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let bus = AmqpBus::connect(settings()).await.unwrap();
        let mut subscription = bus.subscribe(subscribe).await.unwrap();
        let again = tokio::time::timeout(Duration::from_secs(60), subscription.receive()).await;
        let again = again.expect("the broker gave nothing back").unwrap().unwrap();
        assert_eq!((&again.payload[..], again.is_redelivered), (&b"1"[..], true));
    });
}

/// Each has a channel, and a connection has only so many of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_subscriptions_than_a_connection_has_room_for() {
    let bus = AmqpBus::connect(settings()).await.unwrap();
    let name = mamos_testbed::unique_name();
    let subscribing = (0..1100).map(async |number| {
        let topic = TopicName::new(format!("{name}.{number}")).unwrap();
        let subscribe = Subscribe { topic: topic.clone(), group: None, delivery: Delivery::Transient };
        (topic, bus.subscribe(subscribe).await.unwrap())
    });
    let mut subscriptions: Vec<_> = stream::iter(subscribing).buffer_unordered(32).collect().await;
    let messages = subscriptions.iter().map(|(topic, _)| Message {
        topic: topic.clone(),
        payload: Bytes::copy_from_slice(topic.as_str().as_bytes()),
    });
    bus.publish(messages.collect()).await.unwrap();
    for (topic, subscription) in &mut subscriptions {
        assert_eq!(subscription.receive().await.unwrap().unwrap().payload, topic.as_str());
    }
}

mod quorum_queues {
    super::bus_conformance!(super::quorum);
}
mod classic_queues {
    super::bus_conformance!(super::classic);
}
