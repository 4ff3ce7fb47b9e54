//! API keys.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use mamos_core::auth::{Permission, Secret};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::me::user;
use super::roles::permissions;
use crate::access::{ApiKey, NewKey};
use crate::caller::Caller;
use crate::extract::{Body, Id, Query};
use crate::guard::{Audited, Routes, Rule};
use crate::idempotency::Withheld;
use crate::page::{self, List};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let administer = Rule::needs(Permission::Administer);
    routes
        .add(routes!(my_keys), Rule::USER)
        .add(routes!(create_key), Rule::LOGIN.audited("key.create").idempotent())
        // By a login: a key that may little cannot take away those that may more.
        .add(routes!(remove_my_key), Rule::LOGIN.audited("key.remove"))
        .add(routes!(keys), administer)
        .add(routes!(remove_key), administer.audited("key.remove"))
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeyBody {
    /// What it is for.
    #[schema(example = "the nightly import", min_length = 1, max_length = 128)]
    name: String,
    /// How long it is good; until it is removed without it.
    #[schema(minimum = 1, example = 2_592_000_000_u64)]
    expires_in_ms: Option<u64>,
    /// It may these things only, as far as its owner may them.
    #[schema(example = json!(["read"]), max_items = 32)]
    permissions: Option<Vec<String>>,
    /// It may be used from these networks only.
    #[schema(example = json!(["192.0.2.0/24"]), max_items = 32)]
    #[serde(default)]
    cidr: Vec<String>,
}

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
struct KeyDto {
    /// Names it. Not secret.
    id: String,
    /// The name of the user whose it is.
    owner: String,
    /// What it is for.
    name: String,
    /// What it may at most; null for all that its owner may.
    permissions: Option<Vec<&'static str>>,
    /// From where it may be used; empty for everywhere.
    cidr: Vec<String>,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// Until when it is good.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// When it was last used, a minute more or less.
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
    /// The key itself, only in the answer that makes it.
    #[schema(value_type = Option<String>, example = "mamos_key_…")]
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Secret>,
}

/// Which keys.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct KeysQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl From<ApiKey> for KeyDto {
    fn from(key: ApiKey) -> Self {
        let names = |permissions: std::collections::BTreeSet<Permission>| {
            permissions.into_iter().map(Permission::as_str).collect()
        };
        Self {
            id: key.id,
            owner: key.owner,
            name: key.name,
            permissions: key.permissions.map(names),
            cidr: key.networks.iter().map(ToString::to_string).collect(),
            created_at: key.created_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
            token: None,
        }
    }
}

/// Lists the keys of the caller.
#[utoipa::path(get, path = "/api/v1/me/keys", tag = "me", operation_id = "my_keys", security(("bearer" = [])),
    responses(
        (status = 200, description = "The keys", body = List<KeyDto>),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller is no user", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn my_keys(State(shared): State<Arc<Shared>>, caller: Caller) -> Result<Json<List<KeyDto>>, Problem> {
    let keys = shared.access()?.keys_of(&user(&caller)?).await?;
    Ok(Json(List::all(keys.into_iter().map(KeyDto::from).collect())))
}

/// Makes a key of the caller. Takes a login. The key itself is in this answer only.
#[utoipa::path(post, path = "/api/v1/me/keys", tag = "me", operation_id = "create_key",
    security(("bearer" = [])), request_body = KeyBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "Asking again with the same key makes no other key; the token is null then")),
    responses(
        (status = 201, description = "Made; the token is shown only here", body = KeyDto,
            headers(("Location" = String, description = "Where it is removed"))),
        (status = 400, description = "The body is not JSON", body = Problem),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "What was shown is no login", body = Problem),
        (status = 409, description = "The caller has too many keys", body = Problem),
        (status = 422, description = "A name, permission or network cannot be used", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn create_key(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Body(body): Body<KeyBody>,
) -> Result<Response, Problem> {
    let network = |(index, text): (usize, &String)| {
        let bad = |_| {
            let detail = "not a network such as 192.0.2.0/24 or 2001:db8::/32";
            Problem::invalid("there is no such network").at(format!("/cidr/{index}"), detail)
        };
        text.parse::<IpNet>().map_err(bad)
    };
    let new = NewKey {
        name: body.name,
        valid_for: body.expires_in_ms.map(Duration::from_millis),
        permissions: body.permissions.as_deref().map(permissions).transpose()?,
        networks: body.cidr.iter().enumerate().map(network).collect::<Result<_, _>>()?,
    };
    let (key, token) = shared.access()?.create_key(&user(&caller)?, new).await?;
    let location = format!("/api/v1/me/keys/{}", key.id);
    let target = Some(key.id.clone());
    let key = KeyDto { token: Some(token), ..KeyDto::from(key) };
    let mut response = (StatusCode::CREATED, [(LOCATION, location)], Json(key)).into_response();
    let extensions = response.extensions_mut();
    extensions.insert(Withheld(&["token"]));
    extensions.insert(Audited { target, ..Audited::default() });
    Ok(response)
}

/// Removes a key of the caller.
#[utoipa::path(delete, path = "/api/v1/me/keys/{id}", tag = "me", operation_id = "remove_my_key",
    security(("bearer" = [])), params(("id" = String, Path, description = "The id of the key", max_length = 64)),
    responses(
        (status = 204, description = "It is good for nothing any more"),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller is no user", body = Problem),
        (status = 404, description = "The caller has no such key", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn remove_my_key(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Id(id): Id<String>,
) -> Result<StatusCode, Problem> {
    shared.access()?.remove_key(&id, Some(&user(&caller)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the keys of all users.
#[utoipa::path(get, path = "/api/v1/keys", tag = "access", operation_id = "keys", security(("bearer" = [])),
    params(KeysQuery), responses(
        (status = 200, description = "The keys", body = List<KeyDto>,
            headers(("Link" = String, description = "The next page"))),
        (status = 400, description = "A parameter cannot be used", body = Problem),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn keys(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<KeysQuery>,
) -> Result<Response, Problem> {
    let asked = page::ask(&shared, "keys", &query, query.limit, query.cursor.as_deref()).await?;
    let keys = shared.access()?.keys(asked.request()).await?;
    Ok(asked.answer(&uri, keys.items.into_iter().map(KeyDto::from).collect(), keys.next))
}

/// Removes a key of any user.
#[utoipa::path(delete, path = "/api/v1/keys/{id}", tag = "access", operation_id = "remove_key",
    security(("bearer" = [])), params(("id" = String, Path, description = "The id of the key", max_length = 64)),
    responses(
        (status = 204, description = "It is good for nothing any more"),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 404, description = "There is no such key", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn remove_key(State(shared): State<Arc<Shared>>, Id(id): Id<String>) -> Result<StatusCode, Problem> {
    shared.access()?.remove_key(&id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
