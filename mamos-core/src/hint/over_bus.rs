//! Hints over any bus.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Heard, HintListener, Hints, MAX_HINT_BYTES};
use crate::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use crate::id::TopicName;
use crate::{Error, ErrorKind, Result};

/// The first pause before it subscribes again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Carries hints as transient messages on one topic of a bus, for a store that carries none itself or to
/// spare it the work.
///
/// Whoever may publish to the topic can make orchestrators look at the store more often, and nothing else.
#[derive(Clone)]
pub struct BusHints {
    bus: Arc<dyn Bus>,
    topic: TopicName,
}

impl BusHints {
    /// Hints on a topic, which only the orchestrators of one store should use.
    pub fn new(bus: Arc<dyn Bus>, topic: TopicName) -> Self {
        Self { bus, topic }
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let subscribe = Subscribe { topic: self.topic.clone(), group: None, delivery: Delivery::Transient };
        self.bus.subscribe(subscribe).await
    }
}

impl fmt::Debug for BusHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BusHints({})", self.describe())
    }
}

#[async_trait]
impl Hints for BusHints {
    async fn tell(&self, hints: Vec<Bytes>) -> Result<()> {
        if let Some(hint) = hints.iter().find(|hint| hint.len() > MAX_HINT_BYTES) {
            let message = format!("a hint of {} bytes is over the limit of {MAX_HINT_BYTES}", hint.len());
            return Err(Error::new(ErrorKind::LimitExceeded, "hints.tell", message));
        }
        let message = |payload| Message { topic: self.topic.clone(), payload };
        self.bus.publish(hints.into_iter().map(message).collect()).await
    }

    async fn listen(&self) -> Result<Box<dyn HintListener>> {
        let subscription = Some(self.subscribe().await?);
        Ok(Box::new(Listener { hints: self.clone(), subscription, pause: FIRST_PAUSE }))
    }

    fn describe(&self) -> String {
        format!("topic {} of {}", self.topic, self.bus.describe())
    }
}

#[derive(Debug)]
struct Listener {
    hints: BusHints,
    subscription: Option<Box<dyn Subscription>>,
    pause: Duration,
}

#[async_trait]
impl HintListener for Listener {
    async fn next(&mut self) -> Heard {
        loop {
            if let Some(subscription) = &mut self.subscription {
                match subscription.receive().await {
                    Ok(Some(received)) => {
                        self.pause = FIRST_PAUSE;
                        return Heard::Hint(received.payload);
                    }
                    Ok(None) => return Heard::Closed,
                    Err(error) => {
                        tracing::debug!(target: "mamos::neighbours", %error, "hints are not heard; subscribing again");
                        self.subscription = None;
                    }
                }
            }
            // First the pause, so that a bus that fails at once is not asked without end. Dropped here, the
            // next call begins the pause anew.
            tokio::time::sleep(self.pause).await;
            match self.hints.subscribe().await {
                Ok(subscription) => {
                    self.subscription = Some(subscription);
                    return Heard::Gap;
                }
                Err(error) if error.kind() == ErrorKind::Closed => return Heard::Closed,
                Err(_) => self.pause = (self.pause * 2).min(LONGEST_PAUSE),
            }
        }
    }
}
