//! Registration tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use mamos_core::auth::Permission;
use mamos_core::id::TokenId;
use mamos_core::store::Cursor;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::dto::token::{CreatedToken, Token, TokenWish};
use crate::extract::{Checked, Id, Query};
use crate::guard::{Audited, Routes, Rule};
use crate::idempotency::Withheld;
use crate::page::{self, List};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let operate = Rule::needs(Permission::OperateAgents);
    routes
        .add(routes!(list_registration_tokens), operate)
        .add(routes!(create_registration_token), operate.audited("token.create").idempotent())
        .add(routes!(delete_registration_token), operate.audited("token.revoke"))
}

/// Which part of a list.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TokenQuery {
    /// How many at most. Default: 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the registration tokens that still admit somebody, the oldest first.
#[utoipa::path(get, path = "/api/v1/registration-tokens", tag = "registration-tokens", params(TokenQuery), responses(
    (status = 200, description = "Registration tokens", body = List<Token>, headers(("Link" = String, description = "The next page"))),
))]
async fn list_registration_tokens(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<TokenQuery>,
) -> Result<Response, Problem> {
    let asked =
        page::ask(&shared, "registration-tokens", &query, query.limit, query.cursor.as_deref()).await?;
    let mut tokens = shared.orchestrator.tokens().await?;
    tokens.sort_by_key(|token| token.id);
    let request = asked.request();
    let after = request.after.and_then(|after| after.0.parse::<TokenId>().ok());
    let mut rest = tokens.into_iter().filter(|token| after.is_none_or(|after| token.id > after));
    let items: Vec<_> = rest.by_ref().take(request.limit as usize).collect();
    let next = rest.next().and(items.last()).map(|last| Cursor(last.id.to_string()));
    Ok(asked.answer(&uri, items.iter().map(Token::from).collect(), next))
}

/// Makes a registration token. It is shown in this answer only.
#[utoipa::path(post, path = "/api/v1/registration-tokens", tag = "registration-tokens",
    params(("Idempotency-Key" = Option<String>, Header, description = "Asking again with the same key makes no other token; the answer then has no secret")),
    request_body = TokenWish, responses(
    (status = 201, description = "The token", body = CreatedToken, headers(("Location" = String))),
))]
async fn create_registration_token(
    State(shared): State<Arc<Shared>>,
    Checked(wish): Checked<TokenWish>,
) -> Result<Response, Problem> {
    let (token, secret) = shared.orchestrator.create_token(wish.into()).await?;
    let mut response = (StatusCode::CREATED, Json(CreatedToken::new(&token, &secret))).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/registration-tokens/{}", token.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    let extensions = response.extensions_mut();
    extensions.insert(Withheld(&["token"]));
    extensions.insert(Audited { target: Some(token.id.to_string()), ..Audited::default() });
    Ok(response)
}

/// Makes a registration token worthless.
#[utoipa::path(delete, path = "/api/v1/registration-tokens/{id}", tag = "registration-tokens",
    params(("id" = String, Path, description = "Its id")), responses(
    (status = 204, description = "It is worthless now"),
))]
async fn delete_registration_token(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<TokenId>,
) -> Result<StatusCode, Problem> {
    if shared.orchestrator.revoke_token(id).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found("there is no such registration token, or it is used up"))
}
