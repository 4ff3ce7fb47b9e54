//! Logging in and out, and the first admin.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use mamos_core::auth::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::access::{Login, LoginError, UserName};
use crate::bearer::bearer;
use crate::counters::Refusal;
use crate::extract::Body;
use crate::guard::{Audited, CameFrom, Routes, Rule, whole_seconds};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(routes!(login), Rule::PUBLIC.audited("login"))
        .add(routes!(logout), Rule::LOGIN.audited("logout"))
        .add(routes!(set_up), Rule::PUBLIC.audited("setup"))
}

/// Who wants to log in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    /// The name of the user.
    #[schema(example = "ann", max_length = 64)]
    user: String,
    /// The password.
    #[schema(value_type = String, format = Password, max_length = 512)]
    password: Secret,
}

/// Who becomes the first admin.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetupBody {
    /// The token that the orchestrator showed when it was started.
    #[schema(value_type = String, format = Password, example = "mamos_setup_…")]
    setup_token: Secret,
    /// The name of the first user.
    #[schema(example = "ann", min_length = 1, max_length = 64, pattern = "^[a-z0-9][a-z0-9._@-]*$")]
    user: String,
    /// Their password.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 512)]
    password: Secret,
}

/// A login.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LoginDto {
    /// What to show as the bearer token from now on. Cannot be seen again.
    #[schema(value_type = String, example = "mamos_ses_…")]
    token: Secret,
    /// Good until then.
    #[schema(format = DateTime)]
    expires_at: String,
}

impl From<Login> for LoginDto {
    fn from(login: Login) -> Self {
        Self { token: login.token, expires_at: login.expires_at.to_string() }
    }
}

/// Checks a password and gives a token that is good for some hours.
#[utoipa::path(post, path = "/api/v1/login", tag = "me", operation_id = "login", request_body = LoginBody,
    responses(
        (status = 200, description = "Logged in", body = LoginDto),
        (status = 400, description = "The body is not JSON", body = Problem),
        (status = 401, description = "The user or the password is wrong", body = Problem),
        (status = 422, description = "The body does not say who", body = Problem),
        (status = 429, description = "Too many tries; wait", body = Problem),
        (status = 503, description = "Too many log in at once, or the store does not answer", body = Problem),
    ))]
async fn login(
    State(shared): State<Arc<Shared>>,
    CameFrom(peer): CameFrom,
    Body(body): Body<LoginBody>,
) -> Result<Response, Problem> {
    let result = shared.access()?.login(&body.user, body.password, peer).await;
    Ok(answer(&shared, &body.user, "the user or the password is wrong", result))
}

/// Makes the first user, who may everything, with the token that the orchestrator showed when it was
/// started. Works once.
#[utoipa::path(post, path = "/api/v1/setup", tag = "me", operation_id = "set_up", request_body = SetupBody,
    responses(
        (status = 200, description = "Made, and logged in", body = LoginDto),
        (status = 400, description = "The body is not JSON", body = Problem),
        (status = 401, description = "The token is wrong, used or expired", body = Problem),
        (status = 422, description = "The name or the password cannot be used", body = Problem),
        (status = 429, description = "Too many tries; wait", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn set_up(
    State(shared): State<Arc<Shared>>,
    CameFrom(peer): CameFrom,
    Body(body): Body<SetupBody>,
) -> Result<Response, Problem> {
    let name = UserName::new(&body.user)?;
    let result = shared.access()?.set_up(&body.setup_token, &name, body.password, peer).await;
    let wrong = "the setup token is wrong, used or expired; start the orchestrator anew for another";
    Ok(answer(&shared, &body.user, wrong, result))
}

/// Ends the login whose token is shown.
#[utoipa::path(post, path = "/api/v1/logout", tag = "me", operation_id = "logout", security(("bearer" = [])),
    responses(
        (status = 204, description = "It is over"),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "What was shown is no login", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn logout(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    if let Some(token) = bearer(&headers)? {
        shared.access()?.logout(&token).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The answer to somebody who showed a password, with what the audit log says of it.
pub(super) fn answer(
    shared: &Shared,
    user: &str,
    wrong: &'static str,
    result: Result<Login, LoginError>,
) -> Response {
    // What somebody typed there by mistake may be their password.
    let target = UserName::new(user).map(|name| format!("user:{name}")).ok();
    let (mut response, principal) = match result {
        Ok(login) => (Json(LoginDto::from(login)).into_response(), target.clone()),
        Err(LoginError::Wrong) => {
            shared.counters.refuse(Refusal::WrongPassword);
            (Problem::unauthenticated(wrong).into_response(), Some("anonymous".to_owned()))
        }
        Err(LoginError::TooMany(wait)) => {
            shared.counters.refuse(Refusal::TooManyFailures);
            let problem = Problem::too_many("too many tries; wait", whole_seconds(wait));
            (problem.into_response(), None)
        }
        Err(LoginError::Failed(error)) => (Problem::from(error).into_response(), None),
    };
    let target = Some(target.unwrap_or_default());
    response.extensions_mut().insert(Audited { principal, target, ..Audited::default() });
    response
}
