//! An endpoint that is served on a port of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use mamos_core::transport::{Connection, Connector, Listener};
use mamos_http::{AGENT_LINK_PATH, AgentEndpoint, AgentListener};
use mamos_transport::WebSocketConnector;
use mamos_transport::websocket::WebSocketConnectorBuilder;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(crate) struct Scene {
    pub(crate) listener: AgentListener,
    pub(crate) address: SocketAddr,
    pub(crate) guard: Serving,
}

/// Ends the server when dropped.
pub(crate) struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The agent's and the orchestrator's end of one connection.
pub(crate) type Ends = (Arc<dyn Connection>, Arc<dyn Connection>);

impl Scene {
    pub(crate) async fn connected(&self, connector: &WebSocketConnector) -> Ends {
        let (ours, theirs) = tokio::join!(connector.connect(), self.listener.accept());
        (ours.unwrap(), theirs.unwrap())
    }
}

/// Serves the endpoint without encryption.
pub(crate) async fn plain(max_frame_bytes: usize) -> Scene {
    plain_endpoint(AgentEndpoint::new().with_max_frame_bytes(max_frame_bytes)).await
}

pub(crate) async fn plain_endpoint(endpoint: AgentEndpoint) -> Scene {
    let (listener, route) = endpoint.split();
    let (address, guard) = serve(Router::new().route(AGENT_LINK_PATH, route)).await;
    Scene { listener, address, guard }
}

pub(crate) async fn serve(router: Router) -> (SocketAddr, Serving) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    (address, Serving(tokio::spawn(async move { axum::serve(socket, service).await.unwrap() })))
}

/// Serves the endpoint over TLS.
pub(crate) async fn tls(config: ServerConfig, max_frame_bytes: usize) -> Scene {
    let (listener, route) = AgentEndpoint::new().with_max_frame_bytes(max_frame_bytes).split();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let socket = TlsListener { socket, acceptor: TlsAcceptor::from(Arc::new(config)) };
    let router = Router::new().route(AGENT_LINK_PATH, route);
    let serving = tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
    Scene { listener, address, guard: Serving(serving) }
}

struct TlsListener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = self.socket.accept().await.unwrap();
            // Agents that trust nobody here break off.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.socket.local_addr()
    }
}

pub(crate) fn connector(address: SocketAddr) -> WebSocketConnectorBuilder {
    WebSocketConnector::builder(format!("ws://{address}"))
}

pub(crate) fn encrypted(address: SocketAddr) -> WebSocketConnectorBuilder {
    WebSocketConnector::builder(format!("wss://localhost:{}", address.port()))
}
