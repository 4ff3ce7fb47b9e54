//! How a link begins: connect, `Hello`, `Welcome`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{FromAgent, Hello, OLDEST_VERSION, ToAgent, VERSION, Welcome};
use mamos_core::transport::Connector;
use mamos_core::{Error, ErrorKind, Result};

use crate::identity::Identity;

/// A link over which the agent may work.
pub(super) struct Opened {
    pub(super) link: Arc<OrchestratorLink>,
    pub(super) welcome: Box<Welcome>,
    /// What came in the same frame.
    pub(super) rest: Vec<ToAgent>,
}

/// Why there is no link.
pub(super) enum Failed {
    /// It may work later.
    ForNow(Error),
    /// It will not.
    ForGood(Error),
}

/// Connects and introduces the agent, within `limit`. An identity that is issued is on disk when this
/// returns.
pub(super) async fn open(
    connector: Arc<dyn Connector>,
    hello: Box<Hello>,
    identity_file: Option<PathBuf>,
    limit: Duration,
) -> Result<Opened, Failed> {
    let greeted = tokio::time::timeout(limit, greet(&*connector, hello)).await;
    let opened = greeted.unwrap_or_else(|_| {
        let message = format!("{} did not answer within {limit:?}", connector.describe());
        Err(Failed::ForNow(Error::new(ErrorKind::Unavailable, "agent.connect", message)))
    })?;
    if let (Some(secret), Some(path)) = (&opened.welcome.issued, identity_file) {
        let identity = Identity { agent: opened.welcome.agent.clone(), secret: secret.clone() };
        let saved = tokio::task::spawn_blocking(move || identity.save(&path)).await;
        // Used up or not, the registration happened: go on with what is in memory.
        if let Ok(Err(error)) = saved {
            tracing::error!(%error, "after a restart the agent must be registered again");
        }
    }
    Ok(opened)
}

async fn greet(connector: &dyn Connector, hello: Box<Hello>) -> Result<Opened, Failed> {
    let connection = connector.connect().await.map_err(|error| match error.kind() {
        ErrorKind::Config => Failed::ForGood(error),
        _ => Failed::ForNow(error),
    })?;
    let link = Arc::new(OrchestratorLink::new(connection));
    link.send(vec![FromAgent::Hello(hello)]).await.map_err(Failed::ForNow)?;
    let mut messages = loop {
        let closed = || {
            let message = "the orchestrator closed the link before it answered";
            Failed::ForNow(Error::new(ErrorKind::Closed, "agent.connect", message))
        };
        let messages = link.receive().await.map_err(Failed::ForNow)?.ok_or_else(closed)?;
        if !messages.is_empty() {
            break messages.into_iter();
        }
    };
    match messages.next() {
        Some(ToAgent::Welcome(welcome)) if (OLDEST_VERSION..=VERSION).contains(&welcome.version) => {
            Ok(Opened { link, welcome, rest: messages.collect() })
        }
        Some(ToAgent::Welcome(welcome)) => {
            let message =
                format!("the orchestrator chose protocol version {}; update the agent", welcome.version);
            Err(Failed::ForGood(Error::new(ErrorKind::Unsupported, "agent.connect", message)))
        }
        Some(ToAgent::Refused { is_final: true, message }) => {
            Err(Failed::ForGood(Error::new(ErrorKind::Denied, "agent.connect", message)))
        }
        Some(ToAgent::Refused { is_final: false, message }) => {
            Err(Failed::ForNow(Error::new(ErrorKind::Unavailable, "agent.connect", message)))
        }
        _ => {
            let message = "the orchestrator did not answer `Hello` with a welcome or a refusal";
            Err(Failed::ForNow(Error::new(ErrorKind::Corrupt, "agent.connect", message)))
        }
    }
}
