//! Roles.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mamos_core::auth::{Permission, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::access::permission_named;
use crate::extract::{Body, Id};
use crate::guard::{Audited, Routes, Rule};
use crate::page::List;
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let administer = Rule::needs(Permission::Administer);
    routes
        .add(routes!(roles), administer)
        .add(routes!(put_role), administer.audited("role.put"))
        .add(routes!(remove_role), administer.audited("role.remove"))
}

/// What a role permits.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleBody {
    /// The names of the permissions.
    #[schema(example = json!(["read", "enqueue_jobs"]), max_items = 32)]
    permissions: Vec<String>,
}

/// A role.
#[derive(Debug, Serialize, ToSchema)]
struct RoleDto {
    /// Its name.
    #[schema(example = "night-shift")]
    name: String,
    /// What it permits.
    #[schema(example = json!(["read", "operate_jobs"]))]
    permissions: Vec<&'static str>,
    /// Is it always there, and always so?
    built_in: bool,
}

impl From<Role> for RoleDto {
    fn from(role: Role) -> Self {
        let built_in = Role::built_in().iter().any(|other| other.name == role.name);
        let permissions = role.permissions.into_iter().map(Permission::as_str).collect();
        Self { name: role.name, permissions, built_in }
    }
}

/// Lists the roles.
#[utoipa::path(get, path = "/api/v1/roles", tag = "access", operation_id = "roles", security(("bearer" = [])),
    responses(
        (status = 200, description = "The roles", body = List<RoleDto>),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn roles(State(shared): State<Arc<Shared>>) -> Result<Json<List<RoleDto>>, Problem> {
    let roles = shared.access()?.roles().await?;
    Ok(Json(List::all(roles.into_iter().map(RoleDto::from).collect())))
}

/// Makes a role, or changes what it permits. Whoever has it may that at once.
#[utoipa::path(put, path = "/api/v1/roles/{role}", tag = "access", operation_id = "put_role",
    security(("bearer" = [])), request_body = RoleBody,
    params(("role" = String, Path, description = "Its name", max_length = 64)), responses(
        (status = 200, description = "Changed", body = RoleDto),
        (status = 201, description = "Made", body = RoleDto),
        (status = 400, description = "The body is not JSON", body = Problem),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 409, description = "It is a built-in role", body = Problem),
        (status = 422, description = "The name or a permission cannot be used", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn put_role(
    State(shared): State<Arc<Shared>>,
    Id(name): Id<String>,
    Body(body): Body<RoleBody>,
) -> Result<Response, Problem> {
    let role = Role { name, permissions: permissions(&body.permissions)? };
    let is_new = shared.access()?.put_role(&role).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let role = RoleDto::from(role);
    let detail = role.permissions.join(", ");
    let mut response = (status, Json(role)).into_response();
    response.extensions_mut().insert(Audited { detail, ..Audited::default() });
    Ok(response)
}

/// Removes a role that no user has.
#[utoipa::path(delete, path = "/api/v1/roles/{role}", tag = "access", operation_id = "remove_role",
    security(("bearer" = [])), params(("role" = String, Path, description = "Its name", max_length = 64)),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 404, description = "There is no such role", body = Problem),
        (status = 409, description = "It is built in, or a user has it", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn remove_role(State(shared): State<Arc<Shared>>, Id(name): Id<String>) -> Result<StatusCode, Problem> {
    shared.access()?.remove_role(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads the names of permissions.
pub(super) fn permissions<C: FromIterator<Permission>>(names: &[String]) -> Result<C, Problem> {
    let read = |(index, name): (usize, &String)| {
        permission_named(name).ok_or_else(|| {
            let known = Permission::ALL.map(Permission::as_str).join(", ");
            Problem::invalid("there is no such permission")
                .at(format!("/permissions/{index}"), format!("not one of {known}"))
        })
    };
    names.iter().enumerate().map(read).collect()
}
