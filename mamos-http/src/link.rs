//! The agents' WebSocket: what is mounted, and what the orchestrator listens on.
//!
//! An agent asks for an upgrade at [`AGENT_LINK_PATH`]; the connection goes through a bounded queue to the
//! [`AgentListener`]. Whoever comes is let through: agents show their credentials in the first frame.

mod connection;
mod handshake;
mod listener;
mod watched;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{Response, StatusCode};
use axum::routing::{MethodRouter, get};
use hyper::upgrade::OnUpgrade;
use ipnet::IpNet;
use mamos_core::transport::MAX_FRAME_BYTES;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use handshake::{Agreed, agree};
pub use listener::AgentListener;
use listener::{Arriving, Origin};

use crate::access::{FailureLimiter, origin};
use crate::problem::Problem;

/// Where agents look for the endpoint when their address has no path.
pub const AGENT_LINK_PATH: &str = "/api/v1/agents/link";
/// The subprotocol that is answered with MessagePack.
pub const BINARY_PROTOCOL: &str = "mamos.v1";
/// The subprotocol that is answered with JSON.
pub const TEXT_PROTOCOL: &str = "mamos.v1.json";

/// A connection that waits to be accepted takes a few kilobytes, and the orchestrator accepts at once. More
/// than these wait only if it is very busy; they are asked to come again.
const MAX_WAITING: usize = 1024;

/// The orchestrator's end of the agents' WebSocket.
///
/// ```
/// use mamos_http::{AGENT_LINK_PATH, AgentEndpoint};
///
/// let (listener, route) = AgentEndpoint::new().split();
/// let router: axum::Router = axum::Router::new().route(AGENT_LINK_PATH, route);
/// // The listener goes to `Orchestrator::builder(…).listener(listener)`.
/// # drop((listener, router));
/// ```
#[derive(Debug)]
pub struct AgentEndpoint {
    max_frame_bytes: usize,
    max_waiting: usize,
    joins: Option<Arc<FailureLimiter>>,
    trusted_proxies: Vec<IpNet>,
}

impl Default for AgentEndpoint {
    fn default() -> Self {
        Self {
            max_frame_bytes: MAX_FRAME_BYTES,
            max_waiting: MAX_WAITING,
            joins: None,
            trusted_proxies: Vec::new(),
        }
    }
}

impl AgentEndpoint {
    /// An endpoint with the default bounds.
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest frame, in bytes. Default: [`MAX_FRAME_BYTES`].
    #[must_use]
    pub fn with_max_frame_bytes(mut self, max_frame_bytes: usize) -> Self {
        self.max_frame_bytes = max_frame_bytes;
        self
    }

    /// How many connections may wait to be accepted, at least 1. Default: 1024.
    #[must_use]
    pub fn with_max_waiting(mut self, max_waiting: usize) -> Self {
        self.max_waiting = max_waiting.max(1);
        self
    }

    /// Lets an address from which too many came that were refused wait before the next. Default: none has
    /// to.
    #[must_use]
    pub fn limited_by(mut self, joins: Arc<FailureLimiter>) -> Self {
        self.joins = Some(joins);
        self
    }

    /// Believes these proxies where an agent comes from, by `X-Forwarded-For`. Default: none.
    #[must_use]
    pub fn trusted_proxies(mut self, proxies: impl IntoIterator<Item = IpNet>) -> Self {
        self.trusted_proxies = proxies.into_iter().collect();
        self
    }

    /// What the orchestrator listens on, and what to mount at [`AGENT_LINK_PATH`].
    ///
    /// Once the listener is dropped, agents are answered with 503; once all copies of the route are, the
    /// listener is closed. Serve the route with
    /// [`into_make_service_with_connect_info`](axum::Router::into_make_service_with_connect_info), or the
    /// addresses of agents are not known.
    pub fn split<S: Clone + Send + Sync + 'static>(self) -> (AgentListener, MethodRouter<S>) {
        let (arrivals, arriving) = mpsc::channel(self.max_waiting);
        let max_frame_bytes = self.max_frame_bytes;
        let door = Arc::new(Doorstep { arrivals, joins: self.joins, trusted_proxies: self.trusted_proxies });
        let route = get(move |request: Request| async move { door.admit(request) });
        (AgentListener::new(arriving, max_frame_bytes), route)
    }
}

/// Where agents ask for an upgrade.
struct Doorstep {
    arrivals: mpsc::Sender<Arriving>,
    joins: Option<Arc<FailureLimiter>>,
    trusted_proxies: Vec<IpNet>,
}

impl Doorstep {
    /// Answers an agent that asks for an upgrade.
    fn admit(&self, mut request: Request) -> Result<Response<Body>, Problem> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let address = origin(peer.map(|peer| peer.ip()), request.headers(), &self.trusted_proxies);
        if let Some(wait) = self.joins.as_ref().and_then(|joins| joins.wait(address)) {
            let seconds = wait.as_secs() + 1;
            return Err(Problem::too_many("too many agents from there were refused; wait", seconds));
        }
        let Agreed { answer, encoding } = agree(&request)?;
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            let detail = "this connection cannot be upgraded";
            return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail));
        };
        let name = peer.map_or_else(|| "ws:unknown".to_owned(), |peer| format!("ws:{peer}"));
        let joins = self.joins.as_ref().map(|joins| (Arc::clone(joins), address));
        let origin = Origin { name, joins };
        let busy = |code, detail| {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
            Err(Problem { retry_after: Some(1), ..problem })
        };
        match self.arrivals.try_send(Arriving { upgrade, encoding, origin }) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => busy("busy", "too many agents are waiting; come again soon"),
            Err(TrySendError::Closed(_)) => busy("stopping", "the orchestrator is stopping"),
        }
    }
}
