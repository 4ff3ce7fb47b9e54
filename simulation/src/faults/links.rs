//! How agents and orchestrators are linked.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::transport::{Connector, Listener};
use mamos_transport::AnyOf;
use mamos_transport::link_over_bus::{LinkOverBusConnector, LinkOverBusListener, LinkSettings};

use super::doubled::Doubled;
use mamos_transport::socket::{UnixFrameConnector, UnixFrameListener};

/// One way from agents to an orchestrator: `unix:PATH`, or the URL of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A Unix socket.
    Unix(PathBuf),
    /// Over a bus.
    Bus(String),
}

/// An orchestrator that was killed is missed soon enough for its agents to be back within 5 s.
fn settings() -> LinkSettings {
    LinkSettings { silence: Duration::from_secs(3), ..LinkSettings::default() }
}

impl FromStr for Link {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Bus(text.to_owned()),
        })
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Bus(url) => f.write_str(url),
        }
    }
}

impl Link {
    /// The orchestrator's end.
    pub(super) async fn listener(&self) -> anyhow::Result<Arc<dyn Listener>> {
        match self {
            Self::Unix(path) => Ok(Arc::new(UnixFrameListener::bind(path.clone()).await?)),
            Self::Bus(url) => {
                let bus = Arc::new(Doubled::new(mamos_transport::bus::open(url).await?));
                Ok(Arc::new(LinkOverBusListener::bind(bus, settings()).await?))
            }
        }
    }

    /// The agent's end of any of these; the agents begin at different ones.
    pub(super) async fn connector(links: &[Self], agent: usize) -> anyhow::Result<Arc<dyn Connector>> {
        let mut ways: Vec<Arc<dyn Connector>> = Vec::new();
        for link in links {
            match link {
                Self::Unix(path) => ways.push(Arc::new(UnixFrameConnector::new(path.clone()))),
                Self::Bus(url) => {
                    let bus = Arc::new(Doubled::new(mamos_transport::bus::open(url).await?));
                    ways.push(Arc::new(LinkOverBusConnector::new(bus, settings())?));
                }
            }
        }
        Ok(Arc::new(AnyOf::new(ways)?.beginning_at(agent)))
    }
}
