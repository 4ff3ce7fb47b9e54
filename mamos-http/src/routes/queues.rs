//! Queues.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use mamos_core::QueueName;
use mamos_core::auth::Permission;
use mamos_core::store::Cursor;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::dto::queue::Queue;
use crate::etag;
use crate::extract::{Id, Query};
use crate::guard::{Routes, Rule};
use crate::page::{self, List};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let read = Rule::needs(Permission::Read);
    let operate = |action| Rule::needs(Permission::OperateJobs).audited(action);
    routes
        .add(routes!(list_queues), read)
        .add(routes!(show_queue), read)
        .add(routes!(pause_queue), operate("queue.pause"))
        .add(routes!(resume_queue), operate("queue.resume"))
}

/// Which part of a list.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct QueueQuery {
    /// How many at most. Default: 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists queues by name, counted.
#[utoipa::path(get, path = "/api/v1/queues", tag = "queues", params(QueueQuery), responses(
    (status = 200, description = "Queues", body = List<Queue>, headers(("Link" = String, description = "The next page"))),
))]
async fn list_queues(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<QueueQuery>,
) -> Result<Response, Problem> {
    let asked = page::ask(&shared, "queues", &query, query.limit, query.cursor.as_deref()).await?;
    let request = asked.request();
    let after = request.after.as_ref().map(|after| after.0.as_str());
    let queues = shared.orchestrator.queues().await?;
    let mut rest = queues.iter().filter(|queue| after.is_none_or(|after| queue.queue.as_str() > after));
    let items: Vec<_> = rest.by_ref().take(request.limit as usize).collect();
    let next = rest.next().and(items.last()).map(|last| Cursor(last.queue.to_string()));
    let now = shared.now();
    Ok(asked.answer(&uri, items.into_iter().map(|queue| Queue::new(queue, now)).collect(), next))
}

/// Shows a queue, counted.
#[utoipa::path(get, path = "/api/v1/queues/{queue}", tag = "queues",
    params(("queue" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The queue", body = Queue, headers(("ETag" = String))),
    (status = 304, description = "It is as the caller has it"),
))]
async fn show_queue(
    State(shared): State<Arc<Shared>>,
    Id(name): Id<QueueName>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let queue = shared.orchestrator.queue(&name).await?;
    Ok(etag::answer(&headers, &Queue::new(&queue, shared.now())))
}

/// Gives out no more jobs of a queue. What agents have goes on.
#[utoipa::path(post, path = "/api/v1/queues/{queue}/pause", tag = "queues",
    params(("queue" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The queue", body = Queue),
))]
async fn pause_queue(
    State(shared): State<Arc<Shared>>,
    Id(name): Id<QueueName>,
) -> Result<Json<Queue>, Problem> {
    shared.orchestrator.pause(&name).await?;
    let queue = shared.orchestrator.queue(&name).await?;
    Ok(Json(Queue::new(&queue, shared.now())))
}

/// Lets a queue go on.
#[utoipa::path(post, path = "/api/v1/queues/{queue}/resume", tag = "queues",
    params(("queue" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The queue", body = Queue),
))]
async fn resume_queue(
    State(shared): State<Arc<Shared>>,
    Id(name): Id<QueueName>,
) -> Result<Json<Queue>, Problem> {
    // Looked up first: resuming what is not there must not make it.
    shared.orchestrator.queue(&name).await?;
    shared.orchestrator.resume(&name).await?;
    let queue = shared.orchestrator.queue(&name).await?;
    Ok(Json(Queue::new(&queue, shared.now())))
}
