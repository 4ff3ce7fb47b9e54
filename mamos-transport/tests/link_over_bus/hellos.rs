//! Strangers that say hello too often.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::bus::{Bus, Message};
use mamos_core::transport::{Connector, Listener};
use mamos_transport::bus::MemoryBus;
use mamos_transport::link_over_bus::{LinkName, LinkOverBusConnector, LinkOverBusListener, LinkSettings};

use super::meddler::{Meddler, is_up};
use super::{connected, says, settings};

/// A hello as the format says, with a usable half of a key.
fn hello(settings: &LinkSettings, number: u64, name: &str) -> Message {
    let mut bytes = vec![b'A', 1];
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&[9; 32]);
    bytes.extend_from_slice(&1000u32.to_be_bytes());
    bytes.push(u8::try_from(name.len()).unwrap());
    bytes.extend_from_slice(name.as_bytes());
    Message { topic: settings.hello_topic.clone(), payload: Bytes::from(bytes) }
}

#[tokio::test]
async fn a_flood_of_hellos_fills_nothing_and_ends() {
    let bus = Arc::new(MemoryBus::new());
    let settings =
        LinkSettings { max_half_open: 50, connect_timeout: Duration::from_millis(500), ..settings() };
    let listener = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let mut said = 0u64;
    while listener.counts().refused < 1000 {
        for _ in 0..100 {
            said += 1;
            bus.publish(vec![hello(&settings, said, "flood")]).await.unwrap();
        }
        tokio::task::yield_now().await;
        let links: usize = links(&listener);
        assert!(links <= 50, "{links} after {said} hellos");
    }
    // What is half open is forgotten, and the next agent gets in.
    let connector = LinkOverBusConnector::new(bus, settings).unwrap();
    let patient = async {
        loop {
            match connector.connect().await {
                Ok(agent) => return agent,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
    };
    let both = async { tokio::join!(patient, listener.accept()) };
    let (agent, orchestrator) = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
    says(&agent, &orchestrator.unwrap(), "up").await;
    drop(agent);
    tokio::time::timeout(Duration::from_secs(10), async {
        while links(&listener) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("all are forgotten");
}

fn links(listener: &LinkOverBusListener) -> usize {
    let text = format!("{listener:?}");
    text.rsplit(", ").next().and_then(|text| text.strip_suffix(" links)")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_full_listener_says_why_it_refuses() {
    let bus = Meddler::new();
    let settings = LinkSettings { connect_timeout: Duration::from_millis(300), ..settings() };
    let tight = LinkSettings { max_half_open: 1, max_links: 2, ..settings.clone() };
    let tight = LinkSettings { connect_timeout: Duration::from_secs(60), ..tight };
    let listener = LinkOverBusListener::bind(Arc::new(bus.clone()), tight).await.unwrap();
    let connector = LinkOverBusConnector::new(Arc::new(bus.clone()), settings.clone()).unwrap();
    let _first = connected(&connector, &listener).await;
    // It is answered and says nothing more.
    bus.set(|message| if is_up(&message) { vec![] } else { vec![message] });
    let _silent = connector.connect().await.unwrap();
    let busy = connector.connect().await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Unavailable);
    assert!(busy.message().contains("too many connections just now"), "{busy}");
}

#[tokio::test]
async fn there_are_no_more_links_than_allowed() {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let settings = LinkSettings { max_links: 2, connect_timeout: Duration::from_millis(300), ..settings() };
    let listener = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let connector = LinkOverBusConnector::new(bus, settings).unwrap();
    let first = connected(&connector, &listener).await;
    let _second = connected(&connector, &listener).await;
    let full = connector.connect().await.unwrap_err();
    assert!(full.message().contains("as many connections as it takes"), "{full}");
    drop(first);
    while links(&listener) > 1 {
        tokio::task::yield_now().await;
    }
    connected(&connector, &listener).await;
}

#[tokio::test]
async fn a_link_whose_agents_fail_to_prove_themselves_has_to_wait() {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let settings = LinkSettings { connect_timeout: Duration::from_millis(300), ..settings() };
    let listener = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let connector = LinkOverBusConnector::new(bus, settings).unwrap();
    let (bad, good) = (
        connector.clone().with_name(LinkName::new("bad").unwrap()),
        connector.with_name(LinkName::new("good").unwrap()),
    );
    for _ in 0..10 {
        connected(&bad, &listener).await.1.note_refused();
    }
    let error = bad.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("failed to prove who they are"), "{error}");
    connected(&good, &listener).await;
}

#[tokio::test]
async fn what_is_no_hello_is_counted() {
    let bus = Arc::new(MemoryBus::new());
    let settings = settings();
    let listener = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let topic = settings.hello_topic.clone();
    let good = hello(&settings, 1, "x").payload;
    let mut wrong: Vec<Bytes> = (0..good.len()).map(|end| good.slice(..end)).collect();
    wrong.push(hello(&settings, 1, "a.b").payload);
    // A half that gives a secret which everybody knows.
    let mut known = hello(&settings, 2, "x").payload.to_vec();
    known[18..50].fill(0);
    wrong.push(known.into());
    let count = wrong.len() as u64;
    let messages = wrong.into_iter().map(|payload| Message { topic: topic.clone(), payload }).collect();
    bus.publish(messages).await.unwrap();
    while listener.counts().unusable < count {
        tokio::task::yield_now().await;
    }
    assert_eq!(links(&listener), 0);
}
