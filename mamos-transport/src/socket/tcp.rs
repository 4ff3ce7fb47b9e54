//! Frames over TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::transport::{Connection, Connector, Listener, MAX_FRAME_BYTES};
use mamos_core::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};

use super::stream::FrameConnection;

/// How long a connector waits for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a listener rests after it could not accept, for example because files ran out. Without it,
/// the caller's loop would spin.
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Listens on a TCP port. No encryption: for loopback or a network that you trust.
#[derive(Debug)]
pub struct TcpFrameListener {
    listener: TcpListener,
    address: SocketAddr,
    max_frame_bytes: usize,
}

impl TcpFrameListener {
    /// Listens on an address, for example `127.0.0.1:7117`; port 0 picks a free one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the address cannot be bound.
    pub async fn bind(address: impl ToSocketAddrs) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Config, "tcp.bind", "cannot listen on this address").with_source(error)
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, max_frame_bytes: MAX_FRAME_BYTES })
    }

    /// The largest frame, in bytes. Default: [`MAX_FRAME_BYTES`].
    #[must_use]
    pub fn with_max_frame_bytes(mut self, max_frame_bytes: usize) -> Self {
        self.max_frame_bytes = max_frame_bytes;
        self
    }

    /// The address that it listens on, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

#[async_trait]
impl Listener for TcpFrameListener {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        match self.listener.accept().await {
            Ok((stream, peer)) => Ok(connection(stream, peer, self.max_frame_bytes)),
            Err(error) => {
                tokio::time::sleep(ACCEPT_REST).await;
                let message = "a connection could not be accepted";
                Err(Error::new(ErrorKind::Unavailable, "tcp.accept", message).with_source(error))
            }
        }
    }

    fn describe(&self) -> String {
        format!("tcp:{}", self.address)
    }
}

/// Connects to a TCP port. No encryption: for loopback or a network that you trust.
#[derive(Debug, Clone)]
pub struct TcpFrameConnector {
    address: Arc<str>,
    max_frame_bytes: usize,
}

impl TcpFrameConnector {
    /// Connects to an address, for example `127.0.0.1:7117` or `orchestrator.internal:7117`. A name is
    /// looked up at every connect.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into().into(), max_frame_bytes: MAX_FRAME_BYTES }
    }

    /// The largest frame, in bytes. Default: [`MAX_FRAME_BYTES`].
    #[must_use]
    pub fn with_max_frame_bytes(mut self, max_frame_bytes: usize) -> Self {
        self.max_frame_bytes = max_frame_bytes;
        self
    }
}

#[async_trait]
impl Connector for TcpFrameConnector {
    /// Gives up after 10 seconds.
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        let connecting = TcpStream::connect(&*self.address);
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => return Err(self.failed(io::ErrorKind::TimedOut.into())),
        };
        let peer = stream.peer_addr().map_err(|error| self.failed(error))?;
        Ok(connection(stream, peer, self.max_frame_bytes))
    }

    fn describe(&self) -> String {
        format!("tcp:{}", self.address)
    }
}

impl TcpFrameConnector {
    fn failed(&self, error: io::Error) -> Error {
        let (kind, advice) = match error.kind() {
            io::ErrorKind::InvalidInput => (ErrorKind::Config, "write it as host:port"),
            io::ErrorKind::PermissionDenied => (ErrorKind::Config, "the system forbids it"),
            _ => (ErrorKind::Unavailable, "is an orchestrator listening there?"),
        };
        let message = format!("cannot connect to {}; {advice}", self.address);
        Error::new(kind, "tcp.connect", message).with_source(error)
    }
}

fn connection(stream: TcpStream, peer: SocketAddr, max_frame_bytes: usize) -> Arc<dyn Connection> {
    // Frames are whole batches: waiting for more only delays them. Without it they still arrive.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
    }
    let (reader, writer) = stream.into_split();
    Arc::new(FrameConnection::new(reader, writer, max_frame_bytes, format!("tcp:{peer}")))
}
