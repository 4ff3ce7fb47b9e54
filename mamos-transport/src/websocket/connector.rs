//! Connects to an orchestrator's WebSocket.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::transport::{Connection, Connector, Encoding, MAX_FRAME_BYTES};
use mamos_core::{Error, ErrorKind, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::uri::PathAndQuery;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri, header};

use super::connection::{WebSocketConnection, bounds};
use super::failure::{no_tls, no_websocket, unreachable};
use super::fingerprint::Fingerprint;
use super::tls;

/// The subprotocol whose orchestrator writes MessagePack.
pub const BINARY_PROTOCOL: &str = "mamos.v1";
/// The subprotocol whose orchestrator writes JSON.
pub const TEXT_PROTOCOL: &str = "mamos.v1.json";
/// The path of an address that has none.
pub const DEFAULT_PATH: &str = "/api/v1/agents/link";

/// How long a connector waits until it has a WebSocket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to an orchestrator's WebSocket, plain or over TLS 1.3.
///
/// ```
/// use mamos_transport::WebSocketConnector;
///
/// # fn main() -> mamos_core::Result<()> {
/// let pin = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
/// let connector = WebSocketConnector::builder("wss://mamos.example").pinned_fingerprint(pin).build()?;
/// # Ok(())
/// # }
/// ```
pub struct WebSocketConnector {
    address: Uri,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    encoding: Encoding,
    max_frame_bytes: usize,
}

/// Makes a [`WebSocketConnector`].
#[derive(Debug, Clone)]
pub struct WebSocketConnectorBuilder {
    url: String,
    ca: Option<Vec<u8>>,
    pin: Option<String>,
    is_plain_text_allowed: bool,
    encoding: Encoding,
    max_frame_bytes: usize,
}

impl WebSocketConnector {
    /// Begins a connector to an address, for example `wss://mamos.example`. Without a path, it is
    /// [`DEFAULT_PATH`]. A name is looked up at every connect.
    pub fn builder(url: impl Into<String>) -> WebSocketConnectorBuilder {
        WebSocketConnectorBuilder {
            url: url.into(),
            ca: None,
            pin: None,
            is_plain_text_allowed: false,
            encoding: Encoding::Binary,
            max_frame_bytes: MAX_FRAME_BYTES,
        }
    }
}

impl WebSocketConnectorBuilder {
    /// The authorities that may sign the orchestrator's certificate, as PEM. Default: the system's.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// The orchestrator's certificate: `sha256:` and 64 hexadecimal digits, with or without colons.
    ///
    /// That one is accepted, whoever signed it and whatever name and dates it has, and no other. With
    /// [`ca`](Self::ca) as well, both must hold.
    #[must_use]
    pub fn pinned_fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.pin = Some(fingerprint.into());
        self
    }

    /// Allows `ws://` to another machine. Everyone on the way can then read and change everything, and
    /// take the agent's credentials.
    #[must_use]
    pub fn allow_plain_text(mut self) -> Self {
        self.is_plain_text_allowed = true;
        self
    }

    /// How frames are written down, at both ends. Default: [`Encoding::Binary`].
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The largest frame, in bytes. Default: [`MAX_FRAME_BYTES`].
    #[must_use]
    pub fn max_frame_bytes(mut self, max_frame_bytes: usize) -> Self {
        self.max_frame_bytes = max_frame_bytes;
        self
    }

    /// Checks the settings against each other, and reads the certificates.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the address can never work, `ws://` would leave the machine without
    /// [`allow_plain_text`](Self::allow_plain_text), a certificate or fingerprint cannot be read, or one is
    /// given for `ws://`.
    pub fn build(self) -> Result<WebSocketConnector> {
        let (address, is_encrypted) = read_address(&self.url)?;
        let host = address.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = address.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        let pin = self.pin.as_deref().map(Fingerprint::parse).transpose()?;
        if !is_encrypted && (self.ca.is_some() || pin.is_some()) {
            return Err(wrong(
                "a CA or a fingerprint is for wss:// only; change the address or leave it out",
            ));
        }
        if !is_encrypted && !self.is_plain_text_allowed && !is_loopback(&host) {
            let message = format!(
                "ws://{host} would send credentials unencrypted to another machine; use wss://, or allow \
                 plain text if the network between is protected otherwise"
            );
            return Err(wrong(message));
        }
        let tls = if is_encrypted {
            let name = ServerName::try_from(host.clone())
                .map_err(|error| wrong("the host of the address is no name").with_source(error))?;
            let config = tls::client_config(self.ca.as_deref(), pin)?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let Self { encoding, max_frame_bytes, .. } = self;
        Ok(WebSocketConnector { address, host, port, tls, encoding, max_frame_bytes })
    }
}

/// The address, with a path, and whether it is encrypted.
fn read_address(url: &str) -> Result<(Uri, bool)> {
    let address: Uri = url.parse().map_err(|error| {
        wrong("the address cannot be read; write it as wss://host:port").with_source(error)
    })?;
    let is_encrypted = match address.scheme_str() {
        Some("wss") => true,
        Some("ws") => false,
        _ => return Err(wrong("the address must begin with wss:// or ws://")),
    };
    if address.host().is_none_or(str::is_empty) {
        return Err(wrong("the address has no host; write it as wss://host:port"));
    }
    if address.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("credentials do not belong in an address; an agent shows its own"));
    }
    // A port that is none would be passed over, and another one taken.
    if address.port_u16().is_none() && address.authority().is_some_and(|all| all.as_str() != all.host()) {
        return Err(wrong("the port of the address is no number up to 65535"));
    }
    if address.path() != "/" || address.query().is_some() {
        return Ok((address, is_encrypted));
    }
    let mut parts = address.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(DEFAULT_PATH));
    let address =
        Uri::from_parts(parts).map_err(|error| wrong("the address cannot be read").with_source(error))?;
    Ok((address, is_encrypted))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "websocket.build", message)
}

#[async_trait]
impl Connector for WebSocketConnector {
    /// Gives up after 10 seconds.
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(unreachable(&self.describe(), io::ErrorKind::TimedOut.into())),
        }
    }

    /// The address without its query, which may hold what is not for everyone.
    fn describe(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        let authority = self.address.authority().map_or("", |authority| authority.as_str());
        format!("{scheme}://{authority}{}", self.address.path())
    }
}

impl WebSocketConnector {
    async fn open(&self) -> Result<Arc<dyn Connection>> {
        let no_tcp = |error| unreachable(&self.describe(), error);
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(no_tcp)?;
        let peer = stream.peer_addr().map_err(no_tcp)?;
        // Frames are whole batches: waiting for more only delays them. Without it they still arrive.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
        }
        match &self.tls {
            None => self.upgrade(stream, format!("ws:{peer}")).await,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await;
                let stream = stream.map_err(|error| no_tls(&self.describe(), error))?;
                self.upgrade(stream, format!("wss:{peer}")).await
            }
        }
    }

    async fn upgrade<S>(&self, stream: S, peer: String) -> Result<Arc<dyn Connection>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |error| no_websocket(&self.describe(), error);
        let mut request = self.address.clone().into_client_request().map_err(failed)?;
        let protocol = match self.encoding {
            Encoding::Binary => BINARY_PROTOCOL,
            Encoding::Text => TEXT_PROTOCOL,
        };
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        let bounds = bounds(self.max_frame_bytes);
        let upgrading = tokio_tungstenite::client_async_with_config(request, stream, Some(bounds));
        let (stream, _) = upgrading.await.map_err(failed)?;
        Ok(Arc::new(WebSocketConnection::new(stream, Some(self.encoding), self.max_frame_bytes, peer)))
    }
}

impl fmt::Debug for WebSocketConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebSocketConnector({})", self.describe())
    }
}
