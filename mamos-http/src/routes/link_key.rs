//! The key that agents pin over a bus.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use mamos_core::auth::{Permission, link_key};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::guard::{Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(routes!(show_link_key), Rule::needs(Permission::Read))
}

/// The key with which all orchestrators on the store prove themselves to agents that come over a bus.
#[derive(Debug, Serialize, ToSchema)]
struct LinkKey {
    /// Its public half, which agents pin, as Base64 for URLs.
    #[schema(example = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg")]
    public_key: String,
}

/// Shows the key that agents pin over a bus. It is no secret, and is made at the first start with a bus.
#[utoipa::path(get, path = "/api/v1/link-key", tag = "agents", operation_id = "link_key",
    security(("bearer" = [])), responses(
        (status = 200, description = "The public half", body = LinkKey),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 404, description = "No orchestrator on this store has made one", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn show_link_key(State(shared): State<Arc<Shared>>) -> Result<Json<LinkKey>, Problem> {
    let found = link_key::find(&**shared.orchestrator.store(), shared.now()).await?;
    let none = "no key was made; an orchestrator that listens on a bus makes it when it starts (`mamos-server --bus`)";
    let key = found.ok_or_else(|| Problem::not_found(none))?;
    Ok(Json(LinkKey { public_key: key.public_key().to_string() }))
}
