//! Connections for subscriptions: as many as their channels need.

use std::sync::{Arc, Mutex, PoisonError};

use mamos_core::Result;

use super::connector::{Connector, Purpose};
use super::failure::closed;
use super::settings::Checked;

/// How many subscriptions share a connection. Each has a channel, and RabbitMQ gives a connection 2047 of
/// them; half of that keeps one connection from being the bottleneck of all.
const SEATS: usize = 1000;

/// The connections for subscriptions. Each subscription holds its own, so the counts are known.
pub(super) struct Pool {
    checked: Arc<Checked>,
    /// `None` once the pool is closed.
    connectors: Mutex<Option<Vec<Arc<Connector>>>>,
    /// Held while a connection is opened: one more is enough for all who wait.
    opening: tokio::sync::Mutex<()>,
}

impl Pool {
    pub(super) async fn open(checked: Arc<Checked>) -> Result<Self> {
        let first = Arc::new(Connector::open(Arc::clone(&checked), Purpose::Consuming).await?);
        Ok(Self {
            checked,
            connectors: Mutex::new(Some(vec![first])),
            opening: tokio::sync::Mutex::default(),
        })
    }

    /// A connection with room for one subscription more.
    pub(super) async fn seat(&self) -> Result<Arc<Connector>> {
        if let Some(connector) = self.free()? {
            return Ok(connector);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(connector) = self.free()? {
            return Ok(connector);
        }
        let connector = Arc::new(Connector::open(Arc::clone(&self.checked), Purpose::Consuming).await?);
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        connectors.as_mut().ok_or_else(|| closed("bus.subscribe"))?.push(Arc::clone(&connector));
        Ok(connector)
    }

    /// Ends all connections, also those that subscriptions hold.
    pub(super) fn close(&self) {
        let connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner).take();
        for connector in connectors.into_iter().flatten() {
            connector.close();
        }
    }

    fn free(&self) -> Result<Option<Arc<Connector>>> {
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        let connectors = connectors.as_mut().ok_or_else(|| closed("bus.subscribe"))?;
        let free = connectors.iter().find(|connector| Arc::strong_count(connector) <= SEATS).cloned();
        // Further ones that nobody sits at any more are closed; the first stays for whoever comes next.
        let mut is_first = true;
        connectors.retain(|connector| std::mem::take(&mut is_first) || Arc::strong_count(connector) > 1);
        Ok(free)
    }
}
