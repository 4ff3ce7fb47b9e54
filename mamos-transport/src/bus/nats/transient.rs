//! Subscriptions to those messages that pass by.

use std::fmt;
use std::sync::Arc;

use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use mamos_core::Result;
use mamos_core::bus::{MAX_MESSAGE_BYTES, Receipt, Received, Subscription};
use mamos_core::id::{GroupName, TopicName};
use tokio::sync::{broadcast, oneshot};

use super::super::line::Line;
use super::parts::{Head, Joiner};
use super::session::{Session, closed, lost};

/// How many messages are taken before the pump looks at anything else.
const AT_ONCE: usize = 64;

pub(super) async fn subscribe(
    session: &Arc<Session>,
    topic: TopicName,
    group: Option<GroupName>,
) -> Result<Box<dyn Subscription>> {
    let (client, subjects) = (&session.client, session.subjects(&topic));
    let violations = session.violations();
    let whole = subjects.transient();
    // A server that takes the largest message whole is never sent parts.
    let parts_subject = (client.max_payload() < MAX_MESSAGE_BYTES).then(|| subjects.transient_part("*", "*"));
    // Before the heads, so that no head comes without its parts.
    let parts = match &parts_subject {
        Some(subject) => Some(client.subscribe(subject.clone()).await.map_err(lost)?),
        None => None,
    };
    let heads = match group {
        Some(group) => {
            client.queue_subscribe(whole.clone(), group.as_str().to_owned()).await.map_err(lost)?
        }
        None => client.subscribe(whole.clone()).await.map_err(lost)?,
    };
    let mut concerned = vec![whole];
    concerned.extend(parts_subject);
    session.round_trip(&concerned.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let line = Arc::new(Line::new());
    let (alive, ended) = oneshot::channel();
    let pump = Pump {
        session: Arc::clone(session),
        line: Arc::clone(&line),
        heads,
        parts,
        joiner: Joiner::default(),
        concerned,
        violations,
    };
    tokio::spawn(pump.run(ended));
    Ok(Box::new(TransientSubscription { topic, line, _alive: alive }))
}

struct TransientSubscription {
    topic: TopicName,
    line: Arc<Line>,
    /// Its end ends the pump.
    _alive: oneshot::Sender<()>,
}

#[async_trait]
impl Subscription for TransientSubscription {
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

impl fmt::Debug for TransientSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsSubscription({}, Transient)", self.topic)
    }
}

/// Takes messages from the client at once, so that a slow subscriber fills only its own line.
struct Pump {
    session: Arc<Session>,
    line: Arc<Line>,
    heads: Subscriber,
    parts: Option<Subscriber>,
    joiner: Joiner,
    concerned: Vec<String>,
    violations: broadcast::Receiver<Arc<str>>,
}

impl Pump {
    async fn run(mut self, mut ended: oneshot::Receiver<()>) {
        let mut closing = self.session.closing();
        loop {
            tokio::select! {
                head = self.heads.next() => match head {
                    Some(message) => self.take_ready(message),
                    None => return self.line.end(None),
                },
                Some(part) = next(&mut self.parts) => self.take_part(part),
                Ok(violation) = self.violations.recv() => {
                    let concerned: Vec<_> = self.concerned.iter().map(String::as_str).collect();
                    if let Some(error) = self.session.denied(&violation, &concerned) {
                        return self.line.end(Some(error));
                    }
                }
                _ = &mut ended => return,
                () = closed(&mut closing) => return self.line.end(None),
            }
        }
    }

    /// Takes a message and those that have come with it: waiting for each anew, with all else that may happen,
    /// costs more than the message.
    fn take_ready(&mut self, first: Message) {
        self.take(first);
        for _ in 1..AT_ONCE {
            // An end is seen again by whoever waits next.
            let Some(Some(message)) = self.heads.next().now_or_never() else { return };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        if message.payload.len() > MAX_MESSAGE_BYTES {
            tracing::warn!(target: "mamos::bus", subject = %message.subject, bytes = message.payload.len(),
                "a message that no bus wrote is dropped: it is too large; find out who publishes there");
            return;
        }
        match Head::of(message.headers.as_ref()) {
            None => self.line.push_transient(message.payload),
            Some(head) => match head.and_then(|head| self.join(&head)) {
                Some(payload) => self.line.push_transient(payload),
                None => {
                    tracing::debug!(target: "mamos::bus", "a large message is dropped: parts of it are missing")
                }
            },
        }
    }

    /// The parts came before the head: whatever has not been looked at is there by now.
    fn join(&mut self, head: &Head) -> Option<Bytes> {
        while let Some(Some(part)) = next(&mut self.parts).now_or_never() {
            self.take_part(part);
        }
        self.joiner.join(head)
    }

    fn take_part(&mut self, part: Message) {
        let mut tokens = part.subject.rsplit('.');
        let number = tokens.next().and_then(|token| token.parse().ok());
        if let (Some(number), Some(id)) = (number, tokens.next()) {
            self.joiner.take(id, number, part.payload);
        }
    }
}

/// The next part; never, where there are none.
async fn next(parts: &mut Option<Subscriber>) -> Option<Message> {
    match parts {
        Some(parts) => parts.next().await,
        None => std::future::pending().await,
    }
}
