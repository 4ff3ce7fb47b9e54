//! Makes any [bus](mamos_core::bus) a transport, so that agents connect through a broker.
//!
//! Agents say hello on a topic that all of them may publish to, and orchestrators take hellos from there as
//! one group: each agent lands at one of them. From then on every connection has two topics of its own, one
//! for each direction, and every message on them is sealed with keys that only its two ends know. Whoever
//! else may publish or listen there can neither forge, change, repeat nor read anything.
//!
//! Frames may be lost, doubled or overtaken on a bus; the protocol's [link](mamos_core::protocol::link)
//! above sees to that. Connections have a [`Binding`](mamos_core::auth::Binding), which agents sign, so that
//! the orchestrator knows that nobody sits between. The agent knows that only with a
//! [pinned key](LinkOverBusConnector::with_pinned_key); without one it trusts the broker to let nobody but
//! orchestrators take hellos and publish to it. How to set brokers up: `docs/link-over-bus.md`.
//!
//! ```
//! use std::sync::Arc;
//!
//! use mamos_core::auth::KeyPair;
//! use mamos_core::transport::{Connector, Frame, Listener};
//! use mamos_transport::bus::MemoryBus;
//! use mamos_transport::link_over_bus::{LinkName, LinkOverBusConnector, LinkOverBusListener, LinkSettings};
//!
//! # #[tokio::main] async fn main() -> mamos_core::Result<()> {
//! let bus = Arc::new(MemoryBus::new());
//! let key = KeyPair::generate()?;
//! let pin = key.public_key();
//!
//! let listener = LinkOverBusListener::bind(bus.clone(), LinkSettings::default().with_signing_key(key)).await?;
//! let connector = LinkOverBusConnector::new(bus, LinkSettings::default())?
//!     .with_name(LinkName::new("rack-7")?)
//!     .with_pinned_key(pin);
//! let agent = connector.connect().await?;
//! let orchestrator = listener.accept().await?;
//! assert_eq!(agent.binding(), orchestrator.binding());
//! orchestrator.send(Frame::text("{}")).await?;
//! assert!(agent.receive().await?.is_some());
//! # Ok(()) }
//! ```

mod bundles;
mod connection;
mod connector;
mod counts;
mod handshake;
mod listener;
mod names;
mod outgoing;
mod parts;
mod pump;
mod refusals;
mod registry;
mod replay;
mod secrets;
mod settings;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use connector::LinkOverBusConnector;
pub use counts::LinkCounts;
pub use listener::LinkOverBusListener;
pub use names::LinkName;
pub use settings::LinkSettings;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state is consistent between statements, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
