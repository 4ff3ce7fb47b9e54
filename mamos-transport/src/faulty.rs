//! Wrappers that make any transport behave like a bad network, repeatably.
//!
//! All faults come from the seed of a [`FaultPlan`] and the order in which things happen, so a test under
//! a current-thread runtime with paused time gives the same faults every time. Wrap both ends: a wrapped
//! connection [is not reliable](mamos_core::transport::Connection::is_reliable), and both ends must agree.
//!
//! ```
//! use mamos_core::transport::{Connector, Frame, Listener};
//! use mamos_transport::faulty::{FaultPlan, Faults, Faulty};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> mamos_core::Result<()> {
//! let plan = FaultPlan::new(42);
//! let (listener, connector) = mamos_transport::memory::pair();
//! let (listener, connector) = (Faulty::new(listener, plan.clone()), Faulty::new(connector, plan.clone()));
//! let (agent, orchestrator) = tokio::join!(connector.connect(), listener.accept());
//!
//! plan.set(Faults { lose: 1.0, ..Faults::none() });
//! agent?.send(Frame::text("{}")).await?;
//! assert_eq!(plan.counts().lost, 1);
//! # orchestrator?; Ok(()) }
//! ```

mod connection;
mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use mamos_core::transport::{Connection, Connector, Listener};
use mamos_core::{Error, ErrorKind, Result};

use connection::FaultyConnection;
pub use plan::FaultCounts;
pub use plan::FaultPlan;
pub use plan::Faults;
pub use plan::Side;

/// A listener, or a connector, whose connections have the faults of a plan.
#[derive(Debug, Clone)]
pub struct Faulty<P> {
    inner: P,
    plan: FaultPlan,
}

impl<P> Faulty<P> {
    /// Wraps a listener or a connector.
    pub fn new(inner: P, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }
}

/// Wraps one end of a connection: `side` is who holds it.
pub fn connection(inner: Arc<dyn Connection>, side: Side, plan: &FaultPlan) -> Arc<dyn Connection> {
    Arc::new(FaultyConnection::new(inner, side, plan.clone()))
}

#[async_trait]
impl<L: Listener> Listener for Faulty<L> {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        Ok(connection(self.inner.accept().await?, Side::Orchestrator, &self.plan))
    }

    fn describe(&self) -> String {
        format!("faulty {}", self.inner.describe())
    }
}

#[async_trait]
impl<C: Connector> Connector for Faulty<C> {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        if self.plan.faults().refuse_connections {
            return Err(Error::new(ErrorKind::Unavailable, "faulty.connect", "an injected fault"));
        }
        Ok(connection(self.inner.connect().await?, Side::Agent, &self.plan))
    }

    fn describe(&self) -> String {
        format!("faulty {}", self.inner.describe())
    }
}
