//! How a link begins: connect, `Hello`, `Welcome`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::auth::Credentials;
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{FromAgent, Hello, OLDEST_VERSION, ToAgent, VERSION, Welcome};
use mamos_core::transport::Connector;
use mamos_core::{Error, ErrorKind, Result};

use crate::identity::Identity;

/// A link over which the agent may work.
pub(super) struct Opened {
    pub(super) link: Arc<OrchestratorLink>,
    pub(super) welcome: Box<Welcome>,
    /// Who the agent is from now on, if that has changed.
    pub(super) identity: Option<Identity>,
    /// What came in the same frame.
    pub(super) rest: Vec<ToAgent>,
}

/// Why there is no link.
pub(super) enum Failed {
    /// It may work later. The orchestrator has not seen the `Hello`.
    ForNow(Error),
    /// It may work later. The `Hello` may still be on its way.
    Unanswered(Error),
    /// It will not.
    ForGood(Error),
}

/// Connects and introduces the agent, within `limit`. A changed identity is on disk when this
/// returns.
pub(super) async fn open(
    connector: Arc<dyn Connector>,
    hello: Box<Hello>,
    identity_file: Option<PathBuf>,
    limit: Duration,
) -> Result<Opened, Failed> {
    let shown = hello.credentials.clone();
    let greeted = tokio::time::timeout(limit, greet(&*connector, hello)).await;
    let mut opened = greeted.unwrap_or_else(|_| {
        let message = format!("{} did not answer within {limit:?}", connector.describe());
        Err(Failed::Unanswered(Error::new(ErrorKind::Unavailable, "agent.connect", message)))
    })?;
    opened.identity = identity_after(shown, &opened.welcome);
    if let (Some(identity), Some(path)) = (opened.identity.clone(), identity_file) {
        let saved = tokio::task::spawn_blocking(move || identity.save(&path)).await;
        // Registered is registered: go on with what is in memory.
        if let Ok(Err(error)) = saved {
            tracing::error!(%error, "after a restart the agent must be registered again");
        }
    }
    Ok(opened)
}

fn identity_after(shown: Credentials, welcome: &Welcome) -> Option<Identity> {
    let secret = match (&welcome.issued, shown) {
        (Some(issued), _) => issued.clone(),
        (None, Credentials::Registration { secret, .. }) => secret,
        (None, _) => return None,
    };
    Some(Identity { agent: Some(welcome.agent.clone()), secret })
}

async fn greet(connector: &dyn Connector, hello: Box<Hello>) -> Result<Opened, Failed> {
    let connection = connector.connect().await.map_err(|error| match error.kind() {
        ErrorKind::Config => Failed::ForGood(error),
        _ => Failed::ForNow(error),
    })?;
    let link = Arc::new(OrchestratorLink::new(connection));
    link.send(vec![FromAgent::Hello(hello)]).await.map_err(Failed::Unanswered)?;
    let mut messages = loop {
        let closed = || {
            let message = "the orchestrator closed the link before it answered";
            Failed::Unanswered(Error::new(ErrorKind::Closed, "agent.connect", message))
        };
        let messages = link.receive().await.map_err(Failed::Unanswered)?.ok_or_else(closed)?;
        if !messages.is_empty() {
            break messages.into_iter();
        }
    };
    match messages.next() {
        Some(ToAgent::Welcome(welcome)) if (OLDEST_VERSION..=VERSION).contains(&welcome.version) => {
            Ok(Opened { link, welcome, identity: None, rest: messages.collect() })
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
