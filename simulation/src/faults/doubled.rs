//! A bus of which the broker delivers some messages twice, as brokers may after a connection was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::bus::{Bus, Message, Subscribe, Subscription};

/// Every so many messages one comes twice.
const EVERY: u64 = 7;

/// Publishes some messages twice, the second time after those that were published with them.
pub(super) struct Doubled {
    inner: Arc<dyn Bus>,
    count: AtomicU64,
}

impl Doubled {
    pub(super) fn new(inner: Arc<dyn Bus>) -> Self {
        Self { inner, count: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Bus for Doubled {
    async fn publish(&self, mut messages: Vec<Message>) -> Result<()> {
        let is_doubled = |_: &&Message| self.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY);
        let again: Vec<Message> = messages.iter().filter(is_doubled).cloned().collect();
        messages.extend(again);
        self.inner.publish(messages).await
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        self.inner.subscribe(subscribe).await
    }

    fn describe(&self) -> String {
        format!("{} (some twice)", self.inner.describe())
    }
}
