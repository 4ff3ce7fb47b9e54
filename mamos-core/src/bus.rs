//! Port: messages between programs, by topic.
//!
//! The bus carries wake-ups between orchestrators and, over brokers, the links of agents. Nothing that
//! must not be lost depends on it alone: the store is the truth.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;
use crate::id::{GroupName, TopicName};

/// The largest message, in bytes, that every bus takes: 8 MiB.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Carries messages by topic.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Publishes messages, in order.
    ///
    /// Returns once the bus has taken them: for subscriptions with [`Delivery::Durable`] that means
    /// that they will be delivered at least once.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): some may have been taken; publishing
    ///   again may duplicate them.
    /// - [`ErrorKind::LimitExceeded`](crate::ErrorKind::LimitExceeded): one is too large; none was taken.
    async fn publish(&self, messages: Vec<Message>) -> Result<()>;

    /// Subscribes to a topic, from now on.
    ///
    /// Subscriptions of one group share the messages: each goes to one of them. Without a group, each
    /// subscription gets every message. Messages of one publisher to one topic arrive in order at a
    /// subscription that is alone, apart from redelivery.
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>>;

    /// Where it is, for people. Never contains a secret.
    fn describe(&self) -> String;
}

/// Messages of a topic, as they come.
#[async_trait]
pub trait Subscription: Send + fmt::Debug + 'static {
    /// Waits for the next message. `None` once the bus is closed. Safe to drop and call again.
    async fn receive(&mut self) -> Result<Option<Received>>;

    /// Acknowledges a message, so that it is not delivered again. Without meaning, and harmless, for
    /// [`Delivery::Transient`]; unknown receipts are ignored.
    async fn acknowledge(&mut self, receipt: Receipt) -> Result<()>;
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
}

/// What to subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// The topic.
    pub topic: TopicName,
    /// Who shares its messages; `None` to get them all.
    pub group: Option<GroupName>,
    /// What happens to messages that are not acknowledged.
    pub delivery: Delivery,
}

/// What happens to messages that are not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// At most once, to those who listen at that moment. The oldest are dropped for a slow subscriber.
    Transient,
    /// At least once to each group that was ever subscribed: a message that is not acknowledged before
    /// its subscription ends is delivered again, to another of the group or to the next one. Needs a
    /// group.
    Durable,
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Names it for [`Subscription::acknowledge`].
    pub receipt: Receipt,
    /// Where it was published.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// Was it delivered before? A hint.
    pub is_redelivered: bool,
}

/// Names a message within its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt(pub u64);

fn _dyn_compatible(_: &dyn Bus, _: &dyn Subscription) {}
