//! Buses that break a promise.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::bus::{Bus, Delivery, Message, Receipt, Received, Subscribe, Subscription};
use mamos_core::id::TopicName;

use crate::bus::MemoryBus;

/// What a bus does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenBus {
    /// Gives a message to every member of a group.
    GivesAGroupEverythingTwice,
    /// Forgets acknowledgements.
    RedeliversAcknowledged,
    /// Delivers messages of other topics.
    LeaksAcrossTopics,
    /// Counts a message as acknowledged as soon as it is handed out.
    LosesOnDrop,
    /// Forgets a durable group when nobody listens.
    ForgetsGroups,
    /// Publishes the last message of a batch first.
    ReversesBatches,
    /// Takes the messages before one that is too large.
    TakesPartOfABatch,
    /// Cuts a message after 1 MiB.
    CutsLargeMessages,
    /// Subscribes only when the first message is asked for.
    SubscribesLate,
    /// Takes a message and waits before it gives it.
    LosesWhenReceiveIsDropped,
    /// Waits for slow transient subscribers.
    WaitsForTheSlow,
}

impl BrokenBus {
    /// A bus that does it wrong.
    pub fn bus(self) -> Box<dyn Bus> {
        Box::new(Breaking { inner: MemoryBus::new(), how: self })
    }
}

#[derive(Debug)]
struct Breaking {
    inner: MemoryBus,
    how: BrokenBus,
}

#[async_trait]
impl Bus for Breaking {
    async fn publish(&self, mut messages: Vec<Message>) -> Result<()> {
        match self.how {
            BrokenBus::LeaksAcrossTopics => {
                for message in &mut messages {
                    message.topic = TopicName::new("all")?;
                }
            }
            BrokenBus::ReversesBatches => messages.reverse(),
            BrokenBus::TakesPartOfABatch => {
                for message in messages {
                    self.inner.publish(vec![message]).await?;
                }
                return Ok(());
            }
            BrokenBus::CutsLargeMessages => {
                for message in &mut messages {
                    message.payload.truncate(1024 * 1024);
                }
            }
            // Long enough for a kit to lose its patience, which it does in virtual time.
            BrokenBus::WaitsForTheSlow if messages.len() >= 1000 => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            _ => {}
        }
        self.inner.publish(messages).await
    }

    async fn subscribe(&self, mut subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        match self.how {
            BrokenBus::GivesAGroupEverythingTwice if subscribe.group.is_some() => {
                subscribe.group = None;
                subscribe.delivery = Delivery::Transient;
            }
            BrokenBus::LeaksAcrossTopics => subscribe.topic = TopicName::new("all")?,
            BrokenBus::ForgetsGroups => subscribe.delivery = Delivery::Transient,
            _ => {}
        }
        let inner = match self.how {
            BrokenBus::SubscribesLate => None,
            _ => Some(self.inner.subscribe(subscribe.clone()).await?),
        };
        Ok(Box::new(BreakingSubscription { bus: self.inner.clone(), subscribe, inner, how: self.how }))
    }

    fn describe(&self) -> String {
        "broken".to_owned()
    }
}

struct BreakingSubscription {
    bus: MemoryBus,
    subscribe: Subscribe,
    inner: Option<Box<dyn Subscription>>,
    how: BrokenBus,
}

#[async_trait]
impl Subscription for BreakingSubscription {
    async fn receive(&mut self) -> Result<Option<Received>> {
        let inner = match &mut self.inner {
            Some(inner) => inner,
            None => self.inner.insert(self.bus.subscribe(self.subscribe.clone()).await?),
        };
        let received = inner.receive().await?;
        match (&received, self.how) {
            (Some(received), BrokenBus::LosesOnDrop) => inner.acknowledge(received.receipt).await?,
            (Some(received), BrokenBus::LosesWhenReceiveIsDropped) => {
                inner.acknowledge(received.receipt).await?;
                tokio::task::yield_now().await;
            }
            _ => {}
        }
        Ok(received)
    }

    async fn acknowledge(&mut self, receipt: Receipt) -> Result<()> {
        match &mut self.inner {
            Some(inner) if self.how != BrokenBus::RedeliversAcknowledged => inner.acknowledge(receipt).await,
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for BreakingSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BreakingSubscription({:?})", self.how)
    }
}
