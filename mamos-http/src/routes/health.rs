//! Whether the program lives, and whether it can do its work.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::guard::{Routes, Rule};
use crate::health::Readiness;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    // Supervisors ask often, and from one address.
    let rule = Rule::PUBLIC.unlimited();
    routes.add(routes!(livez), rule).add(routes!(readyz), rule)
}

/// The program lives.
#[derive(Debug, Serialize, ToSchema)]
struct Alive {
    /// `alive`.
    #[schema(example = "alive")]
    status: &'static str,
}

/// Says that the program lives. It asks nothing else: restart it if there is no answer.
#[utoipa::path(get, path = "/livez", tag = "health", responses(
    (status = 200, description = "It lives", body = Alive),
))]
async fn livez() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// Says whether the orchestrator can do its work: the store answers, listeners take agents, and it is neither
/// draining nor stopping. Send it no requests while it cannot.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "It can", body = Readiness),
    (status = 503, description = "It cannot; the checks say why", body = Readiness),
))]
async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Readiness>) {
    let is_closing = shared.live.closing.is_cancelled();
    let readiness = shared.live.health.check(&shared.orchestrator, is_closing).await;
    let is_ready = readiness.checks.iter().all(|check| check.is_ok);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}
