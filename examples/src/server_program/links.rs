//! Agents that come over a bus.

use std::sync::Arc;

use mamos_core::Store;
use mamos_core::auth::{PublicKey, Secret, link_key};
use mamos_core::bus::Bus;
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::hint::{BusHints, Hints};
use mamos_core::id::TopicName;
use mamos_transport::link_over_bus::{LinkOverBusListener, LinkSettings};

use super::settings::Settings;
use crate::program::Trouble;

/// Where the orchestrators tell each other, if their store has no means for it.
const HINTS: &str = "hints";

/// A bus that answers, and who listens there.
pub(super) struct Links {
    /// Closed when the orchestrator has stopped.
    pub(super) listener: Arc<LinkOverBusListener>,
    bus: Arc<dyn Bus>,
}

impl Links {
    /// Opens the bus, and takes agents from it with the key that all orchestrators on the store share.
    pub(super) async fn open(settings: &Settings, url: &Secret, store: &dyn Store) -> Result<Self, Trouble> {
        let bus = open(url).await?;
        let key = link_key::find_or_make(store, SystemClock.now()).await?;
        let pin = key.public_key();
        let link = LinkSettings { silence: settings.bus_silence, ..LinkSettings::default() };
        let listener = LinkOverBusListener::bind(Arc::clone(&bus), link.with_signing_key(key)).await?;
        tracing::info!(bus = bus.describe(), %pin, "agents may come over the bus, and pin this key");
        Ok(Self { listener: Arc::new(listener), bus })
    }

    /// Hints that go over the bus.
    pub(super) fn hints(&self) -> Arc<dyn Hints> {
        let topic = TopicName::new(HINTS).expect("it is a name");
        Arc::new(BusHints::new(Arc::clone(&self.bus), topic))
    }
}

/// Connects to the broker.
pub(super) async fn open(url: &Secret) -> Result<Arc<dyn Bus>, Trouble> {
    mamos_transport::bus::open(url.expose()).await.map_err(|error| {
        Trouble::from(error).next(
            "see whether the broker runs and knows the user of `bus`; docs/bus-nats.md, docs/bus-redis.md and \
             docs/bus-rabbitmq.md say what it must permit",
        )
    })
}

/// What agents pin, if it was made already.
pub(super) async fn pin(store: &dyn Store) -> Result<Option<PublicKey>, Trouble> {
    Ok(link_key::find(store, SystemClock.now()).await?.map(|key| key.public_key()))
}
