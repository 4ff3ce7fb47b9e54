//! Subscriptions without a group: one connection for all of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use mamos_core::bus::{MAX_MESSAGE_BYTES, Receipt, Received, Subscription};
use mamos_core::id::TopicName;
use mamos_core::{ErrorKind, Result};
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Msg, RedisResult};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::super::line::Line;
use super::connection::{Pauses, Server};
use super::{Shared, closed, keys};

/// How often the connection is asked whether it lives: nothing else is sent on it.
const PING_EVERY: Duration = Duration::from_secs(5);

/// The way to the task that has the connection. As many orders wait as there are subscriptions at most.
pub(super) struct Hub(mpsc::UnboundedSender<Order>);

enum Order {
    Enter { channel: String, line: Arc<Line>, done: oneshot::Sender<Result<()>> },
    Leave { channel: String, line: Arc<Line> },
}

impl Hub {
    pub(super) fn start(server: Server, closing: watch::Receiver<bool>) -> Self {
        let (sender, orders) = mpsc::unbounded_channel();
        tokio::spawn(Task { server, orders, channels: HashMap::new() }.run(closing));
        Self(sender)
    }
}

pub(super) async fn subscribe(shared: &Arc<Shared>, topic: TopicName) -> Result<Box<dyn Subscription>> {
    let channel = keys::channel(&shared.settings.prefix, &topic);
    let line = Arc::new(Line::new());
    let orders = shared.hub.0.clone();
    // Made first: should the caller give up waiting, it leaves again.
    let subscription = HubSubscription { topic, channel: channel.clone(), line: Arc::clone(&line), orders };
    let (done, entered) = oneshot::channel();
    let sent = subscription.orders.send(Order::Enter { channel, line, done });
    match (sent, entered.await) {
        (Ok(()), Ok(result)) => result.map(|()| Box::new(subscription) as Box<dyn Subscription>),
        _ => Err(shared.server.unavailable("bus.subscribe")),
    }
}

struct HubSubscription {
    topic: TopicName,
    channel: String,
    line: Arc<Line>,
    orders: mpsc::UnboundedSender<Order>,
}

#[async_trait]
impl Subscription for HubSubscription {
    async fn receive(&mut self) -> Result<Option<Received>> {
        let Some(next) = self.line.next().await? else { return Ok(None) };
        Ok(Some(Received {
            receipt: Receipt(next.number),
            topic: self.topic.clone(),
            payload: next.payload,
            is_redelivered: false,
        }))
    }

    async fn acknowledge(&mut self, _receipt: Receipt) -> Result<()> {
        Ok(())
    }
}

impl Drop for HubSubscription {
    fn drop(&mut self) {
        // The task has ended if the bus closed.
        let _ =
            self.orders.send(Order::Leave { channel: self.channel.clone(), line: Arc::clone(&self.line) });
    }
}

impl fmt::Debug for HubSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisSubscription({}, Transient)", self.topic)
    }
}

struct Task {
    server: Server,
    orders: mpsc::UnboundedReceiver<Order>,
    channels: HashMap<String, Vec<Arc<Line>>>,
}

/// Why the task left a connection.
enum Left {
    Closed,
    Lost,
}

impl Task {
    async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut pauses = Pauses::default();
        loop {
            let work = async {
                let (mut sink, stream) = self.server.connect_pubsub().await?.split();
                enter_all(&self.server, &mut sink, &mut self.channels).await?;
                Ok::<_, mamos_core::Error>((sink, stream))
            };
            let connected = tokio::select! {
                connected = work => connected,
                () = closed(&mut closing) => break,
            };
            match connected {
                Ok((sink, stream)) => {
                    pauses = Pauses::default();
                    if let Left::Closed = self.serve(sink, stream, &mut closing).await {
                        break;
                    }
                    tracing::warn!(target: "mamos::bus", "the connection for subscriptions to Redis is lost; connecting again");
                }
                Err(error) => {
                    tracing::debug!(target: "mamos::bus", %error, "Redis is not there for subscriptions");
                    self.refuse_waiting(&error);
                }
            }
            tokio::select! {
                () = pauses.pause() => {}
                () = closed(&mut closing) => break,
            }
        }
        for line in self.channels.into_values().flatten() {
            line.end(None);
        }
    }

    /// Those who wait learn of an error that will not pass.
    fn refuse_waiting(&mut self, error: &mamos_core::Error) {
        if error.kind() == ErrorKind::Unavailable {
            return;
        }
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Enter { done, .. } => drop(done.send(Err(error.duplicate()))),
                Order::Leave { channel, line } => drop(self.leave(&channel, &line)),
            }
        }
    }

    async fn serve(
        &mut self,
        mut sink: PubSubSink,
        mut stream: PubSubStream,
        closing: &mut watch::Receiver<bool>,
    ) -> Left {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.take(&message),
                    None => return Left::Lost,
                },
                order = self.orders.recv() => match order {
                    None => return Left::Closed,
                    Some(order) => if !self.follow(&mut sink, &mut stream, order).await {
                        return Left::Lost;
                    }
                },
                _ = ping.tick() => {
                    let answer = async { sink.ping::<redis::Value>().await.map(drop) };
                    if self.while_taking(&mut stream, answer).await.is_err() {
                        return Left::Lost;
                    }
                }
                () = closed(closing) => return Left::Closed,
            }
        }
    }

    /// Waits for an answer and takes the messages that come before it, which may be many.
    async fn while_taking(
        &self,
        stream: &mut PubSubStream,
        answer: impl Future<Output = RedisResult<()>>,
    ) -> RedisResult<()> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let step = async {
                tokio::select! {
                    biased;
                    answer = &mut answer => Some(answer),
                    Some(message) = stream.next() => {
                        self.take(&message);
                        None
                    }
                }
            };
            if let Some(answer) = within(async { Ok(step.await) }).await? {
                return answer;
            }
        }
    }

    fn take(&self, message: &Msg) {
        let Some(lines) = self.channels.get(message.get_channel_name()) else { return };
        if message.get_payload_bytes().len() > MAX_MESSAGE_BYTES {
            tracing::warn!(target: "mamos::bus", channel = message.get_channel_name(),
                "a message that no bus wrote is dropped: it is too large; find out who publishes there");
            return;
        }
        // One copy, which all subscriptions share.
        let payload = Bytes::copy_from_slice(message.get_payload_bytes());
        for line in lines {
            line.push_transient(payload.clone());
        }
    }

    /// Does what a subscription wants; false if the connection is lost.
    async fn follow(&mut self, sink: &mut PubSubSink, stream: &mut PubSubStream, order: Order) -> bool {
        match order {
            Order::Enter { channel, line, done } => {
                if !self.channels.contains_key(&channel)
                    && let Err(error) = self.while_taking(stream, sink.subscribe(&channel)).await
                {
                    let error = self.server.error("bus.subscribe", error);
                    let is_lost = error.kind() == ErrorKind::Unavailable;
                    // The caller may have given up.
                    let _ = done.send(Err(error));
                    return !is_lost;
                }
                self.channels.entry(channel).or_default().push(line);
                let _ = done.send(Ok(()));
                true
            }
            Order::Leave { channel, line } => {
                !self.leave(&channel, &line)
                    || self.while_taking(stream, sink.unsubscribe(&channel)).await.is_ok()
            }
        }
    }

    /// Forgets a subscription; true if it was the last of its channel.
    fn leave(&mut self, channel: &str, line: &Arc<Line>) -> bool {
        let Some(lines) = self.channels.get_mut(channel) else { return false };
        lines.retain(|other| !Arc::ptr_eq(other, line));
        if lines.is_empty() {
            self.channels.remove(channel);
            return true;
        }
        false
    }
}

/// Subscribes to everything again. A channel that is denied now ends its subscriptions, and no others.
async fn enter_all(
    server: &Server,
    sink: &mut PubSubSink,
    channels: &mut HashMap<String, Vec<Arc<Line>>>,
) -> Result<()> {
    let names: Vec<_> = channels.keys().cloned().collect();
    if names.is_empty() || within(sink.subscribe(&names)).await.is_ok() {
        return Ok(());
    }
    for name in names {
        let Err(error) = within(sink.subscribe(&name)).await else { continue };
        let error = server.error("bus.receive", error);
        if error.kind() == ErrorKind::Unavailable {
            return Err(error);
        }
        for line in channels.remove(&name).unwrap_or_default() {
            line.end(Some(error.duplicate()));
        }
    }
    Ok(())
}

/// An answer that does not come is a lost connection.
async fn within<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match timeout(PING_EVERY, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
