//! The bus over RabbitMQ when something is wrong: settings, rights, the broker's memory, connections, the broker.
//!
//! One test, because a broker takes some seconds to start and all of this needs one that nobody else uses.
#![cfg(feature = "amqp")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "buses/certificates.rs"]
mod certificates;
#[path = "amqp_faults/support.rs"]
mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use mamos_core::ErrorKind;
use mamos_core::bus::{Bus, Delivery, MAX_MESSAGE_BYTES, Message, Receipt};
use mamos_testbed::RabbitServer;
use mamos_transport::AmqpBus;
use mamos_transport::bus::DurableQueues;

use support::{
    TIMEOUT, Tls, assert_silent, connect, control, eventually, io_threads, next, number, publish, raw,
    raw_publish, settings, subscribe, topic, try_subscribe, until_it_arrives,
};

/// What `docs/bus-rabbitmq.md` advises.
const ELECT: &str = "[ra:trigger_election(amqqueue:get_pid(Q)) || Q <- \
                     rabbit_amqqueue:list_by_type(rabbit_quorum_queue)].";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_is_told_and_passes() {
    let directory = tempfile::tempdir().unwrap();
    let tls = Tls::new(directory.path());
    let config = tls.config.clone();
    let starting = tokio::task::spawn_blocking(move || RabbitServer::start_with(&config));
    let mut server = starting.await.unwrap();

    wrong_settings_are_told(&server).await;
    tls_is_verified_and_installs_nothing(&tls).await;
    what_is_dropped_leaves_nothing_behind(&server).await;
    queues_with_other_settings_are_told(&server).await;
    messages_of_others_are_dropped(&server).await;
    a_full_group_refuses(&server).await;
    an_agent_has_its_own_topics_only(&server).await;
    a_blocked_broker_is_told(&server).await;
    closed_connections_come_back(&server).await;
    the_broker_comes_back(&mut server).await;
}

async fn wrong_settings_are_told(server: &RabbitServer) {
    control(server, &["add_user", "stranger", "s3cret"]);
    let port = server.port();
    let nobody = format!("amqp://guest:s3cret@127.0.0.1:{}", mamos_testbed::free_port());
    for (url, kind, says) in [
        (
            format!("amqp://guest:s3cret@127.0.0.1:{port}"),
            ErrorKind::Denied,
            "check the user and the password",
        ),
        (format!("amqp://guest:guest@127.0.0.1:{port}/nowhere"), ErrorKind::Config, "add_vhost"),
        (format!("amqp://stranger:s3cret@127.0.0.1:{port}"), ErrorKind::Denied, "set_permissions"),
        (nobody, ErrorKind::Unavailable, "check that RabbitMQ runs there"),
        // Speaks AMQP, not TLS.
        (format!("amqps://guest:s3cret@127.0.0.1:{port}"), ErrorKind::Config, "certificate"),
    ] {
        let error = AmqpBus::connect(settings(&url)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:s3cret@{}", silent.local_addr().unwrap());
    let started = Instant::now();
    let error = AmqpBus::connect(settings(&url)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(started.elapsed() < TIMEOUT * 2, "{:?}", started.elapsed());

    // No attempt left a thread behind.
    eventually(async || io_threads() == 0).await;

    let bus = connect(server).await;
    assert!(bus.describe().contains(&port.to_string()) && !bus.describe().contains("guest"), "{bus:?}");
    assert!(!format!("{bus:?}").contains("guest"), "{bus:?}");
}

async fn tls_is_verified_and_installs_nothing(tls: &Tls) {
    let mut settings = settings(&format!("amqps://guest:guest@localhost:{}", tls.port));
    settings.ca = Some(tls.ca.clone());
    let bus = AmqpBus::connect(settings.clone()).await.unwrap();
    let topic = topic("tls");
    let mut alone = subscribe(&bus, &topic, None, Delivery::Transient).await;
    publish(&bus, &topic, &["over TLS"]).await.unwrap();
    assert_eq!(next(&mut *alone).await.payload, "over TLS");

    // Vouched for by somebody else.
    settings.ca = Some(certificates::strange_authority().into_bytes());
    let error = AmqpBus::connect(settings.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
    // The right one, for another name.
    settings.ca = Some(tls.ca.clone());
    settings.url = settings.url.replace("localhost", "127.0.0.1");
    let error = AmqpBus::connect(settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "that is for the program to choose");
}

async fn what_is_dropped_leaves_nothing_behind(server: &RabbitServer) {
    let bus = connect(server).await;
    let topic = topic("dropped");
    let mut stays = subscribe(&bus, &topic, None, Delivery::Transient).await;
    for round in 0..300 {
        let group = (round % 2 == 0).then_some("g");
        drop(subscribe(&bus, &topic, group, Delivery::Transient).await);
    }
    publish(&bus, &topic, &["a"]).await.unwrap();
    assert_eq!(next(&mut *stays).await.payload, "a");
    let left = || control(server, &["list_queues", "name"]).matches("~dropped~").count();
    eventually(async || left() == 1).await;
    let channels = || control(server, &["list_channels", "number"]).lines().count();
    eventually(async || channels() <= 3).await;
    drop((bus, stays));
    let connections = || control(server, &["list_connections", "pid"]).lines().count();
    eventually(async || connections() <= 1).await;
}

async fn queues_with_other_settings_are_told(server: &RabbitServer) {
    let bus = connect(server).await;
    let topic = topic("other-settings");
    let mut group = subscribe(&bus, &topic, Some("g"), Delivery::Durable).await;
    let mut others = settings(&server.url());
    others.durable_queues = DurableQueues::Classic;
    let other = AmqpBus::connect(others).await.unwrap();
    let mut alone = subscribe(&other, &topic, None, Delivery::Transient).await;
    let error = try_subscribe(&other, &topic, Some("g"), Delivery::Durable).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.to_string().contains("mamos~durable~other-settings~g"), "{error}");
    // The rest of that bus is not disturbed.
    publish(&other, &topic, &["a"]).await.unwrap();
    assert_eq!(next(&mut *alone).await.payload, "a");
    assert_eq!(next(&mut *group).await.payload, "a");

    let channel = raw(&server.url()).await;
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let fanout = lapin::ExchangeKind::Fanout;
    channel.exchange_declare("of-another-type".into(), fanout, options, FieldTable::default()).await.unwrap();
    let mut wrong = settings(&server.url());
    wrong.exchange = "of-another-type".to_owned();
    let bus = AmqpBus::connect(wrong).await.unwrap();
    let error = publish(&bus, &topic, &["a"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.to_string().contains("of-another-type"), "{error}");

    // The exchange is taken away: it is made again.
    let mut own = settings(&server.url());
    own.exchange = "taken-away".to_owned();
    let bus = AmqpBus::connect(own).await.unwrap();
    publish(&bus, &topic, &["a"]).await.unwrap();
    channel.exchange_delete("taken-away".into(), Default::default()).await.unwrap();
    let error = publish(&bus, &topic, &["b"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    publish(&bus, &topic, &["for nobody"]).await.unwrap();
    let mut alone = subscribe(&bus, &topic, None, Delivery::Transient).await;
    publish(&bus, &topic, &["c"]).await.unwrap();
    assert_eq!(next(&mut *alone).await.payload, "c");
}

async fn messages_of_others_are_dropped(server: &RabbitServer) {
    let bus = connect(server).await;
    let topic = topic("foreign");
    let mut group = subscribe(&bus, &topic, Some("g"), Delivery::Durable).await;
    let channel = raw(&server.url()).await;
    // Straight into the queue, past the exchange.
    raw_publish(&channel, "", "mamos~durable~foreign~g", b"foreign").await.unwrap();
    // A binding that no bus made.
    let queue = "mamos~durable~foreign~g".into();
    let options = QueueBindOptions::default();
    channel.queue_bind(queue, "mamos".into(), "#".into(), options, FieldTable::default()).await.unwrap();
    publish(&bus, &support::topic("elsewhere"), &["elsewhere"]).await.unwrap();
    publish(&bus, &topic, &["ours"]).await.unwrap();
    let received = next(&mut *group).await;
    assert_eq!(received.payload, "ours");
    group.acknowledge(received.receipt).await.unwrap();
    assert_silent(&mut *group).await;
    drop(group);
    assert_silent(&mut *subscribe(&bus, &topic, Some("g"), Delivery::Durable).await).await;

    // The queue is taken away: it is made again.
    let mut group = subscribe(&bus, &topic, Some("g"), Delivery::Durable).await;
    channel.queue_delete("mamos~durable~foreign~g".into(), Default::default()).await.unwrap();
    until_it_arrives(&bus, &topic, &mut *group).await;
}

async fn a_full_group_refuses(server: &RabbitServer) {
    for durable_queues in [DurableQueues::Quorum, DurableQueues::Classic] {
        let mut small = settings(&server.url());
        small.durable_queues = durable_queues;
        small.durable_bytes = MAX_MESSAGE_BYTES as u64;
        let bus = AmqpBus::connect(small).await.unwrap();
        let topic = topic(&format!("full-{durable_queues:?}"));
        drop(subscribe(&bus, &topic, Some("g"), Delivery::Durable).await);
        let message = Message { topic: topic.clone(), payload: Bytes::from(vec![0; 1 << 20]) };
        let mut error = None;
        for _ in 0..20 {
            error = bus.publish(vec![message.clone()]).await.err();
            if error.is_some() {
                break;
            }
        }
        let error = error.expect("20 MiB do not fit in 8 MiB");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains("group of its topic is full"), "{error}");
        let mut group = subscribe(&bus, &topic, Some("g"), Delivery::Durable).await;
        for _ in 0..8 {
            let received = next(&mut *group).await;
            group.acknowledge(received.receipt).await.unwrap();
        }
        eventually(async || bus.publish(vec![message.clone()]).await.is_ok()).await;
    }
}

/// The rights of `docs/bus-rabbitmq.md` for an agent whose link is called `a1`.
async fn an_agent_has_its_own_topics_only(server: &RabbitServer) {
    control(server, &["add_user", "agent-a1", "s3cret"]);
    let own = r"^mamos~(alone|transient|durable)~link\.a1\.[0-9a-f]+\.down~";
    let own_and_exchange = format!("^mamos$|{own}");
    control(server, &["set_permissions", "agent-a1", own, &own_and_exchange, &own_and_exchange]);
    let (up, down) = (r"^(link\.a1\.[0-9a-f]+\.up|link-hello)$", r"^link\.a1\.[0-9a-f]+\.down$");
    control(server, &["set_topic_permissions", "agent-a1", "mamos", up, down]);
    let url = format!("amqp://agent-a1:s3cret@127.0.0.1:{}/%2f", server.port());

    let orchestrator = connect(server).await;
    let (up, hello, down) = (topic("link.a1.0c.up"), topic("link-hello"), topic("link.a1.0c.down"));
    let (other_up, other_down) = (topic("link.a2.0c.up"), topic("link.a2.0c.down"));
    let mut ups = subscribe(&orchestrator, &up, None, Delivery::Transient).await;
    let mut hellos = subscribe(&orchestrator, &hello, Some("orchestrators"), Delivery::Durable).await;
    let mut others = subscribe(&orchestrator, &other_up, None, Delivery::Transient).await;

    let agent = AmqpBus::connect(settings(&url)).await.unwrap();
    let mut downs = subscribe(&agent, &down, None, Delivery::Transient).await;
    let mut kept = subscribe(&agent, &down, Some("a1"), Delivery::Durable).await;
    publish(&agent, &up, &["up"]).await.unwrap();
    publish(&agent, &hello, &["hello"]).await.unwrap();
    publish(&orchestrator, &down, &["down"]).await.unwrap();
    assert_eq!(next(&mut *ups).await.payload, "up");
    assert_eq!(next(&mut *hellos).await.payload, "hello");
    assert_eq!(next(&mut *downs).await.payload, "down");
    assert_eq!(next(&mut *kept).await.payload, "down");

    for topic in [&other_up, &other_down, &down] {
        let error = publish(&agent, topic, &["forged"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{topic}: {error:?}");
        assert!(error.to_string().contains("set_topic_permissions"), "{error}");
    }
    for topic in [&other_down, &other_up, &up, &hello] {
        for group in [None, Some("orchestrators")] {
            let error = try_subscribe(&agent, topic, group, Delivery::Transient).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{topic}: {error:?}");
        }
        let error = try_subscribe(&agent, topic, Some("orchestrators"), Delivery::Durable).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{topic}: {error:?}");
    }
    assert_silent(&mut *others).await;
    // A refusal disturbs nothing else.
    publish(&agent, &up, &["again"]).await.unwrap();
    assert_eq!(next(&mut *ups).await.payload, "again");
    publish(&orchestrator, &down, &["again"]).await.unwrap();
    assert_eq!(next(&mut *downs).await.payload, "again");

    // Whoever has the agent's password and a client of his own gets no further.
    let consume = async |queue: &str| {
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        raw(&url).await.basic_consume(queue.into(), "".into(), options, arguments).await.map(drop)
    };
    assert!(consume("mamos~durable~link-hello~orchestrators").await.is_err());
    for (exchange, key) in [("", "mamos~durable~link-hello~orchestrators"), ("amq.topic", "link.a1.0c.up")] {
        assert!(raw_publish(&raw(&url).await, exchange, key, b"forged").await.is_err(), "{exchange:?}");
    }
    for key in ["#", "*.*.*.*", "link.#", "link.*.*.down", "link.a1.*.down", "link.a2.0c.down", "link-hello"]
    {
        let channel = raw(&url).await;
        let queue = "mamos~alone~link.a1.0c.down~mine";
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        let bind = async |key: &str| {
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue.into(), "mamos".into(), key.into(), options, arguments).await
        };
        bind("link.a1.0c.down").await.unwrap();
        assert!(bind(key).await.is_err(), "{key}");
    }
}

async fn a_blocked_broker_is_told(server: &RabbitServer) {
    let memory = "set_vm_memory_high_watermark";
    let says = ["low on memory", "vm_memory_high_watermark"];
    an_alarm_is_told(server, says, [memory, "0.00001"], [memory, "0.4"]).await;
    let disk = "set_disk_free_limit";
    let says = ["low on disk", "disk_free_limit"];
    an_alarm_is_told(server, says, [disk, "1000000GB"], [disk, "1MB"]).await;
}

/// The broker's memory or disk gets short, and then no more.
async fn an_alarm_is_told(server: &RabbitServer, says: [&str; 2], raise: [&str; 2], clear: [&str; 2]) {
    let bus = connect(server).await;
    let topic = topic(&format!("blocked-{}", raise[0]));
    let mut group = subscribe(&bus, &topic, Some("g"), Delivery::Durable).await;
    publish(&bus, &topic, &["before-1", "before-2"]).await.unwrap();
    let first = next(&mut *group).await;
    control(server, &raise);
    for _ in 0..3 {
        let started = Instant::now();
        let error = publish(&bus, &topic, &["refused"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1), "{:?}", started.elapsed());
        assert!(says.iter().all(|words| error.to_string().contains(words)), "{error}");
    }
    // What is there can be received and acknowledged; new subscriptions can be made.
    group.acknowledge(first.receipt).await.unwrap();
    let second = next(&mut *group).await;
    assert_eq!(second.payload, "before-2");
    group.acknowledge(second.receipt).await.unwrap();
    let mut alone = subscribe(&bus, &topic, None, Delivery::Transient).await;
    // A bus that is dropped meanwhile does not hang.
    let other = connect(server).await;
    assert!(publish(&other, &topic, &["refused"]).await.is_err());
    let before = io_threads();
    drop(other);
    eventually(async || io_threads() == before - 2).await;
    control(server, &clear);
    eventually(async || publish(&bus, &topic, &["after"]).await.is_ok()).await;
    // What was refused may have been taken nevertheless.
    while next(&mut *alone).await.payload != "after" {}
    while next(&mut *group).await.payload != "after" {}
}

async fn closed_connections_come_back(server: &RabbitServer) {
    let bus = connect(server).await;
    let topic = topic("closed");
    let mut group = subscribe(&bus, &topic, Some("g"), Delivery::Durable).await;
    let mut alone = subscribe(&bus, &topic, None, Delivery::Transient).await;
    let mut shared = subscribe(&bus, &topic, Some("g"), Delivery::Transient).await;
    publish(&bus, &topic, &["0", "1", "2"]).await.unwrap();
    let (first, second) = (next(&mut *group).await, next(&mut *group).await);
    assert!(!first.is_redelivered);
    group.acknowledge(first.receipt).await.unwrap();
    for subscription in [&mut alone, &mut shared] {
        for _ in 0..3 {
            next(&mut **subscription).await;
        }
    }
    control(server, &["close_all_connections", "a test"]);
    // What was not acknowledged comes again; "2" may have been on its way to us.
    let mut came = Vec::new();
    while came.len() < 2 {
        let received = next(&mut *group).await;
        if received.is_redelivered {
            came.push(received);
        }
    }
    assert_eq!(came.iter().map(|received| &received.payload[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    // The old receipt names nothing any more: it must not acknowledge whatever has its tag now.
    group.acknowledge(second.receipt).await.unwrap();
    group.acknowledge(Receipt(u64::MAX)).await.unwrap();
    drop(group);
    let mut group = subscribe(&bus, &topic, Some("g"), Delivery::Durable).await;
    for expected in ["1", "2"] {
        let received = next(&mut *group).await;
        assert_eq!(received.payload, expected);
        group.acknowledge(received.receipt).await.unwrap();
    }
    for subscription in [&mut alone, &mut shared, &mut group] {
        until_it_arrives(&bus, &topic, &mut **subscription).await;
    }
}

async fn the_broker_comes_back(server: &mut RabbitServer) {
    let mut classic = settings(&server.url());
    classic.durable_queues = DurableQueues::Classic;
    let quorum = settings(&server.url());
    for (settings, is_killed) in [(classic, true), (quorum.clone(), false), (quorum, true)] {
        let is_quorum = settings.durable_queues == DurableQueues::Quorum;
        let name = format!("gone-{:?}-{is_killed}", settings.durable_queues);
        let topic = topic(&name);
        let bus = &AmqpBus::connect(settings).await.unwrap();
        let mut group = subscribe(bus, &topic, Some("g"), Delivery::Durable).await;
        let mut alone = subscribe(bus, &topic, None, Delivery::Transient).await;
        // Published until the broker is gone: what was confirmed must come.
        let publishing = tokio::spawn({
            let (bus, topic) = (bus.clone(), topic.clone());
            async move {
                let mut confirmed = 0;
                loop {
                    let numbers: Vec<_> = (confirmed..confirmed + 10).map(|n: u32| n.to_string()).collect();
                    let texts: Vec<_> = numbers.iter().map(String::as_str).collect();
                    match publish(&bus, &topic, &texts).await {
                        Ok(()) => confirmed += 10,
                        Err(error) => return (confirmed, error),
                    }
                }
            }
        });
        let mut acknowledged = HashSet::new();
        while acknowledged.len() < 100 {
            let received = next(&mut *group).await;
            group.acknowledge(received.receipt).await.unwrap();
            acknowledged.insert(number(&received));
        }
        tokio::task::block_in_place(|| if is_killed { server.kill() } else { server.stop_in_order() });
        let (confirmed, error) = publishing.await.unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        for _ in 0..2 {
            let started = Instant::now();
            let error = publish(bus, &topic, &["lost"]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1), "{:?}", started.elapsed());
            let error = try_subscribe(bus, &topic, None, Delivery::Transient).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        }
        tokio::task::block_in_place(|| server.resume());
        if is_killed && is_quorum {
            // Some versions, 3.10.8 among them, leave quorum queues of a single node without a leader.
            control(server, &["eval", ELECT]);
        }
        let returned = Instant::now();
        until_it_arrives(bus, &topic, &mut *alone).await;
        assert!(returned.elapsed() < Duration::from_secs(5), "{name}: {:?}", returned.elapsed());
        let mut missing: HashSet<_> =
            (0..confirmed).filter(|number| !acknowledged.contains(number)).collect();
        while !missing.is_empty() {
            let received = next(&mut *group).await;
            group.acknowledge(received.receipt).await.unwrap();
            if &received.payload[..] != b"arrived?" && &received.payload[..] != b"lost" {
                missing.remove(&number(&received));
            }
        }
    }
}
