//! The bus over Redis: Pub/Sub and lists for transient delivery, Streams for durable.
//!
//! How it is laid out on the server, and what that promises, is told in `docs/bus-redis.md`.

mod connection;
mod durable;
mod group;
mod hub;
mod keys;
mod publish;
mod scripts;
mod settings;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::timeout;

pub use settings::RedisBusSettings;

use connection::{Commands, Server};
use hub::Hub;
use scripts::Scripts;

/// The bus over Redis 7.0 or later. Clones are the same bus; it closes when the last clone is dropped.
///
/// One connection carries what is published, one the subscriptions without a group, and each subscription
/// with a group has one more, because it waits on it. Connections come back by themselves; until then
/// `publish` says [`ErrorKind::Unavailable`] after [`RedisBusSettings::publish_timeout`].
#[derive(Clone)]
pub struct RedisBus(Arc<Handle>);

struct Handle(Arc<Shared>);

/// What everything of one bus shares.
struct Shared {
    settings: RedisBusSettings,
    server: Server,
    commands: Commands,
    scripts: Scripts,
    hub: Hub,
    closing: watch::Sender<bool>,
}

impl RedisBus {
    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: the settings can never work, for example a URL that is none.
    /// - [`ErrorKind::Denied`]: the server refuses the user or the password.
    /// - [`ErrorKind::Unavailable`]: no server answers there.
    pub async fn connect(settings: RedisBusSettings) -> Result<Self> {
        let server = Server::new(&settings)?;
        let closing = watch::Sender::new(false);
        let commands = Commands::default();
        let connect = commands.first(&server);
        timeout(settings.publish_timeout, connect)
            .await
            .unwrap_or_else(|_| Err(server.unavailable("bus.connect")))?;
        let hub = Hub::start(server.clone(), closing.subscribe());
        let scripts = Scripts::default();
        Ok(Self(Arc::new(Handle(Arc::new(Shared { settings, server, commands, scripts, hub, closing })))))
    }

    /// Closes the bus: subscriptions end, and nothing can be published any more.
    pub fn close(&self) {
        self.0.0.closing.send_replace(true);
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        super::line::check_sizes(&messages)?;
        self.0.0.check_open("bus.publish")?;
        publish::publish(&self.0.0, messages).await
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        let shared = &self.0.0;
        shared.check_open("bus.subscribe")?;
        let topic = subscribe.topic;
        let work = async {
            match (subscribe.delivery, subscribe.group) {
                (Delivery::Transient, None) => hub::subscribe(shared, topic).await,
                (Delivery::Transient, Some(group)) => group::subscribe(shared, topic, group).await,
                (Delivery::Durable, Some(group)) => durable::subscribe(shared, topic, group).await,
                (Delivery::Durable, None) => {
                    let message = "durable delivery needs a group, whose name outlives the subscription";
                    Err(Error::new(ErrorKind::Invalid, "bus.subscribe", message))
                }
            }
        };
        timeout(shared.settings.publish_timeout, work)
            .await
            .unwrap_or_else(|_| Err(shared.server.unavailable("bus.subscribe")))
    }

    fn describe(&self) -> String {
        self.0.0.server.name.clone()
    }
}

impl Shared {
    fn check_open(&self, operation: &'static str) -> Result<()> {
        match *self.closing.borrow() {
            true => Err(Error::new(ErrorKind::Closed, operation, "the bus is closed")),
            false => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.closing.send_replace(true);
    }
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisBus({})", self.0.0.server.name)
    }
}

/// Waits until the bus closes.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // Its sender being gone means the same.
    let _ = closing.wait_for(|closing| *closing).await;
}
