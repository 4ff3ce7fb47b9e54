//! Whether the orchestrator can do its work now.

use std::time::Duration;

use mamos_core::Orchestrator;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

/// A store that does not answer within this time counts as down.
const STORE_WITHIN: Duration = Duration::from_secs(1);
/// The store is asked at most this often, however often somebody asks us.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Whether an orchestrator can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready` or `not_ready`.
    #[schema(example = "ready")]
    pub(crate) status: &'static str,
    pub(crate) checks: Vec<Check>,
}

/// One thing that must be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Check {
    #[schema(example = "store")]
    pub(crate) name: &'static str,
    pub(crate) is_ok: bool,
    /// What is wrong, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<&'static str>,
}

/// Remembers how the store was a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Health {
    store: tokio::sync::Mutex<Option<(Instant, Option<&'static str>)>>,
}

impl Health {
    pub(crate) async fn check(&self, orchestrator: &Orchestrator, is_closing: bool) -> Readiness {
        let stopping = is_closing || orchestrator.is_stopping();
        let serving = (!orchestrator.is_serving()).then_some("it does not run, or a listener is down");
        let checks = [
            ("store", self.store(orchestrator).await),
            ("listeners", serving),
            ("not_draining", orchestrator.is_draining().then_some("it hands out no jobs")),
            ("not_stopping", stopping.then_some("it is shutting down")),
        ];
        let checks: Vec<Check> =
            checks.map(|(name, detail)| Check { name, is_ok: detail.is_none(), detail }).into();
        let is_ready = checks.iter().all(|check| check.is_ok);
        Readiness { status: if is_ready { "ready" } else { "not_ready" }, checks }
    }

    /// What is wrong with the store. Those who ask meanwhile wait for the one answer.
    async fn store(&self, orchestrator: &Orchestrator) -> Option<&'static str> {
        let mut last = self.store.lock().await;
        if let Some((at, detail)) = *last
            && at.elapsed() < KEPT_FOR
        {
            return detail;
        }
        let detail = match tokio::time::timeout(STORE_WITHIN, orchestrator.store().paused_queues()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                tracing::warn!(target: "mamos::http", %error, "the store is not ready");
                Some("it answers with an error; see the log of the orchestrator")
            }
            Err(_) => Some("it did not answer within 1 s"),
        };
        *last = Some((Instant::now(), detail));
        detail
    }
}
