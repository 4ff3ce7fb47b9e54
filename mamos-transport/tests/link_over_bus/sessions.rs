//! Several orchestrators, and how links end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::bus::Bus;
use mamos_core::transport::{Connector, Frame, Listener};
use mamos_transport::bus::MemoryBus;
use mamos_transport::link_over_bus::{LinkName, LinkOverBusConnector, LinkOverBusListener};

use super::meddler::Meddler;
use super::{connected, hears, linked, says, settings};

#[tokio::test]
async fn each_agent_lands_at_one_of_several_orchestrators() {
    let (bus, settings): (Arc<dyn Bus>, _) = (Arc::new(MemoryBus::new()), settings());
    let one = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let two = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let connector = LinkOverBusConnector::new(bus, settings).unwrap();
    let mut at = [0, 0];
    for number in 0..40 {
        let accepted = async {
            tokio::select! {
                accepted = one.accept() => (0, accepted.unwrap()),
                accepted = two.accept() => (1, accepted.unwrap()),
            }
        };
        let (agent, (which, orchestrator)) = tokio::join!(connector.connect(), accepted);
        says(&orchestrator, &agent.unwrap(), &number.to_string()).await;
        at[which] += 1;
    }
    let more = async {
        tokio::select! { more = one.accept() => more, more = two.accept() => more }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), more).await.is_err(), "one landed at both");
    assert_eq!(at[0] + at[1], 40);
}

#[tokio::test]
async fn agents_of_a_listener_that_is_closed_go_to_another_at_once() {
    let (bus, settings): (Arc<dyn Bus>, _) = (Arc::new(MemoryBus::new()), settings());
    let one = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let connector = LinkOverBusConnector::new(bus.clone(), settings.clone()).unwrap();
    let mut agents = Vec::new();
    let mut held = Vec::new();
    for _ in 0..10 {
        let (agent, orchestrator) = connected(&connector, &one).await;
        agents.push(agent);
        held.push(orchestrator);
    }
    let two = LinkOverBusListener::bind(bus, settings).await.unwrap();
    let began = std::time::Instant::now();
    one.close().await;
    for agent in &agents {
        assert_eq!(hears(agent).await, None);
    }
    connected(&connector, &two).await;
    assert!(began.elapsed() < Duration::from_secs(1), "they waited for the silence");
    assert_eq!(one.accept().await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(held[0].send(Frame::text("{}")).await.is_err());
}

/// Whoever drops the listener may go on with the connections that it gave out.
#[tokio::test]
async fn connections_outlive_a_dropped_listener() {
    let linked = linked(Arc::new(MemoryBus::new()), settings()).await;
    drop(linked.listener);
    says(&linked.agent, &linked.orchestrator, "up").await;
    let nobody = linked.connector.connect().await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unavailable);
    assert!(nobody.message().contains("no orchestrator answered"), "{nobody}");
}

#[tokio::test]
async fn a_dropped_connection_tells_the_other_side() {
    let linked = linked(Arc::new(MemoryBus::new()), settings()).await;
    says(&linked.agent, &linked.orchestrator, "up").await;
    drop(linked.agent);
    let began = std::time::Instant::now();
    assert_eq!(hears(&linked.orchestrator).await, None);
    assert!(began.elapsed() < Duration::from_secs(1));
}

/// Brokers keep an agent to what begins with its name.
#[tokio::test]
async fn all_topics_of_a_named_link_begin_with_its_name() {
    let (bus, settings) = (Meddler::new(), settings());
    let listener = LinkOverBusListener::bind(Arc::new(bus.clone()), settings.clone()).await.unwrap();
    let connector = LinkOverBusConnector::new(Arc::new(bus.clone()), settings.clone()).unwrap();
    let connector = connector.with_name(LinkName::new("rack-7").unwrap());
    for _ in 0..2 {
        let (agent, orchestrator) = connected(&connector, &listener).await;
        says(&agent, &orchestrator, "up").await;
        says(&orchestrator, &agent, "down").await;
    }
    let topics: BTreeSet<_> = bus.seen().into_iter().map(|message| message.topic).collect();
    assert_eq!(topics.len(), 5, "hello, and two for each connection: {topics:?}");
    let is_own = |topic: &str| topic.starts_with("link.rack-7.") || topic == settings.hello_topic.as_str();
    assert!(topics.iter().all(|topic| is_own(topic.as_str())), "{topics:?}");
}
