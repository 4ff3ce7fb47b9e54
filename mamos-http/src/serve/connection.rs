//! One connection, from the handshake to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;

use super::io::Bounded;
use super::{Settings, Tls, tune};

/// The head of a request: its first line and all headers.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// What a connection buffers in each direction at most.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// What all connections share.
pub(super) struct Service {
    pub(super) router: Router,
    pub(super) settings: Settings,
    pub(super) tls: Option<Arc<Tls>>,
    /// Fires when requests under way should be the last.
    pub(super) closing: CancellationToken,
    /// Fires when nothing may go on.
    pub(super) cut: CancellationToken,
}

/// Serves a connection to its end. Its place is given back when it is closed, also after it became a
/// WebSocket.
pub(super) async fn serve(
    service: Arc<Service>,
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
) {
    tune(&stream);
    let stream = Bounded::new(stream, service.settings.write_timeout, &service.cut, place);
    let Some(tls) = &service.tls else { return speak(&service, stream, peer).await };
    let shaken = tokio::time::timeout(service.settings.handshake_timeout, tls.accept(stream));
    let shaken = tokio::select! {
        biased;
        () = service.closing.cancelled() => return,
        shaken = shaken => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => speak(&service, stream, peer).await,
        Ok(Err(error)) => tracing::debug!(target: "mamos::http", %peer, %error, "no TLS"),
        Err(_) => tracing::debug!(target: "mamos::http", %peer, "no TLS in time"),
    }
}

async fn speak<I>(service: &Arc<Service>, io: I, peer: SocketAddr)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = &service.settings;
    let answer = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let mut request = request.map(|body| Body::new(TimeoutBody::new(settings.body_timeout, body)));
        request.extensions_mut().insert(ConnectInfo(peer));
        service.router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(io), answer)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = service.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(target: "mamos::http", %peer, %error, "a connection ended early");
    }
}
