//! The document of the API.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use utoipa_axum::routes;

use crate::api;
use crate::etag;
use crate::guard::{Routes, Rule};
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(routes!(show_document), Rule::PUBLIC)
}

/// Shows the OpenAPI 3.1 document of this API.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "meta", responses(
    (status = 200, description = "The document", body = serde_json::Value, headers(("ETag" = String))),
    (status = 304, description = "It is as the caller has it"),
))]
async fn show_document(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    // Whatever utoipa holds is made of texts and can be written down.
    let document =
        shared.document.get_or_init(|| serde_json::to_value(api::document(&shared)).unwrap_or_default());
    etag::answer(&headers, document)
}
