//! The bus over NATS where others have made or written something.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{self, AckPolicy, pull, push};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use mamos_core::ErrorKind;
use mamos_core::bus::{Bus, Delivery, MAX_MESSAGE_BYTES};
use mamos_testbed::NatsServer;
use mamos_transport::bus::{NatsBus, NatsSettings};

use crate::common::{self, message, receive, subscribe};

/// `printf 'a\0' | sha256sum | cut -c1-32`, and so on.
const TOPIC_A: &str = "ffe9aaeaa2a2d5048174df0b80599ef0";
const TOPIC_B: &str = "1e57b933b0a78203e21d41cc4b16d731";
/// The same of `a\0g\0`.
const GROUP_G: &str = "49f1e859b3f0c711ddef3273979172f1";

#[tokio::test]
async fn what_no_bus_can_have_written_is_dropped_and_blocks_nothing() {
    let server = NatsServer::with_jetstream("max_payload: 9MB\n");
    let bus = NatsBus::connect(NatsSettings::new(server.url())).await.unwrap();
    let stranger = async_nats::connect(server.url()).await.unwrap();
    for (subject, group, delivery) in
        [("mamos.t.a", None, Delivery::Transient), ("mamos.d.a", Some("g"), Delivery::Durable)]
    {
        let mut subscription = subscribe(&bus, "a", group, delivery).await.unwrap();
        let id = "0".repeat(32);
        for head in ["nonsense", &format!("{id} 3 300"), &format!("{id} 99999999 8388608"), ""] {
            let mut headers = HeaderMap::new();
            headers.insert("Mamos-Parts", head);
            stranger.publish_with_headers(subject, headers, "x".into()).await.unwrap();
        }
        let too_large = vec![0; MAX_MESSAGE_BYTES + 1];
        if delivery == Delivery::Durable {
            // Until the stream has it: it takes messages of several connections in no order.
            stranger.request(subject, too_large.into()).await.unwrap();
        } else {
            stranger.publish(subject, too_large.into()).await.unwrap();
            stranger.flush().await.unwrap();
        }
        bus.publish(vec![message("a", "ours")]).await.unwrap();
        assert_eq!(receive(&mut *subscription).await, "ours", "{subject}");
    }
    // They are gone for good: nothing comes again, and nothing stays in the stream.
    let mut stream = context(&server).await.get_stream(format!("mamos_d_{TOPIC_A}")).await.unwrap();
    common::eventually(async || stream.info().await.unwrap().state.messages == 0).await;
}

#[tokio::test]
async fn a_stream_of_our_name_that_would_break_a_promise_is_refused() {
    let server = NatsServer::start();
    let jetstream = context(&server).await;
    let bus = NatsBus::connect(NatsSettings::new(server.url())).await.unwrap();
    let ours = Config {
        name: format!("mamos_d_{TOPIC_A}"),
        subjects: vec!["mamos.d.a".to_owned()],
        retention: RetentionPolicy::Interest,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    for (foreign, says) in [
        (Config { subjects: vec!["elsewhere".to_owned()], ..ours.clone() }, "subjects"),
        (Config { retention: RetentionPolicy::Limits, ..ours.clone() }, "retention"),
        (Config { discard: DiscardPolicy::Old, ..ours.clone() }, "discards"),
        (Config { storage: StorageType::Memory, ..ours.clone() }, "Memory"),
        (Config { max_age: Duration::from_secs(3600), ..ours.clone() }, "forgets"),
        (Config { max_message_size: 100, ..ours.clone() }, "size"),
        (Config { max_messages_per_subject: 100, ..ours.clone() }, "limits the messages"),
        (Config { no_ack: true, ..ours.clone() }, "no_ack"),
    ] {
        jetstream.create_stream(foreign).await.unwrap();
        let error = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(
            error.to_string().contains(says) && error.to_string().contains(&ours.name),
            "{says}: {error}"
        );
        // Nothing else is disturbed.
        let mut other = subscribe(&bus, "b", Some("g"), Delivery::Durable).await.unwrap();
        bus.publish(vec![message("b", "x")]).await.unwrap();
        assert_eq!(receive(&mut *other).await, "x");
        jetstream.delete_stream(&ours.name).await.unwrap();
    }
    // What whoever runs the server may choose.
    let larger = Config { max_messages: 1 << 20, max_bytes: 1 << 30, ..ours.clone() };
    jetstream.create_stream(larger).await.unwrap();
    let mut subscription = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap();
    bus.publish(vec![message("a", "x")]).await.unwrap();
    assert_eq!(receive(&mut *subscription).await, "x");
    drop(subscription);
    jetstream.delete_stream(&ours.name).await.unwrap();

    // Somebody's stream of another name, which has our subject.
    let all = Config { name: "all".to_owned(), subjects: vec!["mamos.d.>".to_owned()], ..Config::default() };
    jetstream.delete_stream(format!("mamos_p_{TOPIC_A}")).await.unwrap();
    let streams = ["d", "p"].map(|sort| format!("mamos_{sort}_{TOPIC_B}"));
    for stream in streams {
        jetstream.delete_stream(stream).await.unwrap();
    }
    jetstream.create_stream(all).await.unwrap();
    let error = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("overlap"), "{error}");
}

#[tokio::test]
async fn a_consumer_of_our_name_that_would_break_a_promise_is_refused() {
    let server = NatsServer::start();
    let jetstream = context(&server).await;
    let bus = NatsBus::connect(NatsSettings::new(server.url())).await.unwrap();
    // Makes the streams.
    drop(subscribe(&bus, "a", Some("other"), Delivery::Durable).await.unwrap());
    let stream = jetstream.get_stream(format!("mamos_d_{TOPIC_A}")).await.unwrap();
    let ours = pull::Config {
        durable_name: Some(GROUP_G.to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: "mamos.d.a".to_owned(),
        ..pull::Config::default()
    };
    let pushing = push::Config {
        durable_name: ours.durable_name.clone(),
        deliver_subject: "elsewhere".to_owned(),
        filter_subject: ours.filter_subject.clone(),
        ..push::Config::default()
    };
    stream.create_consumer(pushing).await.unwrap();
    let refused = async |says: &str| {
        let error = subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(says) && error.to_string().contains(GROUP_G), "{says}: {error}");
        stream.delete_consumer(GROUP_G).await.unwrap();
    };
    refused("pushes").await;
    for (foreign, says) in [
        (pull::Config { max_deliver: 3, ..ours.clone() }, "max_deliver"),
        (pull::Config { headers_only: true, ..ours.clone() }, "headers"),
        (pull::Config { inactive_threshold: Duration::from_secs(60), ..ours.clone() }, "inactive_threshold"),
    ] {
        stream.create_consumer(foreign).await.unwrap();
        refused(says).await;
    }
    let found: consumer::PullConsumer = stream.create_consumer(ours).await.unwrap();
    drop(found);
    subscribe(&bus, "a", Some("g"), Delivery::Durable).await.unwrap();
}

async fn context(server: &NatsServer) -> Context {
    jetstream::new(async_nats::connect(server.url()).await.unwrap())
}
