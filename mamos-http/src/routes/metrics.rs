//! Figures for Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use mamos_core::auth::Permission;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::guard::{Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;

/// OpenMetrics 1.0, 4.1.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What proxies add: who is behind one is not this machine.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

pub(crate) fn add(routes: Routes) -> Routes {
    // Who may read them depends on a setting and on where the call comes from: the handler decides.
    routes.add(routes!(metrics), Rule::PUBLIC)
}

/// Gives figures in the text format of OpenMetrics: to callers who may read, to this machine itself, and to
/// everybody if the program was set up so.
#[utoipa::path(get, path = "/metrics", tag = "health", security((), ("bearer" = [])), responses(
    (status = 200, description = "The figures", content_type = "application/openmetrics-text", body = String),
    (status = 401, description = "Nobody is known by what was shown", body = Problem),
    (status = 403, description = "The caller may not read", body = Problem),
))]
async fn metrics(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    if !(shared.live.settings.has_public_metrics || is_local(&request)) {
        let caller = request.extensions().get::<Caller>();
        let known = || Problem::unauthenticated("show a bearer token in the Authorization header");
        caller.ok_or_else(known)?.must(Permission::Read)?;
    }
    drop(request);
    let text = shared.live.metrics.text().await.map_err(|_| {
        let detail = "the figures cannot be written down";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    })?;
    Ok(([(CONTENT_TYPE, TEXT)], text).into_response())
}

fn is_local(request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let is_forwarded = FORWARDED.iter().any(|name| request.headers().contains_key(*name));
    peer.is_some_and(|peer| peer.0.ip().is_loopback()) && !is_forwarded
}
