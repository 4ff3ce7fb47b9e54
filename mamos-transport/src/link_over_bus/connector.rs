//! The agent's end: says hello, and waits for an orchestrator to answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::auth::PublicKey;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::transport::{Connection, Connector};
use mamos_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::connection::{BusConnection, Shared};
use super::counts::{Counts, LinkCounts};
use super::handshake::{Answer, Hello, Refusal, Reply};
use super::names::{self, ConnectionId, Direction, LinkName};
use super::pump::{self, BUS_PAUSE, Pace};
use super::secrets::{Exchange, Opener, Sealer, Secrets, random};
use super::settings::LinkSettings;

/// A hello is said so often while nobody answers, at the least: it or the answer may have been lost.
const HELLO_AGAIN: Duration = Duration::from_secs(1);
/// How many hellos fit into the time for connecting.
const HELLOS: u32 = 5;

/// Connects an agent to one of the orchestrators that [listen](super::LinkOverBusListener) on the same bus.
/// Clones count together.
#[derive(Clone)]
pub struct LinkOverBusConnector {
    bus: Arc<dyn Bus>,
    settings: LinkSettings,
    name: LinkName,
    pinned: Vec<PublicKey>,
    counts: Arc<Counts>,
}

impl LinkOverBusConnector {
    /// A connector whose links have a random name.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: a setting is out of its bounds.
    /// - [`ErrorKind::Unavailable`]: the system gives no random numbers.
    pub fn new(bus: Arc<dyn Bus>, settings: LinkSettings) -> Result<Self> {
        settings.check()?;
        let (name, counts) = (LinkName::fresh()?, Arc::default());
        Ok(Self { bus, settings, name, pinned: Vec::new(), counts })
    }

    /// Names the links, for example after the agent's user at the broker: its topics then begin with
    /// `link.`, the name, and a dot.
    #[must_use]
    pub fn with_name(mut self, name: LinkName) -> Self {
        self.name = name;
        self
    }

    /// Takes only orchestrators that have this key. May be called for several keys, of which one is enough.
    ///
    /// Without a pinned key the agent trusts the broker: whoever it lets take hellos and publish to the
    /// agent's topic is the orchestrator for the agent, and may give it any work.
    #[must_use]
    pub fn with_pinned_key(mut self, key: PublicKey) -> Self {
        self.pinned.push(key);
        self
    }

    /// What its links dropped.
    pub fn counts(&self) -> LinkCounts {
        self.counts.get()
    }

    /// Says hello until an answer comes that can be used.
    async fn agreed(
        &self,
        subscription: &mut dyn Subscription,
        hello: &Bytes,
        exchange: &Exchange,
        id: ConnectionId,
        seen: &mut Seen,
    ) -> Result<(Secrets, Answer)> {
        let again = HELLO_AGAIN.min(self.settings.connect_timeout / HELLOS);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + again;
                    let topic = self.settings.hello_topic.clone();
                    match self.bus.publish(vec![Message { topic, payload: hello.clone() }]).await {
                        Err(error) if error.kind() == ErrorKind::Unavailable => seen.error = Some(error),
                        published => published?,
                    }
                }
                received = subscription.receive() => match received {
                    Ok(Some(received)) => {
                        if let Some(agreed) = self.judge(hello, &received.payload, exchange, id, seen) {
                            return Ok(agreed);
                        }
                    }
                    Ok(None) => {
                        return Err(Error::new(ErrorKind::Unavailable, "link.connect", "the bus is closed"));
                    }
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        seen.error = Some(error);
                        tokio::time::sleep(BUS_PAUSE).await;
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Is this an answer that can be used? Anything else is dropped: somebody may want to keep the agent
    /// from the right one.
    fn judge(
        &self,
        hello: &[u8],
        payload: &[u8],
        exchange: &Exchange,
        id: ConnectionId,
        seen: &mut Seen,
    ) -> Option<(Secrets, Answer)> {
        let agreed = match Reply::read(hello, payload) {
            Some(Reply::Refusal(refusal)) => {
                seen.refusal = Some(refusal);
                return None;
            }
            Some(Reply::Answer(answer)) if !self.pinned.is_empty() && !answer.is_signed_by(&self.pinned) => {
                seen.is_mismatch = true;
                None
            }
            Some(Reply::Answer(answer)) => {
                exchange.agree(&answer.half, &answer.transcript, id).map(|secrets| (secrets, answer))
            }
            None => None,
        };
        if agreed.is_none() {
            self.counts.add(|counts| counts.unusable += 1);
        }
        agreed
    }
}

#[async_trait]
impl Connector for LinkOverBusConnector {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        let (id, exchange) = (ConnectionId(random()?), Exchange::new()?);
        let topic = names::topic(&self.name, id, Direction::Down)?;
        let up = names::topic(&self.name, id, Direction::Up)?;
        let silence = self.settings.silence;
        let hello = Hello { id, half: *exchange.public(), silence, name: self.name.clone() }.write();
        let mut seen = Seen::default();
        let limit = self.settings.connect_timeout;
        let agreed = tokio::time::timeout(limit, async {
            let subscribe = Subscribe { topic, group: None, delivery: Delivery::Transient };
            let mut subscription = self.bus.subscribe(subscribe).await?;
            let agreed = self.agreed(&mut *subscription, &hello, &exchange, id, &mut seen).await?;
            Ok::<_, Error>((subscription, agreed))
        });
        let (subscription, (secrets, answer)) =
            agreed.await.unwrap_or_else(|_| Err(seen.into_error(&self.describe(), limit)))?;
        let pace = Pace {
            silence,
            first_within: silence,
            ping_every: self.settings.ping_every(answer.silence),
            is_eager: true,
        };
        let keys = (Sealer::new(secrets.up), Opener::new(secrets.down));
        let counts = Arc::clone(&self.counts);
        let shared = Shared::new(&*self.bus, &self.settings, up, keys, secrets.binding, counts);
        let shared = Arc::new(shared);
        // The orchestrator begins once it has heard the agent.
        shared.ping();
        let connection = BusConnection::new(Arc::clone(&shared), self.name.clone(), None);
        tokio::spawn(pump::run(Arc::clone(&self.bus), subscription, shared, pace));
        Ok(Arc::new(connection))
    }

    fn describe(&self) -> String {
        format!("link {} over {}", self.name, self.bus.describe())
    }
}

impl fmt::Debug for LinkOverBusConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkOverBusConnector({})", self.describe())
    }
}

/// What was seen while no usable answer came.
#[derive(Debug, Default)]
struct Seen {
    is_mismatch: bool,
    refusal: Option<Refusal>,
    error: Option<Error>,
}

impl Seen {
    fn into_error(self, address: &str, limit: Duration) -> Error {
        let unavailable = |message| Error::new(ErrorKind::Unavailable, "link.connect", message);
        if let Some(refusal) = self.refusal {
            return unavailable(format!(
                "{address}: an orchestrator refused: {}; try again later",
                refusal.reason()
            ));
        }
        if self.is_mismatch {
            let message = format!(
                "{address}: who answered does not have the pinned key; ask who runs the orchestrator whether it \
                 was changed"
            );
            return Error::new(ErrorKind::Config, "link.connect", message);
        }
        let message = format!("{address}: no orchestrator answered within {limit:?}; does one listen there?");
        match self.error {
            Some(error) => unavailable(message).with_source(error),
            None => unavailable(message),
        }
    }
}
