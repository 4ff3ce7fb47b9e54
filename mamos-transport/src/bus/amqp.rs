//! The bus over RabbitMQ.
//!
//! Messages go to a topic exchange, with the topic as their routing key. A subscription without a group has a
//! queue of its own, a group shares one. What it promises, costs and needs is told in `docs/bus-rabbitmq.md`.

mod connector;
mod failure;
mod names;
mod pool;
mod publisher;
mod settings;
mod subscription;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::{Error, ErrorKind, Result};

pub use self::settings::{AmqpSettings, DurableQueues};

use self::connector::{Connector, Purpose};
use self::pool::Pool;
use self::publisher::Publisher;
use self::settings::Checked;
use self::subscription::AmqpSubscription;

/// The bus over RabbitMQ. Clones are the same bus; it closes when the last clone is dropped.
///
/// It keeps one connection for publishing, which the broker may block, and others for subscriptions. Lost
/// connections come back by themselves, with everything that was on them; meanwhile subscriptions wait, and
/// `publish` waits for at most [`AmqpSettings::timeout`] before it is
/// [`ErrorKind::Unavailable`].
///
/// ```no_run
/// use mamos_transport::{AmqpBus, AmqpSettings};
///
/// # async fn example() -> mamos_core::Result<()> {
/// let bus = AmqpBus::connect(AmqpSettings::new("amqp://mamos:password@broker/mamos")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AmqpBus(Arc<Handle>);

impl AmqpBus {
    /// Connects, on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: the settings can never work, or there is no such virtual host.
    /// - [`ErrorKind::Denied`]: the password is wrong, or the user has no right to the virtual host.
    /// - [`ErrorKind::Unavailable`]: nobody answers there; it may work later.
    pub async fn connect(settings: AmqpSettings) -> Result<Self> {
        let checked = Arc::new(Checked::new(settings)?);
        let publishing = Connector::open(Arc::clone(&checked), Purpose::Publishing).await?;
        let pool = Pool::open(Arc::clone(&checked)).await?;
        let publisher = Publisher::new(publishing, Arc::clone(&checked));
        Ok(Self(Arc::new(Handle { checked, publisher, pool })))
    }

    /// Closes the bus: subscriptions end, and nothing can be published any more.
    pub fn close(&self) {
        self.0.close();
    }
}

/// Prints no password.
impl fmt::Debug for AmqpBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AmqpBus").field(&self.0.checked).finish()
    }
}

struct Handle {
    checked: Arc<Checked>,
    publisher: Publisher,
    pool: Pool,
}

impl Handle {
    fn close(&self) {
        self.publisher.close();
        self.pool.close();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Bus for AmqpBus {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        self.0.publisher.publish(messages).await
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        if subscribe.delivery == Delivery::Durable && subscribe.group.is_none() {
            let message = "durable delivery needs a group, whose name outlives the subscription";
            return Err(Error::new(ErrorKind::Invalid, "bus.subscribe", message));
        }
        let seat = self.0.pool.seat().await?;
        Ok(Box::new(AmqpSubscription::open(subscribe, Arc::clone(&self.0.checked), seat).await?))
    }

    fn describe(&self) -> String {
        format!("{} (exchange {})", self.0.checked.place, self.0.checked.settings.exchange)
    }
}
