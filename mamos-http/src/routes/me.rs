//! Who the caller is, and what concerns only them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mamos_core::auth::{Permission, Secret};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::login::{LoginDto, answer};
use crate::access::UserName;
use crate::caller::Caller;
use crate::extract::Body;
use crate::guard::{CameFrom, Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let routes = routes.add(routes!(me), Rule::ANYONE);
    if !routes.keeps_users() {
        return routes;
    }
    routes.add(routes!(change_password), Rule::LOGIN.audited("user.password"))
}

/// Who a caller is and what they may do.
#[derive(Debug, Serialize, ToSchema)]
struct Me {
    /// Their name.
    #[schema(example = "user:ann")]
    principal: String,
    /// The names of their roles.
    roles: Vec<String>,
    /// What they may do.
    permissions: Vec<&'static str>,
}

/// Another password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordBody {
    /// The password that they have.
    #[schema(value_type = String, format = Password, max_length = 512)]
    password: Secret,
    /// The password that they want.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 512)]
    new_password: Secret,
}

/// Says who the caller is and what they may do.
#[utoipa::path(get, path = "/api/v1/me", tag = "me", operation_id = "me", security(("bearer" = [])), responses(
    (status = 200, description = "Who the caller is", body = Me),
    (status = 401, description = "Nobody is known by what was shown", body = Problem),
    (status = 429, description = "Too many requests; slow down", body = Problem),
    (status = 503, description = "The store does not answer", body = Problem),
))]
async fn me(caller: Caller) -> Json<Me> {
    Json(Me {
        principal: caller.principal.name,
        roles: caller.principal.roles.into_iter().collect(),
        permissions: caller.permissions.iter().copied().map(Permission::as_str).collect(),
    })
}

/// Changes the password of the caller, which ends all their logins, and logs them in again. Takes a login.
#[utoipa::path(put, path = "/api/v1/me/password", tag = "me", operation_id = "change_password",
    security(("bearer" = [])), request_body = PasswordBody, responses(
        (status = 200, description = "Changed; the logins before are over", body = LoginDto),
        (status = 400, description = "The body is not JSON", body = Problem),
        (status = 401, description = "The password that they have is another", body = Problem),
        (status = 403, description = "What was shown is no login", body = Problem),
        (status = 422, description = "The new password is too short or too long", body = Problem),
        (status = 429, description = "Too many tries; wait", body = Problem),
        (status = 503, description = "Too many log in at once, or the store does not answer", body = Problem),
    ))]
async fn change_password(
    State(shared): State<Arc<Shared>>,
    CameFrom(peer): CameFrom,
    caller: Caller,
    Body(body): Body<PasswordBody>,
) -> Result<Response, Problem> {
    let name = user(&caller)?;
    let changed = shared.access()?.change_password(&name, body.password, body.new_password, peer).await;
    Ok(answer(&shared, name.as_str(), "the password that you have is another", changed))
}

/// The user that the caller is.
pub(super) fn user(caller: &Caller) -> Result<UserName, Problem> {
    let name = caller.principal.name.strip_prefix("user:");
    let name = name.and_then(|name| UserName::new(name).ok());
    name.ok_or_else(|| Problem::forbidden("this is for users; agents have their own token"))
}
