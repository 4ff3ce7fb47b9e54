//! What all routes share.

use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use mamos_core::auth::Gatekeeper;
use mamos_core::{Orchestrator, Timestamp};
use tokio::sync::Semaphore;

use crate::access::{Access, Place, Rate, RateLimiter};
use crate::counters::Counters;
use crate::live::{Live, LiveSettings};
use crate::page::Cursors;
use crate::prefer::MAX_WAITING;
use crate::problem::Problem;

/// The state of every handler.
pub(crate) struct Shared {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) gatekeeper: Arc<dyn Gatekeeper>,
    pub(crate) live: Live,
    /// The users, unless the program has its own.
    access: Option<Arc<Access>>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// How often a caller may ask; `None` for as often as they like.
    pub(crate) requests: Option<RateLimiter<Requester>>,
    /// How often it goes on record that one caller was kept from something, so that they cannot fill the
    /// audit log.
    pub(crate) denials: RateLimiter<String>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) cursors: Cursors,
    /// Room for callers that wait for the end of a job.
    pub(crate) waits: Semaphore,
    /// The OpenAPI document, written down when somebody first asks.
    pub(crate) document: OnceLock<serde_json::Value>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Requester {
    Known(String),
    Stranger(Place),
}

/// What an [`Api`](crate::Api) is made with.
#[derive(Default)]
pub(crate) struct Choices {
    pub(crate) gatekeeper: Option<Arc<dyn Gatekeeper>>,
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) request_rate: Option<Rate>,
}

impl Shared {
    pub(crate) fn new(orchestrator: Orchestrator, choices: Choices, live: LiveSettings) -> Self {
        let counters = Arc::new(Counters::default());
        let live = Live::new(&orchestrator, &counters, live);
        let (gatekeeper, access): (Arc<dyn Gatekeeper>, _) = match (choices.gatekeeper, choices.access) {
            (Some(gatekeeper), access) => (gatekeeper, access),
            (None, access) => {
                let access = access.unwrap_or_else(|| Access::new(&orchestrator));
                (Arc::clone(&access) as Arc<dyn Gatekeeper>, Some(access))
            }
        };
        Self {
            live,
            orchestrator,
            gatekeeper,
            access,
            trusted_proxies: choices.trusted_proxies,
            requests: choices.request_rate.map(RateLimiter::new),
            denials: RateLimiter::new(Rate::per_second(1, 60)),
            counters,
            cursors: Cursors::default(),
            waits: Semaphore::new(MAX_WAITING),
            document: OnceLock::new(),
        }
    }

    /// The users, if this API has them.
    pub(crate) fn access(&self) -> Result<&Arc<Access>, Problem> {
        let none = || Problem::not_found("this orchestrator does not keep its users itself");
        self.access.as_ref().ok_or_else(none)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.orchestrator.now()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
