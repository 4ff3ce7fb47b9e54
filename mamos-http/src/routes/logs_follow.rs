//! What a job prints, while it prints it.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use mamos_core::auth::Permission;
use mamos_core::id::JobId;
use mamos_core::lease::Epoch;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::events::last_event_id;
use crate::caller::Caller;
use crate::extract::{Id, Query};
use crate::guard::{Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::stream::{LogSource, Supervisor, parse_place, sse, ws};

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(routes!(follow), Rule::needs(Permission::Read))
        .add(routes!(follow_ws), Rule::needs(Permission::Read))
}

/// From where on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FollowQuery {
    /// The run to begin with. Default: the current or last one. Later runs follow.
    #[param(example = "3")]
    epoch: Option<String>,
    /// The byte of that run's log to begin with. Default: 0. The header `Last-Event-ID` wins over both.
    #[param(minimum = 0)]
    offset: Option<u64>,
}

/// Streams the log of a job as server-sent events: what is there, and what comes, over all later attempts,
/// until the job has ended.
///
/// `attempt` says which run printed what follows, `log` is a piece (`text`, or `base64` where it is not UTF-8;
/// its `offset` is the `next_offset` of the one before), `end` the last word with the state of the job or a
/// reason. The id is `<epoch>-<offset>`.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/log/follow", tag = "jobs",
    params(("job" = String, Path, description = "The job"), FollowQuery), security(("bearer" = [])), responses(
    (status = 200, description = "The stream", content_type = "text/event-stream"),
    (status = 400, description = "A parameter is wrong", body = Problem),
    (status = 401, description = "Nobody is known by what was shown", body = Problem),
    (status = 403, description = "The caller may not read", body = Problem),
    (status = 404, description = "There is no such job", body = Problem),
    (status = 429, description = "Too many streams", body = Problem),
))]
async fn follow(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    Id(job): Id<String>,
    Query(query): Query<FollowQuery>,
) -> Result<Response, Problem> {
    let source = source(&shared, &headers, &job, &query).await?;
    let supervisor = Supervisor::begin(&shared, &caller, &headers, Permission::Read)?;
    Ok(sse(source, supervisor))
}

/// Streams the log of a job over WebSocket: the same JSON as over server-sent events, as text frames.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/log/ws", tag = "jobs",
    params(("job" = String, Path, description = "The job"), FollowQuery), security(("bearer" = [])), responses(
    (status = 101, description = "The stream follows"),
    (status = 400, description = "A parameter is wrong, or it is no WebSocket request", body = Problem),
    (status = 401, description = "Nobody is known by what was shown", body = Problem),
    (status = 403, description = "The caller may not read", body = Problem),
    (status = 404, description = "There is no such job", body = Problem),
    (status = 429, description = "Too many streams", body = Problem),
))]
async fn follow_ws(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    Id(job): Id<String>,
    Query(query): Query<FollowQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let source = source(&shared, &headers, &job, &query).await?;
    let supervisor = Supervisor::begin(&shared, &caller, &headers, Permission::Read)?;
    Ok(ws(upgrade, source, supervisor))
}

async fn source(
    shared: &Shared,
    headers: &HeaderMap,
    job: &str,
    query: &FollowQuery,
) -> Result<LogSource, Problem> {
    let (epoch, offset) = match last_event_id(headers)? {
        Some(place) => {
            let (epoch, offset) = parse_place(place)?;
            (Some(epoch), offset)
        }
        None => {
            let number = query.epoch.as_deref().map(str::parse).transpose();
            let number = number.map_err(|_| {
                Problem::bad_request("the epoch is not a number").at("epoch", "expected a whole number")
            })?;
            (number.map(Epoch::from_number), query.offset.unwrap_or_default())
        }
    };
    let job: JobId = job.parse().map_err(|_| Problem::not_found(format!("there is no job {job}")))?;
    // A job that is not there is said before the stream begins.
    shared.orchestrator.job(job).await?;
    Ok(LogSource::new(&shared.orchestrator, job, epoch, offset))
}
