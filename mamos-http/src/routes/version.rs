//! Which program this is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::etag;
use crate::guard::{Routes, Rule};
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(routes!(show_version), Rule::PUBLIC)
}

/// Which program this is.
#[derive(Debug, Serialize, ToSchema)]
struct Version {
    /// The name of the orchestrator.
    name: String,
    /// The version of the program.
    version: &'static str,
    /// The version of the API.
    api: u32,
}

/// Says which program this is.
#[utoipa::path(get, path = "/api/v1/version", tag = "meta", responses(
    (status = 200, description = "The version", body = Version, headers(("ETag" = String))),
    (status = 304, description = "It is as the caller has it"),
))]
async fn show_version(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let name = shared.orchestrator.name().to_owned();
    etag::answer(&headers, &Version { name, version: env!("CARGO_PKG_VERSION"), api: 1 })
}
