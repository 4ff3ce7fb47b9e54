//! What the checks have in common: a bus, a client that is not ours, and waiting.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::BasicProperties;
use mamos_core::Error;
use mamos_core::bus::{Bus, Delivery, Message, Received, Subscribe, Subscription};
use mamos_core::id::{GroupName, TopicName};
use mamos_testbed::RabbitServer;
use mamos_transport::{AmqpBus, AmqpSettings};

use crate::certificates::Certificates;

/// The longest wait for something that must come.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Silence of this length means that nothing more comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(500);
/// How long the buses of these tests wait for the broker.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// What the broker needs for TLS, and who vouches for it.
pub(crate) struct Tls {
    pub(crate) port: u16,
    pub(crate) config: String,
    pub(crate) ca: Vec<u8>,
}

impl Tls {
    pub(crate) fn new(directory: &Path) -> Self {
        let made = Certificates::new(directory);
        let port = mamos_testbed::free_port();
        let mut config = format!("listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.verify = verify_none\n");
        for (option, path) in
            [("cacertfile", &made.ca), ("certfile", &made.certificate), ("keyfile", &made.key)]
        {
            config += &format!("ssl_options.{option} = {}\n", path.display());
        }
        Self { port, config, ca: made.ca_pem.into_bytes() }
    }
}

pub(crate) fn settings(url: &str) -> AmqpSettings {
    AmqpSettings { timeout: TIMEOUT, ..AmqpSettings::new(url) }
}

pub(crate) async fn connect(server: &RabbitServer) -> AmqpBus {
    AmqpBus::connect(settings(&server.url())).await.unwrap()
}

pub(crate) fn control(server: &RabbitServer, arguments: &[&str]) -> String {
    tokio::task::block_in_place(|| server.control(arguments))
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub(crate) fn number(received: &Received) -> u32 {
    std::str::from_utf8(&received.payload).unwrap().parse().unwrap()
}

pub(crate) async fn publish(bus: &AmqpBus, topic: &TopicName, payloads: &[&str]) -> Result<(), Error> {
    let payloads = payloads.iter().map(|payload| Bytes::copy_from_slice(payload.as_bytes()));
    bus.publish(payloads.map(|payload| Message { topic: topic.clone(), payload }).collect()).await
}

pub(crate) async fn try_subscribe(
    bus: &AmqpBus,
    topic: &TopicName,
    group: Option<&str>,
    delivery: Delivery,
) -> Result<Box<dyn Subscription>, Error> {
    let group = group.map(|group| GroupName::new(group).unwrap());
    bus.subscribe(Subscribe { topic: topic.clone(), group, delivery }).await
}

pub(crate) async fn subscribe(
    bus: &AmqpBus,
    topic: &TopicName,
    group: Option<&str>,
    delivery: Delivery,
) -> Box<dyn Subscription> {
    try_subscribe(bus, topic, group, delivery).await.unwrap()
}

pub(crate) async fn next(subscription: &mut dyn Subscription) -> Received {
    let received = tokio::time::timeout(SOON, subscription.receive()).await;
    received.expect("nothing came").unwrap().expect("the bus is open")
}

pub(crate) async fn assert_silent(subscription: &mut dyn Subscription) {
    if let Ok(received) = tokio::time::timeout(SILENCE, subscription.receive()).await {
        panic!("nothing should have come, and this did: {received:?}");
    }
}

pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < end, "it did not happen within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many connections of this program lapin has a thread for.
pub(crate) fn io_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the tests run on Linux");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "lapin-io-loop").count()
}

/// Publishes until something arrives: a transient subscription that is being made again misses some.
pub(crate) async fn until_it_arrives(bus: &AmqpBus, topic: &TopicName, subscription: &mut dyn Subscription) {
    let end = Instant::now() + SOON;
    loop {
        let published = publish(bus, topic, &["arrived?"]).await;
        assert!(Instant::now() < end, "nothing arrived within {SOON:?}, after {published:?}");
        if published.is_err() {
            continue;
        }
        while let Ok(received) =
            tokio::time::timeout(Duration::from_millis(100), subscription.receive()).await
        {
            if received.unwrap().expect("the bus is open").payload == "arrived?" {
                return;
            }
        }
    }
}

/// A channel of a client that is not ours.
pub(crate) async fn raw(url: &str) -> lapin::Channel {
    let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

pub(crate) async fn raw_publish(
    channel: &lapin::Channel,
    exchange: &str,
    key: &str,
    payload: &[u8],
) -> Result<lapin::Confirmation, lapin::Error> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish(exchange.into(), key.into(), options, payload, properties).await?.await
}
