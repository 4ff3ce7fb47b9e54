//! The buses over brokers that hang: stopped in their tracks for longer than any connection waits.

use std::time::Duration;

use mamos_testbed::{NatsServer, RabbitServer, RedisServer};
use mamos_transport::bus::{AmqpBus, AmqpSettings, NatsBus, NatsSettings, RedisBus, RedisBusSettings};

use crate::common::{self, Hang};

const TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn nats_that_hangs_is_told() {
    let server = NatsServer::start();
    let settings = NatsSettings { publish_timeout: TIMEOUT, ..NatsSettings::new(server.url()) };
    let bus = NatsBus::connect(settings).await.unwrap();
    // The third ping without an answer, 5 s apart.
    let lasts = Duration::from_secs(17);
    let hang = Hang { freeze: || server.freeze(), thaw: || server.thaw(), lasts, timeout: TIMEOUT };
    common::a_server_that_hangs_is_told(&bus, hang).await;
}

#[tokio::test]
async fn redis_that_hangs_is_told() {
    let server = RedisServer::start();
    let settings = RedisBusSettings { publish_timeout: TIMEOUT, ..RedisBusSettings::new(server.url()) };
    let bus = RedisBus::connect(settings).await.unwrap();
    // A ping every 5 s has 5 s for its answer, and so has a read that waits for 5 s.
    let lasts = Duration::from_secs(12);
    let hang = Hang { freeze: || server.freeze(), thaw: || server.thaw(), lasts, timeout: TIMEOUT };
    common::a_server_that_hangs_is_told(&bus, hang).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_that_hangs_is_told() {
    let server = tokio::task::spawn_blocking(RabbitServer::start).await.unwrap();
    let heartbeat = Duration::from_secs(1);
    let settings = AmqpSettings { timeout: TIMEOUT, heartbeat, ..AmqpSettings::new(server.url()) };
    let bus = AmqpBus::connect(settings).await.unwrap();
    let (lasts, timeout) = (heartbeat * 6, TIMEOUT);
    let hang = Hang { freeze: || server.freeze(), thaw: || server.thaw(), lasts, timeout };
    common::a_server_that_hangs_is_told(&bus, hang).await;
}
