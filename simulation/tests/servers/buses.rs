//! The kit of buses over each of them.

use std::future::Future;

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::bus::{Bus, MAX_MESSAGE_BYTES, Message, Subscribe, Subscription};
use mamos_testbed::{NatsServer, RabbitServer, RedisServer};
use mamos_transport::bus::{
    AmqpBus, AmqpSettings, MemoryBus, NatsBus, NatsSettings, RedisBus, RedisBusSettings,
};
use mamos_transport::conformance::bus::{PROMISES, check};

use super::{Line, beside, broken, kept};

/// For the kit, which takes a box of its own for each promise.
struct Boxed<B>(B);

#[async_trait]
impl<B: Bus> Bus for Boxed<B> {
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

pub(crate) fn lines() -> Vec<Line> {
    vec![
        beside(|| line("memory", "", "nothing", || async { MemoryBus::new() })),
        beside(|| async {
            let server = NatsServer::start();
            let nats = || async { NatsBus::connect(NatsSettings::new(server.url())).await.unwrap() };
            let survives = "a restart; a power cut with JetStream's `sync_interval: always`";
            line("[NATS](bus-nats.md)", "over `max_payload` in parts", survives, nats).await
        }),
        beside(|| async {
            let server = RedisServer::start();
            let redis = || async { RedisBus::connect(RedisBusSettings::new(server.url())).await.unwrap() };
            let survives = "both, with `appendfsync` `always`";
            line("[Redis](bus-redis.md)", "", survives, redis).await
        }),
        beside(|| async {
            let server = RabbitServer::start();
            let amqp = || async { AmqpBus::connect(AmqpSettings::new(server.url())).await.unwrap() };
            line("[RabbitMQ](bus-rabbitmq.md)", "", "both", amqp).await
        }),
    ]
}

async fn line<B: Bus, F: Future<Output = B>>(
    name: &str,
    parts: &str,
    survives: &str,
    fresh: impl Fn() -> F,
) -> String {
    let broken =
        broken(
            PROMISES.iter().map(|promise| {
                let fresh = fresh();
                async move {
                    check(promise, Box::new(Boxed(fresh.await))).await.err().map(|broken| broken.promise)
                }
            }),
        );
    let broken = broken.await;
    // The kit has sent one of this size.
    let largest = MAX_MESSAGE_BYTES / 1024 / 1024;
    let parts = if parts.is_empty() { String::new() } else { format!(", {parts}") };
    format!("| {name} | {} | {largest} MiB{parts} | {survives} |", kept(PROMISES.len(), &broken))
}
