//! The bus over NATS: core subjects for transient delivery, JetStream for durable.
//!
//! How it is laid out on the server, and what that promises, is told in `docs/bus-nats.md`.

mod durable;
mod foreign;
mod parts;
mod publish;
mod session;
mod settings;
mod streams;
mod subjects;
mod transient;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::{Error, ErrorKind, Result};

pub use settings::{NatsCredentials, NatsSettings};

use session::Session;

/// The bus over NATS. Clones are the same bus; it closes when the last clone is dropped.
///
/// One connection carries everything. It comes back by itself after a loss; until then `publish` says
/// [`ErrorKind::Unavailable`] after [`NatsSettings::publish_timeout`].
#[derive(Clone)]
pub struct NatsBus(Arc<Handle>);

struct Handle(Arc<Session>);

impl NatsBus {
    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: the settings can never work, for example a URL that is none.
    /// - [`ErrorKind::Denied`]: the server refuses the credentials, or the user may not use its inbox.
    /// - [`ErrorKind::Unavailable`]: no server answers there.
    pub async fn connect(settings: NatsSettings) -> Result<Self> {
        Ok(Self(Arc::new(Handle(Session::connect(settings).await?))))
    }

    /// Closes the bus: subscriptions end, and nothing can be published any more.
    pub fn close(&self) {
        self.0.0.close();
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        super::line::check_sizes(&messages)?;
        publish::publish(&self.0.0, messages).await
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        let session = &self.0.0;
        session.check_open("bus.subscribe")?;
        let group = match (subscribe.delivery, subscribe.group) {
            (Delivery::Transient, group) => {
                return transient::subscribe(session, subscribe.topic, group).await;
            }
            (Delivery::Durable, Some(group)) => group,
            (Delivery::Durable, None) => {
                let message = "durable delivery needs a group, whose name outlives the subscription";
                return Err(Error::new(ErrorKind::Invalid, "bus.subscribe", message));
            }
        };
        durable::subscribe(session, subscribe.topic, group).await
    }

    fn describe(&self) -> String {
        self.0.0.name.clone()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsBus({})", self.0.0.name)
    }
}
