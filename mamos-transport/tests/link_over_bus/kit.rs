//! The transport kit over each bus. Another bus is two lines.

use std::sync::Arc;

use mamos_core::bus::Bus;
use mamos_transport::bus::MemoryBus;
use mamos_transport::conformance::Pair;
use mamos_transport::link_over_bus::{LinkOverBusConnector, LinkOverBusListener, LinkSettings};
use mamos_transport::transport_conformance;

use super::settings;

/// Makes the tests of the kit over a bus; the expression may await.
macro_rules! link_conformance {
    ($module:ident, $bus:expr) => {
        mod $module {
            async fn fresh() -> super::Pair {
                super::pair(super::Arc::new($bus), super::settings()).await
            }
            super::transport_conformance!(fresh);
        }
    };
}

link_conformance!(over_memory, crate::kit::MemoryBus::new());
link_conformance!(over_one_that_meddles, crate::meddler::Meddler::bad_to_frames(7));

async fn pair(bus: Arc<dyn Bus>, settings: LinkSettings) -> Pair {
    let listener = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
    let max = settings.max_frame_bytes;
    let connector = LinkOverBusConnector::new(bus, settings).unwrap();
    Pair::new(listener, connector).with_max_frame_bytes(max)
}

/// Every frame of more than a few hundred bytes in parts.
mod in_parts {
    use super::{Arc, LinkSettings, MemoryBus, Pair, pair, settings, transport_conformance};

    async fn fresh() -> Pair {
        let settings =
            LinkSettings { max_message_bytes: 16 * 1024, max_frame_bytes: 1_000_000, ..settings() };
        pair(Arc::new(MemoryBus::new()), settings).await
    }
    transport_conformance!(fresh);
}
