//! How a link begins: connect, `Challenge`, `Hello`, `Welcome`.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::auth::{Binding, Nonce};
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{FromAgent, Hello, OLDEST_VERSION, ToAgent, VERSION, Welcome};
use mamos_core::transport::Connector;
use mamos_core::{Error, ErrorKind, Result};

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
    /// Who answers is not what the agent was set up for. That is a wrong setting if it never was otherwise;
    /// else a fault on the way or a change at the other end, which may pass.
    Mismatch(Error),
    /// The orchestrator wants no more of this agent.
    ForGood(Error),
}

/// Connects and introduces the agent, within `limit`. `introduce` makes the hello for the nonce and the binding
/// of the connection.
pub(super) async fn open(
    connector: Arc<dyn Connector>,
    introduce: impl FnOnce(&Nonce, Option<&Binding>) -> Box<Hello> + Send,
    limit: Duration,
) -> Result<Opened, Failed> {
    let greeted = tokio::time::timeout(limit, greet(&*connector, introduce)).await;
    greeted.unwrap_or_else(|_| {
        let message = format!("{} did not answer within {limit:?}", connector.describe());
        Err(Failed::ForNow(Error::new(ErrorKind::Unavailable, "agent.connect", message)))
    })
}

async fn greet(
    connector: &dyn Connector,
    introduce: impl FnOnce(&Nonce, Option<&Binding>) -> Box<Hello> + Send,
) -> Result<Opened, Failed> {
    let connection = connector.connect().await.map_err(|error| match error.kind() {
        ErrorKind::Config => Failed::Mismatch(error),
        _ => Failed::ForNow(error),
    })?;
    let link = Arc::new(OrchestratorLink::new(connection));
    let (first, rest) = answer(&link).await?;
    let nonce = match first {
        ToAgent::Challenge { nonce } if rest.is_empty() => nonce,
        other => return Err(instead_of("a challenge", other)),
    };
    let hello = introduce(&nonce, link.binding().as_ref());
    link.send(vec![FromAgent::Hello(hello)]).await.map_err(Failed::ForNow)?;
    let (first, rest) = answer(&link).await?;
    match first {
        ToAgent::Welcome(welcome) if (OLDEST_VERSION..=VERSION).contains(&welcome.version) => {
            Ok(Opened { link, welcome, rest })
        }
        ToAgent::Welcome(welcome) => {
            let message =
                format!("the orchestrator chose protocol version {}; update the agent", welcome.version);
            Err(Failed::Mismatch(Error::new(ErrorKind::Unsupported, "agent.connect", message)))
        }
        other => Err(instead_of("a welcome", other)),
    }
}

/// The next message, and what came in the same frame.
async fn answer(link: &OrchestratorLink) -> Result<(ToAgent, Vec<ToAgent>), Failed> {
    loop {
        let messages = link.receive().await.map_err(Failed::ForNow)?.ok_or_else(|| {
            let message = "the orchestrator closed the link before it answered";
            Failed::ForNow(Error::new(ErrorKind::Closed, "agent.connect", message))
        })?;
        let mut messages = messages.into_iter();
        if let Some(first) = messages.next() {
            return Ok((first, messages.collect()));
        }
    }
}

/// A refusal may come at any time; everything else is out of order.
fn instead_of(expected: &str, message: ToAgent) -> Failed {
    match message {
        ToAgent::Refused { is_final: true, message } => {
            Failed::ForGood(Error::new(ErrorKind::Denied, "agent.connect", message))
        }
        ToAgent::Refused { is_final: false, message } => {
            Failed::ForNow(Error::new(ErrorKind::Unavailable, "agent.connect", message))
        }
        _ => {
            let message = format!("the orchestrator sent neither {expected} nor a refusal");
            Failed::ForNow(Error::new(ErrorKind::Corrupt, "agent.connect", message))
        }
    }
}
