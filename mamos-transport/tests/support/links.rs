//! A link over a broker, for the transport kit.

use std::time::Duration;

use mamos_core::id::TopicName;
use mamos_transport::conformance::Pair;
use mamos_transport::link_over_bus::{LinkOverBusConnector, LinkOverBusListener, LinkSettings};

/// A listener with its connector, each with a connection of its own to the broker, on a hello topic of their
/// own: other tests run at the same time.
pub(crate) async fn pair(url: &str) -> Pair {
    let settings = LinkSettings {
        hello_topic: TopicName::new(mamos_testbed::unique_name()).unwrap(),
        silence: Duration::from_secs(5),
        ..LinkSettings::default()
    };
    let max = settings.max_frame_bytes;
    let listening = mamos_transport::bus::open(url).await.unwrap();
    let connecting = mamos_transport::bus::open(url).await.unwrap();
    let listener = LinkOverBusListener::bind(listening, settings.clone()).await.unwrap();
    let connector = LinkOverBusConnector::new(connecting, settings).unwrap();
    Pair::new(listener, connector).with_max_frame_bytes(max)
}
