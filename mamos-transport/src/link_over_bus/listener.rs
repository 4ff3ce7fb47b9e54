//! The orchestrator's end: takes hellos as one of a group, and answers them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::auth::PublicKey;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::transport::{Connection, Listener};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::connection::{BusConnection, End, Shared};
use super::counts::{Counts, LinkCounts};
use super::handshake::{Answer, Hello, Refusal};
use super::names::{self, ConnectionId, Direction};
use super::pump::{self, BUS_PAUSE, FAREWELL_WITHIN, Pace};
use super::refusals::Refusals;
use super::registry::{Registry, Verdict};
use super::secrets::{Exchange, Opener, Sealer};
use super::settings::LinkSettings;

/// The longest pause before a listener whose subscription failed subscribes again.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Connections that were heard and wait to be accepted. There are never more than half-open ones.
type Waiting = (ConnectionId, Arc<BusConnection>);

/// Takes connections of [agents](super::LinkOverBusConnector) over a bus, as one of a group of orchestrators.
///
/// When it is dropped it takes no more; the connections that it gave out go on. To end these as well, and have
/// their agents look for another orchestrator at once, [close](Self::close) it.
pub struct LinkOverBusListener {
    inner: Arc<Inner>,
    waiting: tokio::sync::Mutex<UnboundedReceiver<Waiting>>,
    listening: JoinHandle<()>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    settings: LinkSettings,
    registry: Registry,
    refusals: Arc<Refusals>,
    counts: Arc<Counts>,
}

impl LinkOverBusListener {
    /// Begins to take hellos. Must be called on a Tokio runtime, and listens there until it is dropped.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: a setting is out of its bounds.
    /// - anything that [`Bus::subscribe`] gives.
    pub async fn bind(bus: Arc<dyn Bus>, settings: LinkSettings) -> Result<Self> {
        settings.check()?;
        let (registry, refusals, counts) = (Registry::default(), Arc::default(), Arc::default());
        let inner = Arc::new(Inner { bus, settings, registry, refusals, counts });
        let subscription = inner.subscribe().await?;
        let (sender, receiver) = unbounded_channel();
        let listening = tokio::spawn(listen(Arc::clone(&inner), subscription, sender));
        Ok(Self { inner, waiting: tokio::sync::Mutex::new(receiver), listening })
    }

    /// What agents can [pin](super::LinkOverBusConnector::with_pinned_key): the public half of its signing
    /// key, which it prints as base64url. `None` if it does not sign.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.inner.settings.signing_key.as_ref().map(|key| key.public_key())
    }

    /// What it and its connections dropped.
    pub fn counts(&self) -> LinkCounts {
        self.inner.counts.get()
    }

    /// Takes no connection any more, and ends those that it gave out: their agents are told. Waits until that
    /// is done, or two seconds.
    pub async fn close(&self) {
        self.listening.abort();
        for shared in self.inner.registry.close() {
            shared.end(End::Left);
        }
        let _ = tokio::time::timeout(2 * FAREWELL_WITHIN, self.inner.registry.empty()).await;
    }
}

impl Drop for LinkOverBusListener {
    fn drop(&mut self) {
        self.listening.abort();
        for shared in self.inner.registry.close_half_open() {
            shared.end(End::Left);
        }
    }
}

#[async_trait]
impl Listener for LinkOverBusListener {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        match self.waiting.lock().await.recv().await {
            Some((id, connection)) => {
                self.inner.registry.accepted(id);
                Ok(connection)
            }
            None => Err(Error::new(ErrorKind::Closed, "link.accept", "the bus or the listener is closed")),
        }
    }

    fn describe(&self) -> String {
        format!("links from {} over {}", self.inner.settings.hello_topic, self.inner.bus.describe())
    }
}

impl fmt::Debug for LinkOverBusListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkOverBusListener({}, {} links)", self.describe(), self.inner.registry.len())
    }
}

/// Takes hellos until the bus is closed.
async fn listen(
    inner: Arc<Inner>,
    mut subscription: Box<dyn Subscription>,
    waiting: UnboundedSender<Waiting>,
) {
    let mut pause = BUS_PAUSE;
    loop {
        let error = match subscription.receive().await {
            Ok(Some(received)) => {
                pause = BUS_PAUSE;
                inner.take(received.payload, &waiting).await;
                // A flood must not keep the thread from others.
                tokio::task::consume_budget().await;
                continue;
            }
            Ok(None) => return,
            Err(error) => error,
        };
        tracing::warn!(target: "mamos::link", %error, "no hellos come from the bus; subscribing again");
        loop {
            tokio::time::sleep(pause).await;
            pause = MAX_PAUSE.min(2 * pause);
            match inner.subscribe().await {
                Ok(fresh) => {
                    subscription = fresh;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Closed => return,
                Err(error) => tracing::warn!(target: "mamos::link", %error, "cannot subscribe to hellos"),
            }
        }
    }
}

impl Inner {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let (topic, group) = (self.settings.hello_topic.clone(), Some(self.settings.group.clone()));
        self.bus.subscribe(Subscribe { topic, group, delivery: Delivery::Transient }).await
    }

    /// Takes what somebody published to the hello topic.
    async fn take(self: &Arc<Self>, bytes: Bytes, waiting: &UnboundedSender<Waiting>) {
        let Some(hello) = Hello::read(&bytes) else {
            self.counts.add(|counts| counts.unusable += 1);
            return;
        };
        let settings = &self.settings;
        let verdict = if self.refusals.is_suspect(&hello.name) {
            Verdict::Refuse(Refusal::Suspect)
        } else {
            self.registry.enter(hello.id, &bytes, settings.max_half_open, settings.max_links)
        };
        match verdict {
            Verdict::New => {
                let serving = Arc::clone(self).serve(hello, bytes, waiting.clone());
                tokio::spawn(serving);
            }
            Verdict::Again(answer) => self.reply(&hello, answer).await,
            Verdict::Drop => self.counts.add(|counts| counts.unusable += 1),
            Verdict::Refuse(refusal) => {
                self.counts.add(|counts| counts.refused += 1);
                self.reply(&hello, refusal.write()).await;
            }
        }
    }

    /// Publishes what agents read before there are keys. If it is lost the agent asks again.
    async fn reply(&self, hello: &Hello, payload: Bytes) {
        let Ok(topic) = names::topic(&hello.name, hello.id, Direction::Down) else { return };
        if let Err(error) = self.bus.publish(vec![Message { topic, payload }]).await {
            tracing::debug!(target: "mamos::link", %error, link = %hello.name, "a hello could not be answered");
            self.counts.add(|counts| counts.unpublished += 1);
        }
    }

    /// Makes a connection, hands it out once it was heard, and runs it to its end.
    async fn serve(self: Arc<Self>, hello: Hello, bytes: Bytes, waiting: UnboundedSender<Waiting>) {
        let _place = Place { inner: &self, id: hello.id };
        let limit = self.settings.connect_timeout;
        let Ok(Ok(made)) = tokio::time::timeout(limit, self.make(&hello, &bytes)).await else {
            self.counts.add(|counts| counts.unusable += 1);
            return;
        };
        let (shared, subscription, answer) = made;
        if !self.registry.made(hello.id, &shared, &answer) {
            return;
        }
        let pace = Pace {
            silence: self.settings.silence,
            first_within: limit,
            ping_every: self.settings.ping_every(hello.silence),
            is_eager: false,
        };
        let running = pump::run(Arc::clone(&self.bus), subscription, Arc::clone(&shared), pace);
        let handing_out = async {
            self.reply(&hello, answer).await;
            shared.heard.notified().await;
            // The agent need not say any more that it is there.
            shared.ping();
            let refusals = Some(Arc::clone(&self.refusals));
            let connection = BusConnection::new(Arc::clone(&shared), hello.name.clone(), refusals);
            // Without a listener it ends at once.
            let _ = waiting.send((hello.id, Arc::new(connection)));
            drop(waiting);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = running => {}
            () = handing_out => {}
        }
    }

    /// Agrees on keys, and listens to the agent. Gives the answer that is due.
    async fn make(&self, hello: &Hello, bytes: &[u8]) -> Result<(Arc<Shared>, Box<dyn Subscription>, Bytes)> {
        let exchange = Exchange::new()?;
        let key = self.settings.signing_key.as_deref();
        let (answer, transcript) = Answer::write(bytes, exchange.public(), self.settings.silence, key);
        let secrets = exchange.agree(&hello.half, &transcript, hello.id).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "link.accept", "the half of the key in a hello is not usable")
        })?;
        let topic = names::topic(&hello.name, hello.id, Direction::Up)?;
        // Before the answer, so that nothing of the agent is missed.
        let subscribe = Subscribe { topic, group: None, delivery: Delivery::Transient };
        let subscription = self.bus.subscribe(subscribe).await?;
        let topic = names::topic(&hello.name, hello.id, Direction::Down)?;
        let keys = (Sealer::new(secrets.down), Opener::new(secrets.up));
        let counts = Arc::clone(&self.counts);
        let shared = Shared::new(&*self.bus, &self.settings, topic, keys, secrets.binding, counts);
        Ok((Arc::new(shared), subscription, answer))
    }
}

/// Leaves the registry, however a connection ends.
struct Place<'a> {
    inner: &'a Inner,
    id: ConnectionId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.inner.registry.leave(self.id);
    }
}
