//! Subscriptions of durable groups.
//!
//! The group is a pull consumer of the topic's stream. One task asks for messages as long as there is room
//! for them, tells the server that those in hand are still worked on, and gives back what was not
//! acknowledged when the subscription ends. If the process dies, the server gives it to another after
//! [`redeliver_after`](super::NatsSettings::redeliver_after).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use mamos_core::bus::{Receipt, Received, Subscription};
use mamos_core::id::{GroupName, TopicName};
use mamos_core::{ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::super::line::{Line, Waiting};
use super::parts::{self, Head};
use super::session::{Session, closed, lost};
use super::streams;
use super::subjects::Subjects;

/// How many messages may have come and wait to be received.
const PREFETCH: usize = 128;
/// The most messages of one subscription that are not acknowledged; it gets no more beyond that. Half of
/// what the group may have, so that one member cannot starve the others.
const UNACKNOWLEDGED: usize = streams::GROUP_UNACKNOWLEDGED as usize / 2;
/// How long a request for messages stands at the server.
const REQUEST_LASTS: Duration = Duration::from_secs(20);
/// The pause before a stream or consumer that is gone is made again.
const REPAIR_PAUSE: Duration = Duration::from_millis(500);
/// More than can be on its way: what two requests may bring, and the server's words about them.
const MOST_ON_THE_WAY: u64 = 2 * PREFETCH as u64 + 8;
/// How long a subscription that ends waits for what is on its way to it.
const END_LASTS: Duration = Duration::from_secs(2);

pub(super) async fn subscribe(
    session: &Arc<Session>,
    topic: TopicName,
    group: GroupName,
) -> Result<Box<dyn Subscription>> {
    let work = async {
        session.until_connected().await;
        streams::ensure(session, &topic, &group).await
    };
    timeout(session.settings.publish_timeout, work)
        .await
        .unwrap_or_else(|_| Err(session.unavailable("bus.subscribe")))?;
    let subjects = session.subjects(&topic);
    let inbox = session.client.new_inbox();
    let messages = session.client.subscribe(inbox.clone()).await.map_err(lost)?;
    // The next publisher need not ask.
    session.durable_topics().insert(topic.clone());
    let shared = Arc::new(Shared { line: Line::new(), held: Mutex::default() });
    let (done, acknowledged) = mpsc::unbounded_channel();
    let pump = Pump {
        request: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", subjects.stream(), subjects.consumer(&group)),
        session: Arc::clone(session),
        topic: topic.clone(),
        group,
        subjects,
        shared: Arc::clone(&shared),
        inbox,
        messages,
        seen: 0,
        requested: 0,
        request_ends: Instant::now(),
        repair_at: None,
    };
    tokio::spawn(pump.run(acknowledged));
    Ok(Box::new(DurableSubscription { topic, shared, done }))
}

struct Shared {
    line: Line,
    /// Came and not acknowledged, by number in the stream.
    held: Mutex<BTreeMap<u64, Held>>,
}

/// A message in hand.
struct Held {
    reply: Subject,
    /// The id of its parts, if it came in parts.
    parts: Option<String>,
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct DurableSubscription {
    topic: TopicName,
    shared: Arc<Shared>,
    /// What was acknowledged; as many as are held at most. Its end ends the pump.
    done: mpsc::UnboundedSender<(u64, Held)>,
}

#[async_trait]
impl Subscription for DurableSubscription {
    async fn receive(&mut self) -> Result<Option<Received>> {
        let Some(next) = self.shared.line.next().await? else { return Ok(None) };
        Ok(Some(Received {
            receipt: Receipt(next.number),
            topic: self.topic.clone(),
            payload: next.payload,
            is_redelivered: next.is_redelivered,
        }))
    }

    async fn acknowledge(&mut self, receipt: Receipt) -> Result<()> {
        let held = self.shared.held().remove(&receipt.0);
        if let Some(held) = held {
            // The pump may have ended with the bus; then the message comes again.
            let _ = self.done.send((receipt.0, held));
        }
        Ok(())
    }
}

impl fmt::Debug for DurableSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsSubscription({}, Durable)", self.topic)
    }
}

struct Pump {
    session: Arc<Session>,
    topic: TopicName,
    group: GroupName,
    subjects: Subjects,
    shared: Arc<Shared>,
    request: String,
    inbox: String,
    messages: Subscriber,
    /// How many came to this inbox.
    seen: u64,
    /// How many messages were asked for and have not come.
    requested: usize,
    request_ends: Instant,
    /// When to make the stream and the consumer again.
    repair_at: Option<Instant>,
}

impl Pump {
    async fn run(mut self, mut acknowledged: mpsc::UnboundedReceiver<(u64, Held)>) {
        let mut closing = self.session.closing();
        let mut connected = self.session.connected();
        let mut violations = self.session.violations();
        let mut upkeep = interval((self.session.settings.redeliver_after / 3).max(Duration::from_millis(50)));
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let request = self.request.clone();
        loop {
            if self.ask().await.is_err() {
                break;
            }
            let repair_at = self.repair_at.unwrap_or(self.request_ends);
            tokio::select! {
                biased;
                done = acknowledged.recv() => match done {
                    Some((number, held)) => self.acknowledge(number, held).await,
                    None => break,
                },
                () = closed(&mut closing) => break,
                message = self.messages.next() => match message {
                    Some(message) => self.take(message).await,
                    None => break,
                },
                () = self.shared.line.taken.notified() => {}
                Ok(()) = connected.changed() => {
                    if connected.borrow_and_update().is_up {
                        self.start_again().await;
                    }
                }
                _ = upkeep.tick() => self.keep().await,
                () = tokio::time::sleep_until(repair_at) => self.repair().await,
                Ok(violation) = violations.recv() => {
                    if let Some(error) = self.session.denied(&violation, &[&request]) {
                        self.shared.line.end(Some(error));
                        break;
                    }
                }
            }
        }
        while let Ok((number, held)) = acknowledged.try_recv() {
            self.acknowledge(number, held).await;
        }
        self.shared.line.end(None);
        self.give_back().await;
    }

    /// Asks for messages if there is room for them.
    async fn ask(&mut self) -> Result<()> {
        if self.repair_at.is_some() {
            return Ok(());
        }
        if Instant::now() >= self.request_ends {
            self.requested = 0;
        }
        if self.requested > PREFETCH / 2 {
            return Ok(());
        }
        let room = PREFETCH.saturating_sub(self.shared.line.len() + self.requested);
        let count = room.min(UNACKNOWLEDGED.saturating_sub(self.shared.held().len()));
        self.request_ends = Instant::now() + REQUEST_LASTS;
        if count < PREFETCH / 2 {
            // Few at a time would cost a request each. Looked at again when something is received or acknowledged.
            return Ok(());
        }
        self.requested += count;
        let body = format!(r#"{{"batch":{count},"expires":{}}}"#, REQUEST_LASTS.as_nanos());
        let sent = self.session.client.publish_with_reply(self.request.clone(), self.inbox.clone(), body.into());
        sent.await.map_err(lost)
    }

    async fn take(&mut self, message: Message) {
        self.seen += 1;
        match message.status {
            None => {}
            // Keeps a connection alive.
            Some(StatusCode::IDLE_HEARTBEAT) => return,
            // It had its time.
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => {
                self.requested = 0;
                return;
            }
            // The stream or the consumer is gone, or not back yet.
            Some(status) => {
                tracing::debug!(target: "mamos::bus", topic = %self.topic, %status, "a request for messages ended");
                self.requested = 0;
                self.repair_at.get_or_insert(Instant::now() + REPAIR_PAUSE);
                return;
            }
        }
        self.requested = self.requested.saturating_sub(1);
        let Some(reply) = message.reply.clone() else {
            tracing::warn!(target: "mamos::bus", topic = %self.topic, "a message that JetStream did not send is ignored");
            return;
        };
        let Some((number, is_redelivered)) = read_reply(&reply) else {
            tracing::warn!(target: "mamos::bus", topic = %self.topic, "a message that JetStream did not send is ignored");
            return;
        };
        if let Some(held) = self.shared.held().get_mut(&number) {
            // Delivered again while it is still in hand, after a break of the connection: the new way to
            // acknowledge it counts.
            held.reply = reply;
            return;
        }
        let (payload, parts) = match Head::of(message.headers.as_ref()) {
            None => (message.payload, None),
            Some(head) => match self.join(head).await {
                Ok(Some((payload, id))) => (payload, Some(id)),
                Ok(None) => {
                    tracing::warn!(target: "mamos::bus", topic = %self.topic, number,
                        "a large message is dropped: its parts are gone, or somebody else wrote it");
                    return self.say(reply, ACK).await;
                }
                Err(error) => {
                    tracing::warn!(target: "mamos::bus", topic = %self.topic, %error, "a large message comes again later");
                    return self.say(reply, NAK).await;
                }
            },
        };
        self.shared.held().insert(number, Held { reply, parts });
        self.shared.line.push(Waiting { number, payload, is_redelivered });
    }

    /// Fetches and joins the parts; `None` if that can never succeed.
    async fn join(&self, head: Option<Head>) -> Result<Option<(Bytes, String)>> {
        let Some(head) = head else { return Ok(None) };
        let fetched = streams::fetch(&self.session, &self.subjects, &head.id, head.count).await?;
        let Some(parts) = fetched else { return Ok(None) };
        let payload = parts::join(&parts);
        Ok((payload.len() == head.bytes).then_some((payload, head.id)))
    }

    async fn acknowledge(&self, number: u64, held: Held) {
        let Some(parts) = held.parts else { return self.say(held.reply, ACK).await };
        // Confirmed, so that the stream shows whether another group still needs the parts.
        match self.session.client.request(held.reply, Bytes::from_static(ACK)).await {
            Ok(_) => streams::remove_parts(&self.session, &self.subjects, number, &parts).await,
            Err(error) => {
                tracing::debug!(target: "mamos::bus", %error, "an acknowledgement was not confirmed");
            }
        }
    }

    /// Tells the server that what is in hand is still worked on.
    async fn keep(&self) {
        let replies: Vec<_> = self.shared.held().values().map(|held| held.reply.clone()).collect();
        for reply in replies {
            self.say(reply, IN_PROGRESS).await;
        }
    }

    /// Makes the stream and the consumer again, if that is due and they are gone.
    async fn repair(&mut self) {
        if self.repair_at.take().is_none() {
            return;
        }
        self.session.until_connected().await;
        if let Err(error) = streams::ensure(&self.session, &self.topic, &self.group).await {
            match error.kind() {
                ErrorKind::Unavailable => {
                    tracing::warn!(target: "mamos::bus", topic = %self.topic, %error, "a durable topic is not back yet");
                    self.repair_at = Some(Instant::now() + REPAIR_PAUSE);
                }
                _ => {
                    tracing::error!(target: "mamos::bus", topic = %self.topic, %error, "a durable topic cannot be used");
                    self.repair_at = Some(Instant::now() + REPAIR_PAUSE * 4);
                }
            }
        }
    }

    /// Gives back everything that is in hand or on its way.
    async fn give_back(mut self) {
        // Without a connection nothing can be given back; the server notices by itself.
        let on_the_way = timeout(END_LASTS, self.stop()).await.unwrap_or_default();
        let held = std::mem::take(&mut *self.shared.held());
        let work = async {
            for reply in held.into_values().map(|held| held.reply).chain(on_the_way) {
                self.say(reply, NAK).await;
            }
        };
        let _ = timeout(END_LASTS, work).await;
    }

    /// Ends the requests at the server, and gives what it had sent before it heard of that.
    ///
    /// Unsubscribing tells the client to drop what is on its way. So the server is made to send a known
    /// number of messages more, which come after that, and both are told that this number is the last.
    async fn stop(&mut self) -> Vec<Subject> {
        let mut on_the_way = Vec::new();
        for _ in 0..MOST_ON_THE_WAY {
            if self.session.client.publish(self.inbox.clone(), Bytes::new()).await.is_err() {
                return on_the_way;
            }
        }
        if self.messages.unsubscribe_after(self.seen + MOST_ON_THE_WAY).await.is_ok() {
            while let Some(message) = self.messages.next().await {
                on_the_way.extend(message.reply.filter(|_| message.status.is_none()));
            }
        }
        on_the_way
    }

    /// The server forgot what was asked on the connection before, and counts anew.
    async fn start_again(&mut self) {
        self.requested = 0;
        self.seen = 0;
        self.inbox = self.session.client.new_inbox();
        match self.session.client.subscribe(self.inbox.clone()).await {
            Ok(messages) => self.messages = messages,
            Err(error) => tracing::debug!(target: "mamos::bus", %error, "the connection to NATS ends"),
        }
    }

    async fn say(&self, reply: Subject, what: &'static [u8]) {
        say(&self.session, reply, what).await;
    }
}

async fn say(session: &Session, reply: Subject, what: &'static [u8]) {
    if let Err(error) = session.client.publish(reply, Bytes::from_static(what)).await {
        tracing::debug!(target: "mamos::bus", %error, "a message could not be answered for");
    }
}

const ACK: &[u8] = b"+ACK";
const NAK: &[u8] = b"-NAK";
const IN_PROGRESS: &[u8] = b"+WPI";

/// The number in the stream, and whether it was delivered before, from
/// `$JS.ACK.stream.consumer.deliveries.stream-number.consumer-number.time.pending` or the longer form of
/// later servers, which has a domain and an account in front.
fn read_reply(reply: &str) -> Option<(u64, bool)> {
    let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let start = match tokens.len() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let deliveries: u64 = tokens[start].parse().ok()?;
    let number = tokens[start + 1].parse().ok()?;
    Some((number, deliveries > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jetstream_says_of_a_delivery_is_read() {
        assert_eq!(read_reply("$JS.ACK.s.c.1.42.7.1700000000000000000.0"), Some((42, false)));
        assert_eq!(read_reply("$JS.ACK._.hash.s.c.2.42.7.1700000000000000000.0.x"), Some((42, true)));
        for reply in ["", "_INBOX.x", "$JS.ACK.s.c.x.1.1.1.1", "$JS.ACK.s"] {
            assert_eq!(read_reply(reply), None, "{reply}");
        }
    }
}
