//! The listener that agents arrive at.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use mamos_core::transport::{Connection, Encoding, Listener};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::AGENT_LINK_PATH;
use super::connection::{WebSocketConnection, bounds};
use super::watched::Watched;
use crate::access::FailureLimiter;

/// How many upgrades are waited for at a time. Each is done once the answer is written, which is soon.
const MAX_UPGRADING: usize = 256;
/// How long one may take: a peer that never reads the answer does not count among them for ever.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

type Upgrading = Pin<Box<dyn Future<Output = Result<Arc<dyn Connection>>> + Send>>;

/// Gives the orchestrator the connections of agents that came to the endpoint.
pub struct AgentListener {
    door: Mutex<Door>,
    max_frame_bytes: usize,
}

/// An agent that was answered, and whose connection is about to become a WebSocket.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) upgrade: OnUpgrade,
    /// `None` if the agent's first frame decides.
    pub(super) encoding: Option<Encoding>,
    pub(super) origin: Origin,
}

/// Where an agent comes from.
#[derive(Debug)]
pub(super) struct Origin {
    /// For people and logs.
    pub(super) name: String,
    /// Where it is counted if it is refused.
    pub(super) joins: Option<(Arc<FailureLimiter>, Option<IpAddr>)>,
}

struct Door {
    arriving: mpsc::Receiver<Arriving>,
    upgrading: FuturesUnordered<Upgrading>,
    is_closed: bool,
}

impl AgentListener {
    pub(super) fn new(arriving: mpsc::Receiver<Arriving>, max_frame_bytes: usize) -> Self {
        let door = Door { arriving, upgrading: FuturesUnordered::new(), is_closed: false };
        Self { door: Mutex::new(door), max_frame_bytes }
    }
}

#[async_trait]
impl Listener for AgentListener {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        let mut door = self.door.lock().await;
        let Door { arriving, upgrading, is_closed } = &mut *door;
        loop {
            tokio::select! {
                Some(upgraded) = upgrading.next() => match upgraded {
                    Ok(connection) => return Ok(connection),
                    // Nothing is wrong with the listener: a stranger must not make it rest.
                    Err(error) => tracing::debug!(target: "mamos::link", %error, "an agent left again"),
                },
                arrived = arriving.recv(), if !*is_closed && upgrading.len() < MAX_UPGRADING => match arrived {
                    Some(arrived) => upgrading.push(Box::pin(arrived.upgraded(self.max_frame_bytes))),
                    None => *is_closed = true,
                },
                else => {
                    let message = "the route of the endpoint is gone";
                    return Err(Error::new(ErrorKind::Closed, "websocket.accept", message));
                }
            }
        }
    }

    fn describe(&self) -> String {
        format!("websocket:{AGENT_LINK_PATH}")
    }
}

impl Arriving {
    async fn upgraded(self, max_frame_bytes: usize) -> Result<Arc<dyn Connection>> {
        let Self { upgrade, encoding, origin: Origin { name, joins } } = self;
        let failed = || {
            let message = format!("{name} left before it had a WebSocket");
            Error::new(ErrorKind::Unavailable, "websocket.accept", message)
        };
        let upgraded = match timeout(UPGRADE_TIMEOUT, upgrade).await {
            Ok(upgraded) => TokioIo::new(upgraded.map_err(|error| failed().with_source(error))?),
            Err(_) => return Err(failed()),
        };
        let bounds = bounds(max_frame_bytes);
        let stream = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(bounds)).await;
        let connection = WebSocketConnection::new(stream, encoding, max_frame_bytes, name);
        Ok(match joins {
            Some((joins, address)) => Arc::new(Watched::new(connection, joins, address)),
            None => Arc::new(connection),
        })
    }
}

impl fmt::Debug for AgentListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentListener({})", self.describe())
    }
}
