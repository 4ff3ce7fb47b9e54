//! Enqueueing, one or many.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mamos_core::auth::Permission;
use mamos_core::job::NewJob;
use mamos_core::store::{EnqueueResult, Enqueued};
use mamos_core::{Error, ErrorKind, JobId};
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::dto::job::{Job, JobVerdict, Verdicts};
use crate::dto::wish::{JobWish, JobWishes};
use crate::etag;
use crate::extract::{check, json_bytes, read_json};
use crate::guard::{Audited, Routes, Rule};
use crate::idempotency::{self, Answer, Key, Known};
use crate::prefer;
use crate::problem::Problem;
use crate::shared::Shared;

/// The largest body: some jobs with large arguments, or a thousand with small ones.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
const RESULT: &str = "x-mamos-result";

pub(super) fn add(routes: Routes) -> Routes {
    // Which of the two it takes, the body says. Only commands are audited.
    const EITHER: &[Permission] = &[Permission::EnqueueJobs, Permission::RunCommands];
    let rule = Rule::needs_any(EITHER).audited("command.run").with_bodies(MAX_BODY_BYTES);
    routes.add(routes!(enqueue_job), rule).add(routes!(enqueue_jobs), rule.idempotent())
}

/// Stores a job: a typed one, or a whitelisted command.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Asking again with the same key stores no other job"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 60, for its end"),
    ),
    request_body = JobWish, responses(
    (status = 201, description = "The job, stored now", body = Job, headers(
        ("Location" = String), ("X-Mamos-Result" = String), ("Preference-Applied" = String))),
    (status = 200, description = "The job, stored earlier, or the one that has the unique key", body = Job, headers(
        ("Location" = String), ("X-Mamos-Result" = String, description = "`repeat` or `unique_key_taken`"))),
    (status = 202, description = "The job, which has not ended in the time of `Prefer: wait`", body = Job, headers(
        ("Location" = String), ("X-Mamos-Result" = String))),
    (status = 409, description = "Another job has the id; or the unique key, and the caller may not read", body = Problem),
    (status = 410, description = "The job of this Idempotency-Key has ended and was removed", body = Problem),
))]
async fn enqueue_job(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let mut is_command = false;
    let answer = enqueue_one(&shared, &caller, &headers, request, &mut is_command).await;
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    if !is_command {
        response.extensions_mut().insert(Audited { is_skipped: true, ..Audited::default() });
    }
    response
}

async fn enqueue_one(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    request: Request,
    is_command: &mut bool,
) -> Result<Response, Problem> {
    let bytes = json_bytes(request, &()).await?;
    let wish: JobWish = read_json(&bytes)?;
    *is_command = wish.command().is_some();
    must(caller, *is_command)?;
    check(&wish)?;
    let detail = wish.command().map(ToString::to_string).unwrap_or_default();
    let key = Key::of(headers, caller, "POST /jobs", &bytes)?;
    let id = key.as_ref().map(|key| key.job_id(0));
    let job = wish.build(&shared.orchestrator, &caller.principal, id, "")?;
    let (id, result, is_replayed) = match key {
        None => {
            let (id, result) = store(shared, job).await?;
            (id, result, false)
        }
        Some(key) => store_once(shared, key, job).await?,
    };
    if result == "unique_key_taken" && !caller.may(Permission::Read) {
        // It is somebody else's, and what it holds is for those who may read.
        let detail = format!("job {id} has this unique key and has not ended");
        return Err(Problem::conflict(detail).at("/unique_key", "wait for its end, or choose another"));
    }
    let mut response = shown(shared, headers, id, result).await?;
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/jobs/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response.headers_mut().insert(RESULT, HeaderValue::from_static(result));
    let audited = Audited { target: Some(id.to_string()), detail, ..Audited::default() };
    response.extensions_mut().insert(audited);
    if is_replayed {
        idempotency::mark_replayed(&mut response);
    }
    Ok(response)
}

/// Stores a job. Gives the id of the job that there is now, and what became of it.
async fn store(shared: &Shared, job: NewJob) -> Result<(JobId, &'static str), Problem> {
    let id = job.id;
    let enqueued = shared.orchestrator.enqueue_all(vec![job]).await?;
    let [Enqueued { result, .. }] = enqueued[..] else {
        return Err(Error::new(ErrorKind::Corrupt, "job.enqueue", "the store gave no answer").into());
    };
    match result {
        EnqueueResult::Stored(_) => Ok((id, "stored")),
        EnqueueResult::Repeat(_) => Ok((id, "repeat")),
        EnqueueResult::UniqueKeyTaken { by } => Ok((by, "unique_key_taken")),
        EnqueueResult::IdTaken => {
            Err(Problem::conflict(format!("another job has the id {id}")).at("/id", "choose another"))
        }
    }
}

/// Stores the job of an idempotency key. Its id is derived from the key, so that one whose request was cut
/// off half-way is stored once all the same, and nobody has to wait for the request before.
async fn store_once(shared: &Shared, key: Key, job: NewJob) -> Result<(JobId, &'static str, bool), Problem> {
    let (turn, is_first) = match key.begin(shared).await? {
        Known::New(turn) => (turn, true),
        Known::Running(turn) => (turn, false),
        Known::Answered(Answer::Job { id }) => return Ok((id, "repeat", true)),
        Known::Answered(Answer::Response { .. }) => return Err(idempotency::reused()),
    };
    match store(shared, job).await {
        Ok((id, result)) => {
            if let Err(error) = turn.answer(Answer::Job { id }, shared).await {
                tracing::warn!(target: "mamos::http", %error, "a job was stored, and its idempotency key was not kept");
            }
            Ok((id, result, !is_first))
        }
        Err(problem) => {
            if is_first {
                turn.give_back(shared).await?;
            }
            Err(problem)
        }
    }
}

/// The job as it is now, or when it has ended if the caller prefers to wait.
async fn shown(
    shared: &Shared,
    headers: &HeaderMap,
    id: JobId,
    result: &'static str,
) -> Result<Response, Problem> {
    let gone = |problem: Problem| match problem.status {
        404 => Problem::new(StatusCode::GONE, "gone", format!("job {id} has ended and was removed")),
        _ => problem,
    };
    let status = if result == "stored" { StatusCode::CREATED } else { StatusCode::OK };
    if let Some(seconds) = prefer::wait(headers)
        && let Some(job) = prefer::wait_for(shared, id, seconds).await.map_err(gone)?
    {
        let status = if job.state.is_final() { status } else { StatusCode::ACCEPTED };
        let mut response = etag::with_status(status, &Job::from(&job));
        prefer::applied(&mut response, seconds);
        return Ok(response);
    }
    let job = shared.orchestrator.job(id).await.map_err(|error| gone(error.into()))?;
    Ok(etag::with_status(status, &Job::from(&job)))
}

/// Stores many jobs, each as if it were alone. If one of them makes no sense, none is stored.
#[utoipa::path(post, path = "/api/v1/jobs/bulk", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "Asking again with the same key stores no other jobs")),
    request_body = JobWishes, responses(
    (status = 200, description = "What became of each, in their order", body = Verdicts),
))]
async fn enqueue_jobs(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let mut commands = 0;
    let answer = enqueue_many(&shared, &caller, &headers, request, &mut commands).await;
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    let audited = Audited { target: Some(format!("{commands} commands")), ..Audited::default() };
    response.extensions_mut().insert(Audited { is_skipped: commands == 0, ..audited });
    response
}

async fn enqueue_many(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    request: Request,
    commands: &mut usize,
) -> Result<Response, Problem> {
    let bytes = json_bytes(request, &()).await?;
    let JobWishes { jobs: wishes } = {
        let wishes: JobWishes = read_json(&bytes)?;
        *commands = wishes.jobs.iter().filter(|wish| wish.command().is_some()).count();
        check(&wishes)?;
        wishes
    };
    for wish in &wishes {
        must(caller, wish.command().is_some())?;
    }
    // A request that was cut off is done again with the same ids.
    let key = Key::of(headers, caller, "POST /jobs/bulk", &bytes)?;
    let jobs = wishes.into_iter().enumerate().map(|(index, wish)| {
        let id = key.as_ref().map(|key| key.job_id(index));
        wish.build(&shared.orchestrator, &caller.principal, id, &format!("/jobs/{index}"))
    });
    let jobs = jobs.collect::<Result<Vec<NewJob>, Problem>>()?;
    let enqueued = shared.orchestrator.enqueue_all(jobs).await?;
    let items = enqueued.iter().map(JobVerdict::of_enqueue).collect();
    Ok(Json(Verdicts { items }).into_response())
}

fn must(caller: &Caller, is_command: bool) -> Result<(), Problem> {
    caller.must(if is_command { Permission::RunCommands } else { Permission::EnqueueJobs })
}
