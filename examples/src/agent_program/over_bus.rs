//! Links over a bus, which is opened when it is needed first.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::auth::{PublicKey, Secret};
use mamos_core::transport::{Connection, Connector};
use mamos_transport::bus;
use mamos_transport::link_over_bus::{LinkName, LinkOverBusConnector, LinkSettings};
use tokio::sync::OnceCell;

/// A link on which nothing was heard for so long is given up: with it an agent whose orchestrator was killed
/// is back at another within 5 s.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// Connects over the bus at a URL. A broker that does not answer when the agent starts may answer later, so
/// each attempt opens the bus until one succeeds; from then on it connects again by itself.
#[derive(Debug)]
pub(super) struct OverBus {
    url: Secret,
    /// The URL without what must not be seen.
    shown: String,
    name: Option<LinkName>,
    keys: Vec<PublicKey>,
    connector: OnceCell<LinkOverBusConnector>,
}

impl OverBus {
    /// Without a name the links have a random one.
    pub(super) fn new(url: Secret, shown: String, name: Option<LinkName>, keys: Vec<PublicKey>) -> Self {
        Self { url, shown, name, keys, connector: OnceCell::new() }
    }

    async fn open(&self) -> Result<LinkOverBusConnector> {
        let bus = bus::open(self.url.expose()).await?;
        let settings = LinkSettings { silence: SILENCE, ..LinkSettings::default() };
        let mut connector = LinkOverBusConnector::new(bus, settings)?;
        if let Some(name) = &self.name {
            connector = connector.with_name(name.clone());
        }
        if self.keys.is_empty() {
            tracing::warn!(
                "no key is pinned with `pin`: whoever the broker lets take hellos is the orchestrator for this agent"
            );
        }
        Ok(self.keys.iter().copied().fold(connector, LinkOverBusConnector::with_pinned_key))
    }
}

#[async_trait]
impl Connector for OverBus {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        self.connector.get_or_try_init(|| self.open()).await?.connect().await
    }

    fn describe(&self) -> String {
        let name = self.name.as_ref().map_or("any", LinkName::as_str);
        format!("link {name} over {}", self.shown)
    }
}
