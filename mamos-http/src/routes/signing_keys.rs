//! The keys that sign the tokens of agents.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use mamos_core::auth::Permission;
use mamos_core::auth::tokens::Jwk;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::guard::{Audited, Routes, Rule};
use crate::page::List;
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let administer = Rule::needs(Permission::Administer);
    routes
        .add(routes!(jwks), Rule::PUBLIC)
        .add(routes!(signing_keys), administer)
        .add(routes!(rotate), administer.audited("signing_key.rotate"))
}

/// A public key (RFC 8037) that the tokens of agents can be checked with.
#[derive(Debug, Serialize, ToSchema)]
struct JwkDto {
    /// The type of key.
    #[schema(example = "OKP")]
    kty: &'static str,
    /// The curve.
    #[schema(example = "Ed25519")]
    crv: &'static str,
    /// The algorithm.
    #[schema(example = "EdDSA")]
    alg: &'static str,
    /// What it is for.
    #[serde(rename = "use")]
    #[schema(example = "sig")]
    usage: &'static str,
    /// Its id, as tokens name it.
    kid: String,
    /// The key.
    x: String,
}

/// A set of keys (RFC 7517).
#[derive(Debug, Serialize, ToSchema)]
struct JwkSet {
    /// The keys; the last one signs.
    keys: Vec<JwkDto>,
}

/// The key that signs from now on.
#[derive(Debug, Serialize, ToSchema)]
struct Rotated {
    /// Its id.
    kid: String,
}

impl From<Jwk> for JwkDto {
    fn from(key: Jwk) -> Self {
        let Jwk { kty, crv, alg, usage, kid, x } = key;
        Self { kty, crv, alg, usage, kid, x }
    }
}

async fn public_keys(shared: &Shared) -> Result<Vec<JwkDto>, Problem> {
    let keys = shared.orchestrator.signing_keys().public_keys(shared.now()).await?;
    Ok(keys.into_iter().map(JwkDto::from).collect())
}

/// The public keys that the tokens of agents can be checked with.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "access", operation_id = "jwks", responses(
    (status = 200, description = "The keys", body = JwkSet),
    (status = 429, description = "Too many requests; slow down", body = Problem),
    (status = 503, description = "The store does not answer", body = Problem),
))]
async fn jwks(State(shared): State<Arc<Shared>>) -> Result<Json<JwkSet>, Problem> {
    Ok(Json(JwkSet { keys: public_keys(&shared).await? }))
}

/// Lists the keys that the tokens of agents are signed with, the newest last.
#[utoipa::path(get, path = "/api/v1/signing-keys", tag = "access", operation_id = "signing_keys",
    security(("bearer" = [])), responses(
        (status = 200, description = "The public halves", body = List<JwkDto>),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn signing_keys(State(shared): State<Arc<Shared>>) -> Result<Json<List<JwkDto>>, Problem> {
    Ok(Json(List::all(public_keys(&shared).await?)))
}

/// Makes a new key that signs the tokens of agents from now on. Those before it stay good for the tokens that
/// they signed.
#[utoipa::path(post, path = "/api/v1/signing-keys/rotate", tag = "access", operation_id = "rotate_signing_keys",
    security(("bearer" = [])), responses(
        (status = 200, description = "Made", body = Rotated),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn rotate(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let kid = shared.orchestrator.signing_keys().rotate(shared.now()).await?;
    let target = Some(kid.clone());
    let mut response = Json(Rotated { kid }).into_response();
    response.extensions_mut().insert(Audited { target, ..Audited::default() });
    Ok(response)
}
