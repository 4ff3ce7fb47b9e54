//! Links over a bus: what they promise as a transport, and what strangers at the same broker cannot do.

#![expect(clippy::unwrap_used, reason = "tests, and their helpers outside test functions")]

mod attacks;
mod faults;
mod hellos;
mod kit;
mod meddler;
mod sessions;
mod slow_bus;

use std::sync::Arc;
use std::time::Duration;

use mamos_core::bus::Bus;
use mamos_core::id::TopicName;
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener};
use mamos_transport::link_over_bus::{LinkOverBusConnector, LinkOverBusListener, LinkSettings};

/// Settings whose hellos nobody else takes, in this process or another, with little patience.
fn settings() -> LinkSettings {
    LinkSettings {
        hello_topic: TopicName::new(format!("link-hello-{}", mamos_testbed::unique_name())).unwrap(),
        silence: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(2),
        ..LinkSettings::default()
    }
}

/// Both ends, and a connection between them.
struct Linked {
    listener: LinkOverBusListener,
    connector: LinkOverBusConnector,
    agent: Arc<dyn Connection>,
    orchestrator: Arc<dyn Connection>,
}

async fn linked(bus: Arc<dyn Bus>, settings: LinkSettings) -> Linked {
    let listener = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let connector = LinkOverBusConnector::new(bus, settings).unwrap();
    let (agent, orchestrator) = connected(&connector, &listener).await;
    Linked { listener, connector, agent, orchestrator }
}

async fn connected(
    connector: &LinkOverBusConnector,
    listener: &LinkOverBusListener,
) -> (Arc<dyn Connection>, Arc<dyn Connection>) {
    let (agent, orchestrator) = tokio::join!(connector.connect(), listener.accept());
    (agent.unwrap(), orchestrator.unwrap())
}

/// Sends a text, which arrives next.
async fn says(from: &Arc<dyn Connection>, to: &Arc<dyn Connection>, text: &str) {
    from.send(Frame::text(text.to_owned())).await.unwrap();
    assert_eq!(hears(to).await.as_deref(), Some(text));
}

/// The next text; `None` if the connection was closed.
async fn hears(connection: &Arc<dyn Connection>) -> Option<String> {
    let received = tokio::time::timeout(Duration::from_secs(10), connection.receive()).await;
    let frame = received.expect("nothing came").unwrap()?;
    let (_, bytes) = frame.into_bytes(Encoding::Text, usize::MAX).unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}
