//! Serving a router over TCP, with TLS 1.3 or, on this machine only, without.
//!
//! Everything that a stranger can use up is bounded: connections, the time of a handshake and of the head of a
//! request, its size, the pauses in its body, and how long an answer may not be read. HTTP/1.1 only: agents and
//! browsers hold few connections, and one protocol is half of the surface.

mod connection;
mod io;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mamos_core::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::connection::Service;
pub use self::tls::Tls;
use crate::api::Api;

/// How long to wait after a failed accept, at first and at most: when files run out, trying again at once
/// would only burn the processor.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// The most connections that can be asked for: what a semaphore counts in one step.
const MOST_CONNECTIONS: usize = 1_000_000;

/// A listening server. Connections that arrive wait until it runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    settings: Settings,
}

/// Settings of a [`Server`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ServerBuilder {
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    allows_plain_text: bool,
    settings: Settings,
}

#[derive(Debug, Clone)]
struct Settings {
    max_connections: usize,
    handshake_timeout: Duration,
    header_timeout: Duration,
    body_timeout: Duration,
    write_timeout: Duration,
    shutdown_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

impl Server {
    /// Begins a server on this address; port 0 takes any that is free.
    pub fn builder(address: SocketAddr) -> ServerBuilder {
        ServerBuilder { address, tls: None, allows_plain_text: false, settings: Settings::default() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificate, if it has one.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Serves an API until `shutdown` resolves, then ends its streams in words and stops as [`Server::run`].
    pub async fn run_api(self, api: &Api, shutdown: impl Future<Output = ()> + Send) {
        let closing = async {
            shutdown.await;
            api.close_streams();
        };
        self.run(api.router(), closing).await;
    }

    /// Serves a router until `shutdown` resolves. Then it takes no more connections, lets requests that are
    /// under way end, and cuts those that take longer than the
    /// [limit](ServerBuilder::shutdown_timeout).
    ///
    /// Dropping this future cuts all connections at once.
    pub async fn run(self, router: Router, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, tls, settings, address } = self;
        let room = Arc::new(Semaphore::new(settings.max_connections));
        let (closing, cut) = (CancellationToken::new(), CancellationToken::new());
        let _cut_on_drop = cut.clone().drop_guard();
        let limit = settings.shutdown_timeout;
        let all = u32::try_from(settings.max_connections).unwrap_or(u32::MAX);
        let service = Arc::new(Service { router, settings, tls, closing: closing.clone(), cut: cut.clone() });
        tracing::info!(target: "mamos::http", %address, is_tls = service.tls.is_some(), "listening");
        tokio::select! {
            biased;
            () = shutdown => {}
            () = accept(&listener, &service, &room) => {}
        }
        drop(listener);
        closing.cancel();
        tracing::info!(target: "mamos::http", %address, "no more connections; waiting for those that are open");
        // A connection gives its place back when it is closed, one that became a WebSocket too.
        if tokio::time::timeout(limit, room.acquire_many(all)).await.is_err() {
            let open = all as usize - room.available_permits();
            tracing::warn!(target: "mamos::http", %address, open, "connections are cut at shutdown");
        }
    }
}

async fn accept(listener: &TcpListener, service: &Arc<Service>, room: &Arc<Semaphore>) {
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        let Ok(place) = Arc::clone(room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSE.0;
                let service = Arc::clone(service);
                let cut = service.cut.clone();
                tokio::spawn(cut.run_until_cancelled_owned(connection::serve(service, stream, peer, place)));
            }
            Err(error) => {
                tracing::warn!(target: "mamos::http", %error, "a connection could not be taken");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE.1);
            }
        }
    }
}

/// Latency matters more than the number of packets: events are small.
fn tune(stream: &TcpStream) {
    // Fails only if the peer has gone already.
    let _ = stream.set_nodelay(true);
}

impl ServerBuilder {
    /// Serves with this certificate, and with TLS 1.3 only.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(Arc::new(tls));
        self
    }

    /// Serves without TLS on addresses that other machines reach: for networks where something else encrypts.
    /// Without it only loopback addresses may be served so.
    pub fn allow_plain_text(mut self) -> Self {
        self.allows_plain_text = true;
        self
    }

    /// How many connections there may be at once, WebSockets included; further ones wait. At least 1.
    /// Default: 10000.
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.settings.max_connections = max_connections.clamp(1, MOST_CONNECTIONS);
        self
    }

    /// How long a TLS handshake may take. Default: 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout;
        self
    }

    /// How long the head of a request may take, counted from the connection or the answer before; so an idle
    /// connection is closed after this time, too. Default: 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.settings.header_timeout = timeout;
        self
    }

    /// How long the body of a request may pause. Default: 10 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// How long a peer may take nothing of what is sent to it. Default: 60 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.settings.write_timeout = timeout;
        self
    }

    /// How long requests may go on after the shutdown began. Default: 10 s.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.settings.shutdown_timeout = timeout;
        self
    }

    /// Listens.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: other machines reach the address, and there is neither TLS nor
    ///   [`ServerBuilder::allow_plain_text`].
    /// - [`ErrorKind::Unavailable`]: the address is taken or is none of this machine.
    pub async fn bind(self) -> Result<Server> {
        let Self { address, tls, allows_plain_text, settings } = self;
        if tls.is_none() && !address.ip().to_canonical().is_loopback() && !allows_plain_text {
            let message = format!(
                "other machines reach {address}, and keys would cross the network in plain text; give a \
                 certificate, listen on 127.0.0.1, or allow plain text if something else encrypts"
            );
            return Err(Error::new(ErrorKind::Config, "http.bind", message));
        }
        let failed = |error: std::io::Error| {
            let message = format!("cannot listen on {address}: {error}; is something else listening there?");
            Error::new(ErrorKind::Unavailable, "http.bind", message).with_source(error)
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Server { listener, address, tls, settings })
    }
}
