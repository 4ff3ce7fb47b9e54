//! A connection that comes back.

use std::io;
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::{ConnectionProperties, Event};
use mamos_core::Result;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};

use super::failure::{closed, no_connection, said, unavailable};
use super::settings::Checked;

/// The first pause before connecting again is at most this; the bound doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// With the time it takes to connect, this lets work go on within 5 s of the server's return.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// lapin tells of a loss by an event; this is for one that it does not tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection, for as long as it lives.
pub(super) struct Live {
    pub(super) connection: lapin::Connection,
    /// Is the exchange known to be there?
    pub(super) has_exchange: AtomicBool,
    socket: Arc<Socket>,
}

impl Live {
    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // lapin writes nothing while the broker blocks it, so it could not even say goodbye.
        if self.connection.status().blocked() {
            self.socket.end();
        }
    }
}

#[derive(Clone)]
enum State {
    Up(Arc<Live>),
    /// Messages can come, but none can be published, for this reason.
    Blocked(Arc<Live>, Arc<str>),
    Down(Arc<str>),
    Closed,
}

/// What a connection is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Publishing,
    Consuming,
}

/// Keeps a connection, and makes a new one when it is lost. It ends when this is dropped.
pub(super) struct Connector {
    state: watch::Receiver<State>,
    purpose: Purpose,
    checked: Arc<Checked>,
    task: AbortHandle,
}

impl Connector {
    /// Connects for the first time.
    pub(super) async fn open(checked: Arc<Checked>, purpose: Purpose) -> Result<Self> {
        let live = Arc::new(connect(&checked, purpose).await?);
        let (sender, state) = watch::channel(State::Up(Arc::clone(&live)));
        let task = tokio::spawn(keep(Arc::clone(&checked), purpose, Announced(sender), live));
        Ok(Self { state, purpose, checked, task: task.abort_handle() })
    }

    /// Waits for a connection, at most until then.
    pub(super) async fn ready(&self, operation: &'static str, until: Instant) -> Result<Arc<Live>> {
        match timeout_at(until, self.next_live()).await {
            Ok(live) => live.ok_or_else(|| closed(operation)),
            Err(_) => Err(self.trouble(operation)),
        }
    }

    /// Waits for a connection as long as it takes. `None` once the bus is closed.
    pub(super) async fn next_live(&self) -> Option<Arc<Live>> {
        let mut state = self.state.clone();
        let purpose = self.purpose;
        let found = state.wait_for(|state| match state {
            State::Up(live) => live.is_connected(),
            State::Blocked(live, _) => purpose == Purpose::Consuming && live.is_connected(),
            State::Down(_) => false,
            State::Closed => true,
        });
        match &*found.await.ok()? {
            State::Up(live) | State::Blocked(live, _) => Some(Arc::clone(live)),
            State::Down(_) | State::Closed => None,
        }
    }

    /// Waits until the broker blocks this connection.
    pub(super) async fn blocked(&self) {
        let mut state = self.state.clone();
        if state.wait_for(|state| matches!(state, State::Blocked(..))).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the bus is closed.
    pub(super) async fn closed(&self) {
        // An error says the same.
        let _ = self.state.clone().wait_for(|state| matches!(state, State::Closed)).await;
    }

    /// Ends the connection for all who hold it.
    pub(super) fn close(&self) {
        self.task.abort();
    }

    /// Why nothing goes on.
    pub(super) fn trouble(&self, operation: &'static str) -> mamos_core::Error {
        let place = &self.checked.place;
        match &*self.state.borrow() {
            State::Closed => closed(operation),
            State::Blocked(_, reason) => unavailable(
                operation,
                format!(
                    "{place} takes no messages at the moment ({reason}); free its memory or disk, or raise \
                     vm_memory_high_watermark or lower disk_free_limit"
                ),
            ),
            State::Down(reason) => {
                unavailable(operation, format!("no connection to {place}: {reason}; try again later"))
            }
            State::Up(_) => {
                unavailable(operation, format!("{place} does not answer; some may have been done; try again"))
            }
        }
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.close();
    }
}

/// Tells that it is over when the task that holds it is.
struct Announced(watch::Sender<State>);

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.send_replace(State::Closed);
    }
}

async fn keep(checked: Arc<Checked>, purpose: Purpose, state: Announced, mut live: Arc<Live>) {
    loop {
        let reason = until_lost(&live, &state.0).await;
        tracing::warn!(target: "mamos::bus", place = checked.place, ?purpose, reason, "lost the connection");
        state.0.send_replace(State::Down(reason.into()));
        drop(live);
        let mut bound = FIRST_PAUSE;
        live = loop {
            // Full jitter: clients of one broker must not all come at once.
            tokio::time::sleep(bound.mul_f64(fastrand::f64())).await;
            match connect(&checked, purpose).await {
                Ok(live) => break Arc::new(live),
                Err(error) => {
                    tracing::debug!(target: "mamos::bus", %error, "cannot connect yet");
                    state.0.send_replace(State::Down(error.message().into()));
                    bound = (bound * 2).min(LONGEST_PAUSE);
                }
            }
        };
        tracing::info!(target: "mamos::bus", place = checked.place, ?purpose, "connected again");
        state.0.send_replace(State::Up(Arc::clone(&live)));
    }
}

/// Follows what the connection tells until it is lost, and gives the reason.
async fn until_lost(live: &Arc<Live>, state: &watch::Sender<State>) -> String {
    let mut events = std::pin::pin!(live.connection.events_listener());
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reason = None;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = look.tick() => None,
        };
        match event {
            Some(Event::ConnectionBlocked(why)) => {
                tracing::warn!(target: "mamos::bus", reason = why, "the broker takes no messages");
                state.send_replace(State::Blocked(Arc::clone(live), why.into()));
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!(target: "mamos::bus", "the broker takes messages again");
                state.send_replace(State::Up(Arc::clone(live)));
            }
            Some(Event::Error(error)) => reason = Some(said(&error)),
            _ => {}
        }
        if !live.is_connected() {
            return reason.unwrap_or_else(|| "it ended".to_owned());
        }
    }
}

async fn connect(checked: &Checked, purpose: Purpose) -> Result<Live> {
    let socket = Arc::new(Socket::default());
    // Also when the caller goes away: lapin's thread would wait for the handshake's next step for ever.
    let unless_done = EndOnDrop(Some(Arc::clone(&socket)));
    let within = checked.settings.timeout;
    match timeout(within, open(checked, purpose, Arc::clone(&socket))).await {
        Ok(Ok(connection)) => {
            unless_done.disarm();
            Ok(Live { connection, has_exchange: AtomicBool::new(false), socket })
        }
        Ok(Err(error)) => Err(no_connection(&checked.place, &error)),
        Err(_) => {
            let place = &checked.place;
            let message =
                format!("no connection to {place} within {within:?}; check that RabbitMQ runs there");
            Err(unavailable("bus.connect", message))
        }
    }
}

async fn open(checked: &Checked, purpose: Purpose, socket: Arc<Socket>) -> lapin::Result<lapin::Connection> {
    let tls = checked.tls.clone();
    let within = checked.settings.timeout;
    let runtime = lapin::runtime::default_runtime()?;
    // Recovery is ours: what comes back must not be acknowledged with what was there before.
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("mamos {} {purpose:?}", checked.settings.exchange).into());
    lapin::Connection::connector(
        checked.uri.clone(),
        runtime,
        async move |uri, runtime| {
            let host = uri.authority.host;
            let addresses = runtime.to_socket_addrs((host.clone(), uri.authority.port));
            let connecting = async {
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    // Small messages must not wait for each other.
                    plain.get_ref().set_nodelay(true)?;
                    #[cfg(unix)]
                    socket.keep(plain.get_ref().as_fd().try_clone_to_owned()?.into());
                }
                match &tls {
                    None => Ok(stream),
                    Some(config) => {
                        stream.into_rustls(&RustlsConnector::from(Arc::clone(config)), &host).await
                    }
                }
            };
            match timeout(within, connecting).await {
                Ok(connected) => Ok(connected?),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        },
        properties,
    )
    .await
}

/// A second handle on a connection's socket, to end it when lapin cannot.
#[derive(Default)]
struct Socket {
    is_over: AtomicBool,
    stream: Mutex<Option<TcpStream>>,
}

impl Socket {
    #[cfg_attr(not(unix), allow(dead_code, reason = "only there can the socket be had twice"))]
    fn keep(&self, stream: TcpStream) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        if self.is_over.load(Ordering::SeqCst) {
            self.end();
        }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(stream) = &*self.stream.lock().unwrap_or_else(PoisonError::into_inner) {
            // Fails when the other side was first.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

struct EndOnDrop(Option<Arc<Socket>>);

impl EndOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.end();
        }
    }
}
