//! The audit log.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use mamos_core::audit::{AuditFilter, AuditOutcome, AuditRecord};
use mamos_core::auth::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::extract::Query;
use crate::guard::{Routes, Rule};
use crate::page::{self, List};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(routes!(audit), Rule::needs(Permission::ReadAudit))
}

/// Which records. Everything given must hold.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// How many at most. There may be fewer, even none, and more to come: see `next_cursor`.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Of this principal.
    #[param(example = "user:ann")]
    principal: Option<String>,
    /// Of this action, or of all that begin so if it ends with a dot.
    #[param(example = "agent.")]
    action: Option<String>,
    /// To this target.
    target: Option<String>,
    /// That went so.
    #[param(inline)]
    outcome: Option<OutcomeDto>,
}

/// How it went.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OutcomeDto {
    /// It was done.
    Done,
    /// They may not.
    Denied,
    /// They may, and it did not work.
    Failed,
}

/// Something that somebody did, or tried to do.
#[derive(Debug, Serialize, ToSchema)]
struct AuditDto {
    /// Its id; later records have larger ones.
    id: String,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// Who; `anonymous` for a stranger.
    #[schema(example = "user:ann")]
    principal: String,
    /// What.
    #[schema(example = "agent.drain")]
    action: String,
    /// To what.
    target: String,
    /// How it went.
    outcome: OutcomeDto,
    /// More about it, for people.
    detail: String,
    /// The address that it came from; empty if from the orchestrator itself.
    peer: String,
}

impl From<AuditRecord> for AuditDto {
    fn from(record: AuditRecord) -> Self {
        let entry = record.entry;
        Self {
            id: record.id.to_string(),
            at: record.at.to_string(),
            principal: entry.principal,
            action: entry.action,
            target: entry.target,
            outcome: match entry.outcome {
                AuditOutcome::Done => OutcomeDto::Done,
                AuditOutcome::Denied => OutcomeDto::Denied,
                AuditOutcome::Failed => OutcomeDto::Failed,
            },
            detail: entry.detail,
            peer: entry.peer,
        }
    }
}

/// Lists who did what that needed a permission, and who was kept from it, the newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "access", operation_id = "audit", security(("bearer" = [])),
    params(AuditQuery), responses(
        (status = 200, description = "The records", body = List<AuditDto>,
            headers(("Link" = String, description = "The next page"))),
        (status = 400, description = "A parameter cannot be used", body = Problem),
        (status = 401, description = "Nobody is known by what was shown", body = Problem),
        (status = 403, description = "The caller may not", body = Problem),
        (status = 429, description = "Too many requests; slow down", body = Problem),
        (status = 503, description = "The store does not answer", body = Problem),
    ))]
async fn audit(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let asked = page::ask(&shared, "audit", &query, query.limit, query.cursor.as_deref()).await?;
    let outcome = query.outcome.map(|outcome| match outcome {
        OutcomeDto::Done => AuditOutcome::Done,
        OutcomeDto::Denied => AuditOutcome::Denied,
        OutcomeDto::Failed => AuditOutcome::Failed,
    });
    let filter =
        AuditFilter { principal: query.principal, action: query.action, target: query.target, outcome };
    let records = shared.orchestrator.audit().list(&filter, asked.request(), shared.now()).await?;
    Ok(asked.answer(&uri, records.items.into_iter().map(AuditDto::from).collect(), records.next))
}
