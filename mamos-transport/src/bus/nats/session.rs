//! The connection, the server's answers, and its complaints.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, ConnectErrorKind, Event, ServerAddr, ServerError, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use mamos_core::id::TopicName;
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;

use super::settings::NatsSettings;
use super::subjects::Subjects;

/// An answer, and the tag that was asked with.
pub(super) type Answer = (u32, async_nats::Message);

/// What everything of one bus shares.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) settings: NatsSettings,
    /// Without secrets.
    pub(super) name: String,
    /// Topics that had a stream when last asked.
    durable_topics: Mutex<HashSet<TopicName>>,
    inbox: String,
    calls: Arc<Calls>,
    signals: Arc<Signals>,
    closing: watch::Sender<bool>,
}

#[derive(Default)]
struct Calls {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::UnboundedSender<Answer>>>,
}

struct Signals {
    /// How often a connection was made; 0 in between is not told apart.
    connected: watch::Sender<Connected>,
    /// What the server said against a subject.
    violations: broadcast::Sender<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connected {
    pub(super) is_up: bool,
    pub(super) count: u64,
}

/// A question whose answers are awaited. Dropping it forgets them.
pub(super) struct Call<'a> {
    session: &'a Session,
    id: u64,
    answers: mpsc::UnboundedReceiver<Answer>,
    violations: broadcast::Receiver<Arc<str>>,
}

impl Session {
    pub(super) async fn connect(settings: NatsSettings) -> Result<Arc<Self>> {
        let servers = settings.servers()?;
        let signals = Arc::new(Signals {
            connected: watch::Sender::new(Connected { is_up: true, count: 1 }),
            violations: broadcast::Sender::new(KEPT_VIOLATIONS),
        });
        let heard = Arc::clone(&signals);
        let options = settings.options(&servers)?.event_callback(move |event| {
            heard.take(event);
            std::future::ready(())
        });
        let name = name(&servers, &settings.prefix);
        let client = timeout(settings.publish_timeout, options.connect(&servers[..]))
            .await
            .map_err(|_| no_answer(&name))?
            .map_err(|error| connect_error(&error, &name))?;
        let inbox = client.new_inbox();
        let calls = Arc::new(Calls::default());
        let session = Arc::new(Self {
            client,
            settings,
            name,
            durable_topics: Mutex::default(),
            inbox,
            calls: Arc::clone(&calls),
            signals,
            closing: watch::Sender::new(false),
        });
        let answers = session.client.subscribe(format!("{}.>", session.inbox)).await.map_err(lost)?;
        tokio::spawn(hand_out(answers, calls, session.closing.subscribe()));
        session.round_trip(&[]).await?;
        Ok(session)
    }

    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Turns true when the bus closes.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(super) fn check_open(&self, operation: &'static str) -> Result<()> {
        match *self.closing.borrow() {
            true => Err(Error::new(ErrorKind::Closed, operation, "the bus is closed")),
            false => Ok(()),
        }
    }

    pub(super) fn connected(&self) -> watch::Receiver<Connected> {
        self.signals.connected.subscribe()
    }

    pub(super) fn violations(&self) -> broadcast::Receiver<Arc<str>> {
        self.signals.violations.subscribe()
    }

    pub(super) fn subjects(&self, topic: &TopicName) -> Subjects {
        Subjects::new(&self.settings.prefix, topic)
    }

    pub(super) fn durable_topics(&self) -> MutexGuard<'_, HashSet<TopicName>> {
        self.durable_topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while there is no connection. The caller bounds the time.
    pub(super) async fn until_connected(&self) {
        // The sender lives in `self`.
        let _ = self.connected().wait_for(|connected| connected.is_up).await;
    }

    pub(super) fn call(&self) -> Call<'_> {
        let id = self.calls.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = mpsc::unbounded_channel();
        self.calls.lock().insert(id, sender);
        Call { session: self, id, answers, violations: self.violations() }
    }

    /// Goes to the server and back: what was asked before is in force.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] if the server complained about one of the subjects or about the inbox.
    pub(super) async fn round_trip(&self, subjects: &[&str]) -> Result<()> {
        let work = async {
            self.until_connected().await;
            let mut call = self.call();
            self.client.publish(call.reply(0), Bytes::new()).await.map_err(lost)?;
            call.next(subjects).await?;
            // The complaint came before the answer, on another way through the client.
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
            }
            call.check_violations(subjects)
        };
        timeout(self.settings.publish_timeout, work)
            .await
            .unwrap_or_else(|_| Err(self.unavailable("bus.subscribe")))
    }

    pub(super) fn unavailable(&self, operation: &'static str) -> Error {
        let message = format!(
            "{} did not answer within {:?}; see whether the server runs, or try again",
            self.name, self.settings.publish_timeout
        );
        Error::new(ErrorKind::Unavailable, operation, message)
    }
}

impl Call<'_> {
    /// Where the answer with this tag goes.
    pub(super) fn reply(&self, tag: u32) -> String {
        format!("{}.{}.{tag}", self.session.inbox, self.id)
    }

    /// The next answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] if the server complains about one of the subjects instead.
    pub(super) async fn next(&mut self, subjects: &[&str]) -> Result<Answer> {
        loop {
            tokio::select! {
                biased;
                Some(answer) = self.answers.recv() => return Ok(answer),
                Ok(violation) = self.violations.recv() => {
                    if let Some(error) = self.session.denied(&violation, subjects) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What the server complained about so far.
    pub(super) fn check_violations(&mut self, subjects: &[&str]) -> Result<()> {
        while let Ok(violation) = self.violations.try_recv() {
            if let Some(error) = self.session.denied(&violation, subjects) {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Session {
    /// Is this complaint about one of the subjects, or about our inbox?
    pub(super) fn denied(&self, violation: &str, subjects: &[&str]) -> Option<Error> {
        self.denied_if(violation, |subject| subjects.contains(&subject))
    }

    /// The same for subjects of which something holds.
    pub(super) fn denied_if(&self, violation: &str, is_concerned: impl Fn(&str) -> bool) -> Option<Error> {
        // `Permissions Violation for Publish to "mamos.t.a"`, and for a group: `… using queue "g"` after it.
        let subject = violation.split('"').nth(1)?;
        (subject.starts_with(&self.inbox) || is_concerned(subject)).then(|| {
            let message = format!(
                "NATS denies this user the subject {subject}, which the bus needs; give it the permissions that \
                 docs/bus-nats.md lists"
            );
            Error::new(ErrorKind::Denied, "bus", message).with_source(violation.to_owned())
        })
    }

    /// Waits until the server complains about a subject of which this holds.
    pub(super) async fn until_denied(
        &self,
        violations: &mut broadcast::Receiver<Arc<str>>,
        is_concerned: impl Fn(&str) -> bool,
    ) -> Error {
        loop {
            match violations.recv().await {
                Ok(violation) => {
                    if let Some(error) = self.denied_if(&violation, &is_concerned) {
                        return error;
                    }
                }
                // Missed some; who is denied once is denied again.
                Err(RecvError::Lagged(_)) => {}
                // The sender lives in `self`.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.session.calls.lock().remove(&self.id);
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signals {
    fn take(&self, event: Event) {
        match event {
            Event::Connected => self.connected.send_modify(|connected| {
                *connected = Connected { is_up: true, count: connected.count + 1 };
            }),
            Event::Disconnected | Event::Closed => {
                tracing::warn!(target: "mamos::bus", "the connection to NATS is lost; connecting again");
                self.connected.send_modify(|connected| connected.is_up = false);
            }
            Event::ServerError(ServerError::Other(text)) => {
                tracing::warn!(target: "mamos::bus", error = text, "NATS complains");
                // Nobody may be listening.
                let _ = self.violations.send(text.into());
            }
            other => tracing::debug!(target: "mamos::bus", event = %other, "NATS"),
        }
    }
}

/// Enough for a burst; who misses one meets the next, or the timeout.
const KEPT_VIOLATIONS: usize = 256;
/// How often other tasks get a turn before the complaints are looked through.
const YIELDS: usize = 8;

/// Brings the server's answers to those who asked.
async fn hand_out(mut answers: Subscriber, calls: Arc<Calls>, mut closing: watch::Receiver<bool>) {
    loop {
        let message = tokio::select! {
            message = answers.next() => message,
            () = closed(&mut closing) => None,
        };
        let Some(message) = message else { return };
        let mut tokens = message.subject.rsplit('.');
        let tag = tokens.next().and_then(|token| token.parse().ok());
        let id = tokens.next().and_then(|token| token.parse().ok());
        if let (Some(tag), Some(id)) = (tag, id)
            && let Some(waiting) = calls.lock().get(&id)
        {
            // It may have stopped waiting just now.
            let _ = waiting.send((tag, message));
        }
    }
}

/// Waits until the bus closes.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // Its sender being gone means the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Where it is, without users and passwords.
fn name(servers: &[ServerAddr], prefix: &str) -> String {
    let hosts: Vec<_> = servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
    format!("nats://{} ({prefix})", hosts.join(","))
}

fn no_answer(name: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "bus.connect", format!("{name} does not answer; see whether it runs"))
}

fn connect_error(error: &async_nats::ConnectError, name: &str) -> Error {
    let (kind, what) = match error.kind() {
        ConnectErrorKind::Authentication => (ErrorKind::Config, "the credentials cannot be used at"),
        ConnectErrorKind::AuthorizationViolation => {
            (ErrorKind::Denied, "the user, password, token or key is refused by")
        }
        ConnectErrorKind::ServerParse => (ErrorKind::Config, "the URL cannot be understood:"),
        _ if is_about_tls(error) => (ErrorKind::Config, "TLS fails; check the CA and the name in the URL of"),
        _ => return no_answer(name).with_source(error.to_string()),
    };
    Error::new(kind, "bus.connect", format!("{what} {name}")).with_source(error.to_string())
}

/// The client calls most of what goes wrong with TLS an error of input and output.
fn is_about_tls(error: &async_nats::ConnectError) -> bool {
    if error.kind() == ConnectErrorKind::Tls {
        return true;
    }
    let mut next = error.source();
    while let Some(source) = next {
        let inside = source.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        if source.is::<rustls::Error>() || inside.is_some_and(|inside| inside.is::<rustls::Error>()) {
            return true;
        }
        next = source.source();
    }
    false
}

/// The client gave up, which it does when the bus is dropped only.
pub(super) fn lost(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, "bus", "the connection to NATS is gone").with_source(error.to_string())
}
