//! Jobs: reading them. What changes them is in the files of this module.

mod enqueue;
mod log;
mod operate;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use mamos_core::auth::Permission;
use mamos_core::job::JobRecord;
use mamos_core::store::{JobFilter, Page, PageRequest};
use mamos_core::{AgentId, JobId, JobKind, QueueName};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::dto::job::{Attempt, Attempts, Explanation, Job, JobSummary, State as JobStateName};
use crate::dto::labels_of;
use crate::etag;
use crate::extract::{Id, Query};
use crate::guard::{Routes, Rule};
use crate::page::{self, List};
use crate::prefer;
use crate::problem::Problem;
use crate::shared::Shared;

/// How many jobs are read at first, and how many bytes of arguments and output one list may bring into
/// memory: a list shows neither, and a store reads both.
const FIRST_READ: u32 = 8;
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;

pub(crate) fn add(routes: Routes) -> Routes {
    let read = Rule::needs(Permission::Read);
    let routes = routes
        .add(routes!(list_jobs), read)
        .add(routes!(show_job), read)
        .add(routes!(list_job_attempts), read)
        .add(routes!(explain_job), read);
    operate::add(log::add(enqueue::add(routes)))
}

/// Which jobs to list. Everything given must hold.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct JobQuery {
    /// How many at most. Default: 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// In one of these states.
    #[serde(default)]
    state: Vec<JobStateName>,
    /// In this queue.
    #[param(value_type = Option<String>)]
    queue: Option<QueueName>,
    /// Of this kind.
    #[param(value_type = Option<String>)]
    kind: Option<JobKind>,
    /// Last held by this agent.
    #[param(value_type = Option<String>)]
    agent: Option<AgentId>,
    /// With this label, as `key=value`. All that are given must hold.
    #[serde(default)]
    label: Vec<String>,
}

/// Lists jobs without their arguments and outputs, the newest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(JobQuery), responses(
    (status = 200, description = "Jobs", body = List<JobSummary>, headers(("Link" = String, description = "The next page"))),
))]
async fn list_jobs(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<JobQuery>,
) -> Result<Response, Problem> {
    let asked = page::ask(&shared, "jobs", &query, query.limit, query.cursor.as_deref()).await?;
    let filter = JobFilter {
        states: query.state.iter().map(|state| (*state).into()).collect(),
        queue: query.queue.clone(),
        kind: query.kind.clone(),
        agent: query.agent.clone(),
        labels: labels_of(&query.label)?,
    };
    let page = bounded_jobs(&shared, &filter, asked.request()).await?;
    Ok(asked.answer(&uri, page.items.iter().map(JobSummary::from).collect(), page.next))
}

/// Jobs that fit the filter, read in parts, so that large arguments do not fill the memory. May be fewer
/// than asked for although there are more.
pub(super) async fn bounded_jobs(
    shared: &Shared,
    filter: &JobFilter,
    request: PageRequest,
) -> Result<Page<JobRecord>, Problem> {
    let limit = request.bounded_limit() as usize;
    let mut items: Vec<JobRecord> = Vec::new();
    let mut after = request.after;
    let mut bytes = 0;
    loop {
        let room = limit - items.len();
        // As many as fit into what is left, if they are like those before.
        let fitting = match items.len() {
            0 => FIRST_READ as usize,
            count => (MAX_READ_BYTES - bytes) / (bytes / count).max(1),
        };
        let read = u32::try_from(room.min(fitting.max(1))).unwrap_or(1);
        let page = shared.orchestrator.jobs(filter.clone(), PageRequest { limit: read, after }).await?;
        for mut job in page.items {
            bytes += job.spec.payload.len() + job.output.as_ref().map_or(0, bytes::Bytes::len);
            // A list shows neither.
            job.spec.payload = bytes::Bytes::new();
            job.output = None;
            items.push(job);
        }
        if page.next.is_none() || items.len() >= limit || bytes >= MAX_READ_BYTES {
            return Ok(Page { items, next: page.next });
        }
        after = page.next;
    }
}

/// Shows a job, at once or when it has ended.
#[utoipa::path(get, path = "/api/v1/jobs/{job}", tag = "jobs",
    params(
        ("job" = String, Path, description = "Its id"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 60, for its end"),
    ), responses(
    (status = 200, description = "The job", body = Job, headers(("ETag" = String), ("Preference-Applied" = String))),
    (status = 202, description = "The job, which has not ended in the time of `Prefer: wait`", body = Job),
    (status = 304, description = "It is as the caller has it"),
))]
async fn show_job(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<JobId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(seconds) = prefer::wait(&headers)
        && let Some(job) = prefer::wait_for(&shared, id, seconds).await?
    {
        let mut response = if job.state.is_final() {
            etag::answer(&headers, &Job::from(&job))
        } else {
            etag::with_status(StatusCode::ACCEPTED, &Job::from(&job))
        };
        prefer::applied(&mut response, seconds);
        return Ok(response);
    }
    let job = shared.orchestrator.job(id).await?;
    Ok(etag::answer(&headers, &Job::from(&job)))
}

/// Lists all runs of a job, in order.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/attempts", tag = "jobs",
    params(("job" = String, Path, description = "Its id")), responses(
    (status = 200, description = "Its runs", body = Attempts),
))]
async fn list_job_attempts(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<JobId>,
) -> Result<Json<Attempts>, Problem> {
    shared.orchestrator.job(id).await?;
    let attempts = shared.orchestrator.attempts(id).await?;
    Ok(Json(Attempts { items: attempts.iter().map(Attempt::from).collect() }))
}

/// Says where a job is and what it waits for.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/why", tag = "jobs",
    params(("job" = String, Path, description = "Its id")), responses(
    (status = 200, description = "What it waits for", body = Explanation),
))]
async fn explain_job(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<JobId>,
) -> Result<Json<Explanation>, Problem> {
    Ok(Json(Explanation::from(&shared.orchestrator.why(id).await?)))
}
