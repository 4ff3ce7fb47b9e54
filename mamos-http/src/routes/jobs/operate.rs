//! Cancelling, redriving and approving, one or many.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mamos_core::JobId;
use mamos_core::JobState;
use mamos_core::auth::Permission;
use mamos_core::store::{CancelVerdict, ChangeVerdict};
use mamos_core::{Error, ErrorKind};
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::dto::job::{Job, JobVerdict, Verdicts};
use crate::dto::wish::{CancelWish, JobIds};
use crate::extract::{Checked, Id, OptionalBody};
use crate::guard::{Audited, Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;

pub(super) fn add(routes: Routes) -> Routes {
    let operate = |action| Rule::needs(Permission::OperateJobs).audited(action);
    routes
        .add(routes!(cancel_job), operate("job.cancel"))
        .add(routes!(redrive_job), operate("job.redrive"))
        .add(routes!(approve_job), operate("job.approve"))
        .add(routes!(cancel_jobs), operate("job.cancel"))
        .add(routes!(redrive_jobs), operate("job.redrive"))
}

/// Cancels a job: at once if nobody runs it, else its agent has some time to stop it.
#[utoipa::path(post, path = "/api/v1/jobs/{job}/cancel", tag = "jobs",
    params(("job" = String, Path, description = "Its id")),
    request_body = Option<CancelWish>, responses(
    (status = 200, description = "It is cancelled", body = Job),
    (status = 202, description = "Its agent was asked to stop it", body = Job),
    (status = 409, description = "It has ended otherwise", body = Problem),
))]
async fn cancel_job(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Id(id): Id<JobId>,
    OptionalBody(wish): OptionalBody<CancelWish>,
) -> Result<Response, Problem> {
    let (reason, grace) = wish.parts(&caller.principal);
    let status = match shared.orchestrator.cancel(id, &reason, grace).await? {
        CancelVerdict::Cancelled | CancelVerdict::AlreadyEnded(JobState::Cancelled) => StatusCode::OK,
        CancelVerdict::Requested { .. } => StatusCode::ACCEPTED,
        CancelVerdict::AlreadyEnded(state) => {
            let problem = Problem::conflict(format!("the job has ended: it is {}", state.as_str()));
            return Err(problem.current_state(state.as_str()));
        }
        CancelVerdict::Missing => return Err(missing(id)),
    };
    let job = shared.orchestrator.job(id).await?;
    let mut response = (status, Json(Job::from(&job))).into_response();
    response.extensions_mut().insert(Audited { detail: reason, ..Audited::default() });
    Ok(response)
}

/// Makes a dead job ready again, with fresh counters.
#[utoipa::path(post, path = "/api/v1/jobs/{job}/redrive", tag = "jobs",
    params(("job" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The job, ready", body = Job),
    (status = 409, description = "It is not dead, or another job has its unique key", body = Problem),
))]
async fn redrive_job(State(shared): State<Arc<Shared>>, Id(id): Id<JobId>) -> Result<Json<Job>, Problem> {
    let verdicts = shared.orchestrator.redrive(vec![id]).await?;
    changed(&shared, id, &verdicts, "only a dead job can be redriven").await
}

/// Lets a blocked job run.
#[utoipa::path(post, path = "/api/v1/jobs/{job}/approve", tag = "jobs",
    params(("job" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The job, ready", body = Job),
    (status = 409, description = "It waits for no approval", body = Problem),
))]
async fn approve_job(State(shared): State<Arc<Shared>>, Id(id): Id<JobId>) -> Result<Json<Job>, Problem> {
    let verdicts = shared.orchestrator.approve(vec![id]).await?;
    changed(&shared, id, &verdicts, "only a blocked job can be approved").await
}

/// Cancels many jobs, each as if it were alone.
#[utoipa::path(post, path = "/api/v1/jobs/cancel", tag = "jobs", request_body = JobIds, responses(
    (status = 200, description = "What became of each, in their order", body = Verdicts),
))]
async fn cancel_jobs(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Checked(JobIds { ids }): Checked<JobIds>,
) -> Result<Response, Problem> {
    let (reason, grace) = CancelWish::default().parts(&caller.principal);
    let verdicts = shared.orchestrator.cancel_all(ids.clone(), &reason, grace).await?;
    let items = ids.iter().zip(&verdicts).map(|(id, verdict)| JobVerdict::of_cancel(*id, verdict));
    Ok(many(&ids, items.collect()))
}

/// Makes many dead jobs ready again, each as if it were alone.
#[utoipa::path(post, path = "/api/v1/jobs/redrive", tag = "jobs", request_body = JobIds, responses(
    (status = 200, description = "What became of each, in their order", body = Verdicts),
))]
async fn redrive_jobs(
    State(shared): State<Arc<Shared>>,
    Checked(JobIds { ids }): Checked<JobIds>,
) -> Result<Response, Problem> {
    let verdicts = shared.orchestrator.redrive(ids.clone()).await?;
    let items = ids.iter().zip(&verdicts).map(|(id, verdict)| JobVerdict::of_change(*id, verdict));
    Ok(many(&ids, items.collect()))
}

/// The answer, and what the audit log says of it: how many, and the first of them.
fn many(ids: &[JobId], items: Vec<JobVerdict>) -> Response {
    let mut response = Json(Verdicts { items }).into_response();
    let first: Vec<String> = ids.iter().take(8).map(ToString::to_string).collect();
    let more = if ids.len() > first.len() { ", …" } else { "" };
    response.extensions_mut().insert(Audited {
        target: Some(format!("{} jobs", ids.len())),
        detail: format!("{}{more}", first.join(", ")),
        ..Audited::default()
    });
    response
}

async fn changed(
    shared: &Shared,
    id: JobId,
    verdicts: &[ChangeVerdict],
    refusal: &str,
) -> Result<Json<Job>, Problem> {
    match verdicts {
        [ChangeVerdict::Ready(_)] => Ok(Json(Job::from(&shared.orchestrator.job(id).await?))),
        [ChangeVerdict::Refused(state)] => {
            let detail = format!("the job is {}; {refusal}", state.as_str());
            Err(Problem::conflict(detail).current_state(state.as_str()))
        }
        [ChangeVerdict::UniqueKeyTaken { by }] => {
            Err(Problem::conflict(format!("job {by} has the unique key of this job now")))
        }
        [ChangeVerdict::Missing] => Err(missing(id)),
        _ => Err(Error::new(ErrorKind::Corrupt, "job.change", "a wrong number of answers").into()),
    }
}

fn missing(id: JobId) -> Problem {
    Problem::not_found(format!("there is no job {id}; it may have been removed after its end"))
}
