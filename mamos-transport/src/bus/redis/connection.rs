//! Connections to the server, and what its errors mean.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mamos_core::{Error, ErrorKind, Result};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::super::tls;
use super::settings::RedisBusSettings;

/// Where the server is, and how to greet it.
#[derive(Clone)]
pub(super) struct Server {
    /// Without secrets.
    pub(super) name: String,
    host: String,
    port: u16,
    greeting: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Server {
    pub(super) fn new(settings: &RedisBusSettings) -> Result<Self> {
        let is_prefix = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if settings.prefix.is_empty() || settings.prefix.len() > 64 || !settings.prefix.chars().all(is_prefix)
        {
            return Err(wrong("the prefix must be 1 to 64 of A-Z a-z 0-9 _ -"));
        }
        // TLS is done here and not by the client, which would install a provider for the whole process.
        let (plain, has_tls) = match settings.url.strip_prefix("rediss://") {
            Some(rest) => (format!("redis://{rest}"), true),
            None => (settings.url.clone(), false),
        };
        // The error of the parser might repeat the URL, which may hold a password.
        let unclear = || {
            wrong("the URL of Redis cannot be understood; expected redis://host:port or rediss://host:port")
        };
        let info = plain.as_str().into_connection_info().map_err(|_| unclear())?;
        let ConnectionAddr::Tcp(host, port) = info.addr().clone() else { return Err(unclear()) };
        let tls = has_tls
            .then(|| tls::client_config(settings.ca_pem.as_deref().map(str::as_bytes)).map(Arc::new))
            .transpose()?;
        let scheme = if has_tls { "rediss" } else { "redis" };
        Ok(Self {
            name: format!("{scheme}://{host}:{port} ({})", settings.prefix),
            host,
            port,
            // The name of the client library is no business of the server, and needs a permission.
            greeting: info.redis_settings().clone().set_skip_set_lib_name(),
            tls,
            timeout: settings.publish_timeout,
        })
    }

    async fn open(&self) -> Result<Box<dyn Stream>> {
        let failed = |error: std::io::Error| {
            let message = format!("{} cannot be reached; see whether the server runs", self.name);
            Error::new(ErrorKind::Unavailable, "bus.connect", message).with_source(error)
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| wrong("the host in the URL is no name for TLS").with_source(error))?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|error| {
            let message = format!("TLS with {} fails; check the CA and the name in the URL", self.name);
            Error::new(ErrorKind::Config, "bus.connect", message).with_source(error)
        })?;
        Ok(Box::new(stream))
    }

    /// A connection on which nothing waits.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection> {
        self.connect_with(Some(self.timeout)).await
    }

    /// A connection on which reads wait; the caller bounds them.
    pub(super) async fn connect_waiting(&self) -> Result<MultiplexedConnection> {
        self.connect_with(None).await
    }

    async fn connect_with(&self, timeout: Option<Duration>) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(timeout);
        let work = async {
            let stream = self.open().await?;
            MultiplexedConnection::new_with_config(&self.greeting, stream, config)
                .await
                .map_err(|error| self.error("bus.connect", error))
        };
        let (connection, driver) = tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| Err(self.unavailable("bus.connect")))?;
        // Ends when the connection is dropped.
        tokio::spawn(driver);
        Ok(connection)
    }

    /// A connection for subscriptions.
    pub(super) async fn connect_pubsub(&self) -> Result<PubSub> {
        let work = async {
            let stream = self.open().await?;
            PubSub::new(&self.greeting, Fair { stream, reads: 0 })
                .await
                .map_err(|error| self.error("bus.connect", error))
        };
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| Err(self.unavailable("bus.connect")))
    }

    pub(super) fn unavailable(&self, operation: &'static str) -> Error {
        let (name, timeout) = (&self.name, self.timeout);
        // A port without TLS waits for the rest of what it takes for a command.
        let tls = if self.tls.is_some() { " and has TLS at this port" } else { "" };
        let message = format!(
            "{name} did not answer within {timeout:?}; see whether the server runs{tls}, or try again"
        );
        Error::new(ErrorKind::Unavailable, operation, message)
    }

    /// What an error of the client means.
    pub(super) fn error(&self, operation: &'static str, error: RedisError) -> Error {
        let code = error.code().unwrap_or_default();
        let text = error.to_string();
        let says = |word: &str| code == word || text.contains(word);
        let (kind, message) = if says("NOPERM") {
            (
                ErrorKind::Denied,
                "Redis denies this user a command, key or channel that the bus needs; give it the permissions \
                 that docs/bus-redis.md lists",
            )
        } else if says("WRONGPASS")
            || says("NOAUTH")
            || error.kind() == redis::ErrorKind::AuthenticationFailed
        {
            (ErrorKind::Denied, "Redis refuses the user or the password")
        } else if says("WRONGTYPE") {
            (ErrorKind::Config, "a key of the bus is used by somebody else; choose another prefix")
        } else {
            (ErrorKind::Unavailable, "Redis did not do it; see whether the server runs, or try again")
        };
        Error::new(kind, operation, format!("{message} ({})", self.name)).with_source(text)
    }
}

/// A stream that lets other tasks run now and then.
///
/// The client's task reads on for as long as there is something, a thousand messages or ten thousand, and who
/// is to take them waits behind it on the same thread of the runtime.
struct Fair<S> {
    stream: S,
    reads: u32,
}

/// Some 32 KiB.
const READS_IN_A_ROW: u32 = 4;

impl<S: AsyncRead + Unpin> AsyncRead for Fair<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.reads >= READS_IN_A_ROW {
            self.reads = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.reads += 1;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fair<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The connection for commands: made when needed, and again after a loss.
#[derive(Default)]
pub(super) struct Commands {
    current: Mutex<Option<MultiplexedConnection>>,
}

impl Commands {
    /// Makes the first connection, without patience.
    pub(super) async fn first(&self, server: &Server) -> Result<()> {
        *self.current.lock().await = Some(server.connect().await?);
        Ok(())
    }

    /// The connection; waits while there is none. The caller bounds the time.
    pub(super) async fn get(&self, server: &Server) -> Result<MultiplexedConnection> {
        let mut current = self.current.lock().await;
        let mut pauses = Pauses::default();
        loop {
            if let Some(connection) = &*current {
                return Ok(connection.clone());
            }
            match server.connect().await {
                Ok(connection) => *current = Some(connection),
                Err(error) if error.kind() == ErrorKind::Unavailable => pauses.pause().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Maps an error, and gives the connection up if it may be broken.
    pub(super) async fn failed(&self, server: &Server, operation: &'static str, error: RedisError) -> Error {
        if error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
            || error.is_unrecoverable_error()
        {
            *self.current.lock().await = None;
        }
        server.error(operation, error)
    }
}

/// Growing pauses between attempts.
#[derive(Default)]
pub(super) struct Pauses(u32);

impl Pauses {
    pub(super) async fn pause(&mut self) {
        let pause = (Duration::from_millis(20) * 2_u32.pow(self.0.min(6))).min(LONGEST_PAUSE);
        self.0 += 1;
        // Many clients of one server should not come back in the same moment.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// Work goes on within 5 s of the server's return, so the pauses stay well below that.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Config, "bus.connect", message)
}
