//! Users.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use mamos_core::auth::{Permission, Secret};
use mamos_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::access::{User, UserChange, UserName};
use crate::etag;
use crate::extract::{Body, Id, Query};
use crate::guard::{Audited, Routes, Rule};
use crate::page::{self, List};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let administer = Rule::needs(Permission::Administer);
    routes
        .add(routes!(users), administer)
        .add(routes!(create_user), administer.audited("user.create").idempotent_but_for(&["password"]))
        .add(routes!(user), administer)
        .add(routes!(change_user), administer.audited("user.change"))
        .add(routes!(remove_user), administer.audited("user.remove"))
}

/// A user to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserBody {
    /// Their name, unique.
    #[schema(example = "ann", min_length = 1, max_length = 64, pattern = "^[a-z0-9][a-z0-9._@-]*$")]
    name: String,
    /// Their password; without it they cannot log in until they get one.
    #[schema(value_type = Option<String>, format = Password, min_length = 12, max_length = 512)]
    password: Option<Secret>,
    /// The names of their roles.
    #[schema(example = json!(["operator"]), max_items = 32)]
    roles: BTreeSet<String>,
}

/// What to change about a user; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserPatch {
    /// The names of all their roles from now on.
    #[schema(example = json!(["operator"]), max_items = 32)]
    roles: Option<BTreeSet<String>>,
    /// Keeps them out and ends their logins, or lets them in again.
    disabled: Option<bool>,
    /// Their new password. Ends their logins.
    #[schema(value_type = Option<String>, format = Password, min_length = 12, max_length = 512)]
    password: Option<Secret>,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
struct UserDto {
    /// Their name.
    #[schema(example = "ann")]
    name: String,
    /// The names of their roles.
    #[schema(example = json!(["operator"]))]
    roles: BTreeSet<String>,
    /// Are they kept out?
    disabled: bool,
    /// Can they log in?
    has_password: bool,
    /// When they were made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When they were last changed.
    #[schema(format = DateTime)]
    changed_at: String,
    /// Grows with each change.
    revision: u64,
}

/// Which users.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UsersQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl From<User> for UserDto {
    fn from(user: User) -> Self {
        Self {
            name: user.name.to_string(),
            roles: user.roles,
            disabled: user.is_disabled,
            has_password: user.has_password,
            created_at: user.created_at.to_string(),
            changed_at: user.changed_at.to_string(),
            revision: user.revision,
        }
    }
}

/// Lists the users by name.
#[utoipa::path(get, path = "/api/v1/users", tag = "access", operation_id = "users", security(("bearer" = [])),
    params(UsersQuery), responses(
        (status = 200, description = "The users", body = List<UserDto>,
            headers(("Link" = String, description = "The next page"))),
        (status = 400, description = "A parameter cannot be used", body = Problem),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn users(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<UsersQuery>,
) -> Result<Response, Problem> {
    let asked = page::ask(&shared, "users", &query, query.limit, query.cursor.as_deref()).await?;
    let users = shared.access()?.users(asked.request()).await?;
    Ok(asked.answer(&uri, users.items.into_iter().map(UserDto::from).collect(), users.next))
}

/// Makes a user.
#[utoipa::path(post, path = "/api/v1/users", tag = "access", operation_id = "create_user",
    security(("bearer" = [])), request_body = UserBody, params(
        ("Idempotency-Key" = Option<String>, Header, description = "Asking again with the same key makes no other user. The password is not compared: nothing is kept that it could be guessed by"),
    ), responses(
        (status = 201, description = "Made", body = UserDto,
            headers(("Location" = String, description = "Where they are"), ("ETag" = String))),
        (status = 400, description = "The body is not JSON", body = Problem),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 409, description = "There is a user with that name", body = Problem),
        (status = 422, description = "A name, password or role cannot be used", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "Too many passwords at once, or the store does not answer", body = Problem),
    ))]
async fn create_user(
    State(shared): State<Arc<Shared>>,
    Body(body): Body<UserBody>,
) -> Result<Response, Problem> {
    let name = UserName::new(&body.name)?;
    let user = shared.access()?.create_user(&name, body.password, body.roles).await?;
    let mut response = shown(user);
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/users/{name}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response.extensions_mut().insert(Audited { target: Some(name.to_string()), ..Audited::default() });
    Ok(response)
}

/// One user.
#[utoipa::path(get, path = "/api/v1/users/{user}", tag = "access", operation_id = "user",
    security(("bearer" = [])), params(("user" = String, Path, description = "Their name", max_length = 64)),
    responses(
        (status = 200, description = "The user", body = UserDto, headers(("ETag" = String))),
        (status = 304, description = "They are as the caller has them"),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 404, description = "There is no such user", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn user(
    State(shared): State<Arc<Shared>>,
    Id(name): Id<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let user = shared.access()?.user(&named(&name)?).await?;
    Ok(etag::answer_revision(&headers, user.revision, &UserDto::from(user)))
}

/// Changes a user.
#[utoipa::path(patch, path = "/api/v1/users/{user}", tag = "access", operation_id = "change_user",
    security(("bearer" = [])), request_body = UserPatch, params(
        ("user" = String, Path, description = "Their name", max_length = 64),
        ("If-Match" = String, Header, description = "The ETag that they were read with"),
    ), responses(
        (status = 200, description = "Changed", body = UserDto, headers(("ETag" = String))),
        (status = 400, description = "The body is not JSON", body = Problem),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 404, description = "There is no such user", body = Problem),
        (status = 409, description = "Nobody would be left who may everything", body = Problem),
        (status = 412, description = "They were changed meanwhile", body = Problem),
        (status = 422, description = "A password or role cannot be used", body = Problem),
        (status = 428, description = "There is no If-Match", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "Too many passwords at once, or the store does not answer", body = Problem),
    ))]
async fn change_user(
    State(shared): State<Arc<Shared>>,
    Id(name): Id<String>,
    headers: HeaderMap,
    Body(body): Body<UserPatch>,
) -> Result<Response, Problem> {
    let (name, revision) = seen(&shared, &name, &headers).await?;
    let mut said: Vec<String> = Vec::new();
    said.extend(body.roles.as_ref().map(|roles| format!("roles {roles:?}")));
    said.extend(body.disabled.map(|disabled| format!("disabled {disabled}")));
    said.extend(body.password.as_ref().map(|_| "another password".to_owned()));
    let change = UserChange { roles: body.roles, is_disabled: body.disabled, password: body.password };
    let user = shared.access()?.change_user(&name, change, Some(revision)).await.map_err(stale)?;
    let mut response = shown(user);
    response.extensions_mut().insert(Audited { detail: said.join(", "), ..Audited::default() });
    Ok(response)
}

/// Removes a user, with their logins and keys.
#[utoipa::path(delete, path = "/api/v1/users/{user}", tag = "access", operation_id = "remove_user",
    security(("bearer" = [])), params(
        ("user" = String, Path, description = "Their name", max_length = 64),
        ("If-Match" = String, Header, description = "The ETag that they were read with"),
    ), responses(
        (status = 204, description = "They are gone"),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 404, description = "There is no such user", body = Problem),
        (status = 409, description = "Nobody would be left who may everything", body = Problem),
        (status = 412, description = "They were changed meanwhile", body = Problem),
        (status = 428, description = "There is no If-Match", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn remove_user(
    State(shared): State<Arc<Shared>>,
    Id(name): Id<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (name, revision) = seen(&shared, &name, &headers).await?;
    shared.access()?.remove_user(&name, Some(revision)).await.map_err(stale)?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(user: User) -> Response {
    etag::fresh(user.revision, &UserDto::from(user))
}

/// A name that nobody can have names nobody.
fn named(name: &str) -> Result<UserName, Problem> {
    UserName::new(name).map_err(|_| Problem::not_found("nobody can have this name"))
}

/// The user that the caller read, if they are still so.
async fn seen(shared: &Shared, name: &str, headers: &HeaderMap) -> Result<(UserName, u64), Problem> {
    let name = named(name)?;
    let revision = shared.access()?.user(&name).await?.revision;
    etag::check_revision(headers, revision)?;
    Ok((name, revision))
}

fn stale(error: Error) -> Problem {
    match error.kind() {
        ErrorKind::Stale => etag::stale(),
        _ => error.into(),
    }
}
