//! The bus inside a process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::bus::{
    Bus, Delivery, MAX_MESSAGE_BYTES, Message, Receipt, Received, Subscribe, Subscription,
};
use mamos_core::id::{GroupName, TopicName};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::Notify;

/// How much a [`MemoryBus`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBusLimits {
    /// The most messages that wait for a transient subscription or group; the oldest are dropped beyond
    /// that. Default: 1024.
    pub transient_messages: usize,
    /// The same in bytes. Default: 16 MiB.
    pub transient_bytes: usize,
    /// The most messages of a durable group that are not acknowledged; beyond that `publish` is refused
    /// with [`ErrorKind::LimitExceeded`]. Default: 65 536.
    pub durable_messages: usize,
    /// The same in bytes. Default: 256 MiB.
    pub durable_bytes: usize,
}

impl Default for MemoryBusLimits {
    fn default() -> Self {
        Self {
            transient_messages: 1024,
            transient_bytes: 16 * 1024 * 1024,
            durable_messages: 65_536,
            durable_bytes: 256 * 1024 * 1024,
        }
    }
}

/// The bus inside a process. Clones are the same bus; it closes when the last clone is dropped.
///
/// Durable means: as long as the process lives. A durable group keeps its messages until they are
/// acknowledged, within [`MemoryBusLimits`]; when one group of a topic is full, `publish` takes none of
/// the messages and says [`ErrorKind::LimitExceeded`].
#[derive(Debug, Clone)]
pub struct MemoryBus(Arc<Handle>);

impl MemoryBus {
    /// An empty bus with the default limits.
    pub fn new() -> Self {
        Self::with_limits(MemoryBusLimits::default())
    }

    /// An empty bus.
    pub fn with_limits(limits: MemoryBusLimits) -> Self {
        Self(Arc::new(Handle(Arc::new(Shared { state: Mutex::default(), limits }))))
    }

    /// Closes the bus: subscriptions end, and nothing can be published any more.
    pub fn close(&self) {
        self.0.0.close();
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

/// Closes the bus with the last clone; subscriptions hold `Shared` only.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    limits: MemoryBusLimits,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    last_line: u64,
    last_message: u64,
    topics: HashMap<TopicName, Vec<u64>>,
    lines: HashMap<u64, Line>,
}

/// Messages that wait for one subscription without a group, or for one group.
struct Line {
    topic: TopicName,
    group: Option<GroupName>,
    delivery: Delivery,
    members: usize,
    waiting: VecDeque<Waiting>,
    /// Waiting or handed out and not acknowledged.
    kept_messages: usize,
    kept_bytes: usize,
    arrived: Arc<Notify>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    payload: Bytes,
    is_redelivered: bool,
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        let shared = &self.0.0;
        if let Some(large) = messages.iter().find(|message| message.payload.len() > MAX_MESSAGE_BYTES) {
            let message = format!(
                "a message of {} bytes is over the limit of {MAX_MESSAGE_BYTES}",
                large.payload.len()
            );
            return Err(Error::new(ErrorKind::LimitExceeded, "bus.publish", message));
        }
        let mut state = shared.lock();
        if state.is_closed {
            return Err(Error::new(ErrorKind::Closed, "bus.publish", "the bus is closed"));
        }
        state.check_room(&messages, &shared.limits)?;
        for message in messages {
            state.take(message, &shared.limits);
        }
        Ok(())
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        if subscribe.delivery == Delivery::Durable && subscribe.group.is_none() {
            let message = "durable delivery needs a group, whose name outlives the subscription";
            return Err(Error::new(ErrorKind::Invalid, "bus.subscribe", message));
        }
        let shared = self.0.0.clone();
        let (line, arrived) = {
            let mut state = shared.lock();
            if state.is_closed {
                return Err(Error::new(ErrorKind::Closed, "bus.subscribe", "the bus is closed"));
            }
            state.join(&subscribe)
        };
        let delivery = subscribe.delivery;
        let topic = subscribe.topic;
        Ok(Box::new(MemorySubscription {
            shared,
            line,
            arrived,
            topic,
            delivery,
            unacknowledged: BTreeMap::new(),
        }))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        for line in state.lines.values_mut() {
            line.waiting.clear();
            line.arrived.notify_one();
        }
    }
}

impl State {
    /// Has every durable group room for what these messages would add to it?
    fn check_room(&self, messages: &[Message], limits: &MemoryBusLimits) -> Result<()> {
        let mut added: HashMap<u64, (usize, usize)> = HashMap::new();
        for message in messages {
            for id in self.topics.get(&message.topic).into_iter().flatten() {
                let (count, bytes) = added.entry(*id).or_default();
                *count += 1;
                *bytes += message.payload.len();
            }
        }
        for (id, (count, bytes)) in added {
            let Some(line) = self.lines.get(&id).filter(|line| line.delivery == Delivery::Durable) else {
                continue;
            };
            if line.kept_messages + count > limits.durable_messages
                || line.kept_bytes + bytes > limits.durable_bytes
            {
                let message =
                    format!("a group of topic {} is full; none was taken, try again later", line.topic);
                return Err(Error::new(ErrorKind::LimitExceeded, "bus.publish", message));
            }
        }
        Ok(())
    }

    fn take(&mut self, message: Message, limits: &MemoryBusLimits) {
        self.last_message += 1;
        for id in self.topics.get(&message.topic).into_iter().flatten() {
            let Some(line) = self.lines.get_mut(id) else { continue };
            line.kept_messages += 1;
            line.kept_bytes += message.payload.len();
            line.waiting.push_back(Waiting {
                number: self.last_message,
                payload: message.payload.clone(),
                is_redelivered: false,
            });
            while line.delivery == Delivery::Transient
                && (line.kept_messages > limits.transient_messages
                    || line.kept_bytes > limits.transient_bytes)
                && line.waiting.len() > 1
            {
                if let Some(oldest) = line.waiting.pop_front() {
                    line.let_go(oldest.payload.len());
                }
            }
            line.arrived.notify_one();
        }
    }

    fn join(&mut self, subscribe: &Subscribe) -> (u64, Arc<Notify>) {
        let ids = self.topics.entry(subscribe.topic.clone()).or_default();
        let found = ids.iter().copied().find(|id| {
            subscribe.group.is_some()
                && self
                    .lines
                    .get(id)
                    .is_some_and(|line| line.group == subscribe.group && line.delivery == subscribe.delivery)
        });
        let id = found.unwrap_or_else(|| {
            self.last_line += 1;
            ids.push(self.last_line);
            self.last_line
        });
        let line = self.lines.entry(id).or_insert_with(|| Line {
            topic: subscribe.topic.clone(),
            group: subscribe.group.clone(),
            delivery: subscribe.delivery,
            members: 0,
            waiting: VecDeque::new(),
            kept_messages: 0,
            kept_bytes: 0,
            arrived: Arc::new(Notify::new()),
        });
        line.members += 1;
        (id, line.arrived.clone())
    }

    /// Gives back what a member had not acknowledged. A line without members stays only if it is durable.
    fn leave(&mut self, id: u64, unacknowledged: BTreeMap<u64, Bytes>) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.members -= 1;
        if line.members == 0 && line.delivery == Delivery::Transient {
            if let Some(ids) = self.topics.get_mut(&line.topic) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.topics.remove(&line.topic);
                }
            }
            self.lines.remove(&id);
            return;
        }
        let again = unacknowledged.into_iter().map(|(number, payload)| Waiting {
            number,
            payload,
            is_redelivered: true,
        });
        line.waiting.extend(again);
        // Oldest first, so that a member that is alone sees the old order.
        line.waiting.make_contiguous().sort_by_key(|waiting| waiting.number);
        // One wake-up may have been meant for the member that left.
        line.arrived.notify_one();
    }
}

impl Line {
    fn let_go(&mut self, bytes: usize) {
        self.kept_messages -= 1;
        self.kept_bytes -= bytes;
    }
}

/// Prints no payload: messages may carry secrets.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("members", &self.members)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

struct MemorySubscription {
    shared: Arc<Shared>,
    line: u64,
    arrived: Arc<Notify>,
    topic: TopicName,
    delivery: Delivery,
    unacknowledged: BTreeMap<u64, Bytes>,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn receive(&mut self) -> Result<Option<Received>> {
        loop {
            let next = {
                let mut state = self.shared.lock();
                if state.is_closed {
                    // Wakes the next member: closing gave one wake-up only.
                    self.arrived.notify_one();
                    return Ok(None);
                }
                state.lines.get_mut(&self.line).and_then(|line| {
                    let next = line.waiting.pop_front()?;
                    if self.delivery == Delivery::Transient {
                        line.let_go(next.payload.len());
                    }
                    if !line.waiting.is_empty() {
                        self.arrived.notify_one();
                    }
                    Some(next)
                })
            };
            if let Some(Waiting { number, payload, is_redelivered }) = next {
                if self.delivery == Delivery::Durable {
                    self.unacknowledged.insert(number, payload.clone());
                }
                let topic = self.topic.clone();
                return Ok(Some(Received { receipt: Receipt(number), topic, payload, is_redelivered }));
            }
            self.arrived.notified().await;
        }
    }

    async fn acknowledge(&mut self, receipt: Receipt) -> Result<()> {
        if let Some(payload) = self.unacknowledged.remove(&receipt.0)
            && let Some(line) = self.shared.lock().lines.get_mut(&self.line)
        {
            line.let_go(payload.len());
        }
        Ok(())
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        let unacknowledged = std::mem::take(&mut self.unacknowledged);
        self.shared.lock().leave(self.line, unacknowledged);
    }
}

impl fmt::Debug for MemorySubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemorySubscription({}, {:?})", self.topic, self.delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &'static str) -> Message {
        Message { topic: TopicName::new("t").unwrap(), payload: payload.into() }
    }

    fn durable() -> Subscribe {
        let (topic, group) = (TopicName::new("t").unwrap(), Some(GroupName::new("g").unwrap()));
        Subscribe { topic, group, delivery: Delivery::Durable }
    }

    #[tokio::test]
    async fn a_full_group_refuses_until_something_is_acknowledged() {
        let bus =
            MemoryBus::with_limits(MemoryBusLimits { durable_messages: 2, ..MemoryBusLimits::default() });
        let mut subscription = bus.subscribe(durable()).await.unwrap();
        bus.publish(vec![message("a")]).await.unwrap();
        let refused = bus.publish(vec![message("b"), message("c")]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::LimitExceeded);
        let first = subscription.receive().await.unwrap().unwrap();
        assert!(bus.publish(vec![message("b"), message("c")]).await.is_err(), "handed out, not acknowledged");
        subscription.acknowledge(first.receipt).await.unwrap();
        bus.publish(vec![message("b"), message("c")]).await.unwrap();
        assert_eq!(subscription.receive().await.unwrap().unwrap().payload, "b");
    }

    #[tokio::test]
    async fn subscriptions_end_when_the_bus_closes() {
        let bus = MemoryBus::new();
        let (mut one, mut two) =
            (bus.subscribe(durable()).await.unwrap(), bus.subscribe(durable()).await.unwrap());
        let waiting = tokio::spawn(async move { one.receive().await.unwrap().is_none() });
        let also = tokio::spawn(async move { two.receive().await.unwrap().is_none() });
        tokio::task::yield_now().await;
        let same = bus.clone();
        drop(bus);
        assert!(same.publish(vec![message("a")]).await.is_ok(), "a clone keeps it open");
        drop(same);
        // One of them may have taken the message before the end.
        assert!(waiting.await.unwrap() | also.await.unwrap());
    }

    #[tokio::test]
    async fn a_topic_without_listeners_is_forgotten() {
        let bus = MemoryBus::new();
        let transient = Subscribe { group: None, delivery: Delivery::Transient, ..durable() };
        drop(bus.subscribe(transient).await.unwrap());
        assert!(bus.0.0.lock().topics.is_empty() && bus.0.0.lock().lines.is_empty());
    }
}
