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
use mamos_core::bus::{MAX_MESSAGE_BYTES, Receipt, Received, Subscription};
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
/// How long a request for messages stands at the server. Short, because a subscription that ends stays for
/// that long to give back what the last one brings.
const REQUEST_LASTS: Duration = Duration::from_secs(2);
/// The same for one that takes what is there.
const FLOW_LASTS: Duration = Duration::from_millis(5);
/// How long the server may be silent about a request beyond its time.
const REQUEST_GRACE: Duration = Duration::from_millis(500);
/// How long it may be silent about one that takes what is there, at first; each time that it says nothing doubles
/// that. It should end with the last message or with a word, but servers of version 2.9 forget some without.
const FLOW_PATIENCE: Duration = Duration::from_millis(20);
/// The pause before a stream or consumer that is gone is made again.
const REPAIR_PAUSE: Duration = Duration::from_millis(500);
/// How long a subscription that ends waits for what is on its way to it.
const END_LASTS: Duration = Duration::from_secs(2);

pub(super) async fn subscribe(
    session: &Arc<Session>,
    topic: TopicName,
    group: GroupName,
) -> Result<Box<dyn Subscription>> {
    let subjects = session.subjects(&topic);
    let mut violations = session.violations();
    let work = async {
        session.until_connected().await;
        tokio::select! {
            biased;
            // The request itself would only be answered by silence.
            error = session.until_denied(&mut violations, |subject| subjects.concern(subject)) => Err(error),
            ensured = streams::ensure(session, &topic, &group) => ensured,
        }
    };
    timeout(session.settings.publish_timeout, work)
        .await
        .unwrap_or_else(|_| Err(session.unavailable("bus.subscribe")))?;
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
        is_flowing: false,
        requested: 0,
        request_ends: Instant::now(),
        patience: FLOW_PATIENCE,
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
    /// Were there messages when last asked?
    is_flowing: bool,
    /// How many messages were asked for and have not come.
    requested: usize,
    /// When the request is taken for forgotten.
    request_ends: Instant,
    /// How long the server may be silent about a request that takes what is there.
    patience: Duration,
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
                        // The server may have forgotten what was asked on the connection before.
                        (self.requested, self.is_flowing) = (0, false);
                    }
                }
                _ = upkeep.tick() => self.keep().await,
                () = tokio::time::sleep_until(repair_at) => self.repair().await,
                error = self.session.until_denied(&mut violations, |subject| self.subjects.concern(subject)) => {
                    self.shared.line.end(Some(error));
                    break;
                }
            }
        }
        while let Ok((number, held)) = acknowledged.try_recv() {
            self.acknowledge(number, held).await;
        }
        self.shared.line.end(None);
        self.give_back().await;
    }

    /// Asks for messages if there is room for them and no request stands.
    ///
    /// A request cannot be taken back. So only one message is waited for at a time, and when it has come,
    /// whatever is there is asked for: a subscription that ends leaves a request for one message behind.
    async fn ask(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.repair_at.is_some() || (self.requested > 0 && now < self.request_ends) {
            return Ok(());
        }
        if self.requested > 0 && self.is_flowing {
            // A server that is only slow must not be asked for more and more.
            self.patience = (self.patience * 2).min(REQUEST_LASTS);
        }
        let room = PREFETCH.saturating_sub(self.shared.line.len());
        let count = room.min(UNACKNOWLEDGED.saturating_sub(self.shared.held().len()));
        self.request_ends = now + REQUEST_LASTS + REQUEST_GRACE;
        self.requested = 0;
        if count < PREFETCH / 2 {
            // Few at a time would cost a request each. Looked at again when something is received.
            return Ok(());
        }
        let body = if self.is_flowing {
            self.requested = count;
            self.request_ends = now + FLOW_LASTS + self.patience;
            // Without waiting at all, the server would not say when a part of the count is all there is.
            format!(r#"{{"batch":{count},"expires":{}}}"#, FLOW_LASTS.as_nanos())
        } else {
            self.requested = 1;
            format!(r#"{{"batch":1,"expires":{}}}"#, REQUEST_LASTS.as_nanos())
        };
        let sent =
            self.session.client.publish_with_reply(self.request.clone(), self.inbox.clone(), body.into());
        sent.await.map_err(lost)
    }

    async fn take(&mut self, message: Message) {
        match message.status {
            None => {}
            // Keeps a connection alive.
            Some(StatusCode::IDLE_HEARTBEAT) => return,
            // It had its time.
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => {
                (self.requested, self.is_flowing) = (0, false);
                return;
            }
            // The stream or the consumer is gone, or not back yet.
            Some(status) => {
                tracing::debug!(target: "mamos::bus", topic = %self.topic, %status, "a request for messages ended");
                (self.requested, self.is_flowing) = (0, false);
                self.repair_at.get_or_insert(Instant::now() + REPAIR_PAUSE);
                return;
            }
        }
        self.requested = self.requested.saturating_sub(1);
        self.is_flowing = true;
        self.patience = FLOW_PATIENCE;
        self.request_ends = Instant::now() + FLOW_LASTS + FLOW_PATIENCE;
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
        if message.payload.len() > MAX_MESSAGE_BYTES {
            tracing::warn!(target: "mamos::bus", topic = %self.topic, number, bytes = message.payload.len(),
                "a message that no bus wrote is dropped: it is too large; find out who publishes there");
            return self.say(reply, ACK).await;
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
        let held = std::mem::take(&mut *self.shared.held());
        let work = async {
            // A request that takes what is there ends in a moment. Servers of version 2.9 forget, until
            // `redeliver_after`, what is given back in the moment in which a request ends.
            let mut replies: Vec<_> = held.into_values().map(|held| held.reply).collect();
            while self.is_flowing
                && let Some(reply) = self.last_request().await
            {
                replies.push(reply);
            }
            for reply in replies {
                self.say(reply, NAK).await;
            }
            // What a request that waits still brings goes back too. Unsubscribing while it stands would lose
            // messages until `redeliver_after`: the server takes them in hand before it looks for listeners.
            while let Some(reply) = self.last_request().await {
                self.say(reply, NAK).await;
            }
        };
        // Without a connection nothing can be given back; the server notices by itself.
        let _ = timeout(REQUEST_LASTS + END_LASTS, work).await;
    }

    /// The next message that the last request brings; `None` once it has ended.
    async fn last_request(&mut self) -> Option<Subject> {
        while self.requested > 0 {
            let message = self.messages.next().await?;
            match (message.status, message.reply) {
                (None, Some(reply)) => {
                    self.requested -= 1;
                    return Some(reply);
                }
                (Some(StatusCode::IDLE_HEARTBEAT), _) => {}
                _ => self.requested = 0,
            }
        }
        None
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

const STREAM_REPLY: &str = "$JS.ACK.";
const ACK: &[u8] = b"+ACK";
const NAK: &[u8] = b"-NAK";
const IN_PROGRESS: &[u8] = b"+WPI";

/// The number in the stream, and whether it was delivered before, from
/// `$JS.ACK.stream.consumer.deliveries.stream-number.consumer-number.time.pending` or the longer form of
/// later servers, which has a domain and an account in front.
fn read_reply(reply: &str) -> Option<(u64, bool)> {
    let tokens: Vec<_> = reply.strip_prefix(STREAM_REPLY)?.split('.').collect();
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
