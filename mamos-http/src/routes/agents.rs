//! Agents.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use mamos_core::agent::AgentRecord;
use mamos_core::auth::Permission;
use mamos_core::lease::RunRef;
use mamos_core::orchestrator::AgentFilter;
use mamos_core::store::{JobFilter, PageRequest};
use mamos_core::{AgentId, AgentKind, ErrorKind};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::dto::agent::{Agent, AgentEdit, Health, Metrics, Revoke, State as AgentStateName};
use crate::dto::labels_of;
use crate::dto::log::{AgentLog, AgentLogs};
use crate::etag;
use crate::extract::{Body, Checked, Id, Query};
use crate::guard::{Audited, Routes, Rule};
use crate::page::{self, List};
use crate::problem::Problem;
use crate::shared::Shared;

/// How much of each log is shown, in bytes.
const TAIL_BYTES: u32 = 4096;
/// How many logs are shown if nobody says, and at most.
const LOGS: u32 = 10;
const MAX_LOGS: u32 = 50;

pub(crate) fn add(routes: Routes) -> Routes {
    let read = Rule::needs(Permission::Read);
    let own = Rule::needs_or_own_agent(Permission::Read);
    let operate = |action| Rule::needs(Permission::OperateAgents).audited(action);
    routes
        .add(routes!(list_agents), read)
        .add(routes!(show_agent), own)
        .add(routes!(edit_agent), operate("agent.label"))
        .add(routes!(delete_agent), operate("agent.decommission"))
        .add(routes!(drain_agent), operate("agent.drain"))
        .add(routes!(resume_agent), operate("agent.resume"))
        .add(routes!(revoke_agent), operate("agent.revoke"))
        .add(routes!(reinstate_agent), operate("agent.reinstate"))
        .add(routes!(decommission_agent), operate("agent.decommission"))
        .add(routes!(show_agent_health), own)
        .add(routes!(show_agent_metrics), own)
        .add(routes!(show_agent_logs), own)
}

/// Which agents to list. Everything given must hold.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AgentQuery {
    /// How many at most. Default: 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// In one of these states.
    #[serde(default)]
    state: Vec<AgentStateName>,
    /// With this label, as `key=value`. All that are given must hold.
    #[serde(default)]
    label: Vec<String>,
    /// Connected to this orchestrator, or not.
    connected: Option<bool>,
    /// Of this kind.
    #[param(value_type = Option<String>)]
    kind: Option<AgentKind>,
}

/// Lists agents in the order of their ids.
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents", params(AgentQuery), responses(
    (status = 200, description = "Agents", body = List<Agent>, headers(("Link" = String, description = "The next page"))),
))]
async fn list_agents(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<AgentQuery>,
) -> Result<Response, Problem> {
    let asked = page::ask(&shared, "agents", &query, query.limit, query.cursor.as_deref()).await?;
    let filter = AgentFilter {
        states: query.state.iter().map(|state| (*state).into()).collect(),
        kind: query.kind.clone(),
        labels: labels_of(&query.label)?,
        is_connected: query.connected,
    };
    let page = shared.orchestrator.find_agents(&filter, asked.request()).await?;
    let items: Vec<Agent> = page.items.iter().map(|agent| shown(&shared, agent)).collect();
    Ok(asked.answer(&uri, items, page.next))
}

/// Shows an agent.
#[utoipa::path(get, path = "/api/v1/agents/{agent}", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The agent", body = Agent, headers(("ETag" = String))),
    (status = 304, description = "It is as the caller has it"),
))]
async fn show_agent(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let agent = shared.orchestrator.agent(&id).await?;
    Ok(etag::answer_revision(&headers, agent.revision, &shown(&shared, &agent)))
}

/// Gives an agent other operator's labels.
#[utoipa::path(patch, path = "/api/v1/agents/{agent}", tag = "agents",
    params(
        ("agent" = String, Path, description = "Its id"),
        ("If-Match" = Option<String>, Header, description = "The ETag of what the caller saw. Required"),
    ),
    request_body = AgentEdit, responses(
    (status = 200, description = "The agent", body = Agent, headers(("ETag" = String))),
    (status = 412, description = "It has changed since", body = Problem),
    (status = 428, description = "If-Match is missing", body = Problem),
))]
async fn edit_agent(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
    headers: HeaderMap,
    Body(edit): Body<AgentEdit>,
) -> Result<Response, Problem> {
    let seen = shared.orchestrator.agent(&id).await?;
    etag::check_revision(&headers, seen.revision)?;
    let changed = shared.orchestrator.label_agent(&id, edit.labels, seen.revision).await;
    let agent = changed.map_err(|error| match error.kind() {
        ErrorKind::Conflict => etag::stale(),
        ErrorKind::LimitExceeded => Problem::invalid(error.message()).at("/labels", error.message()),
        _ => error.into(),
    })?;
    Ok(etag::fresh(agent.revision, &shown(&shared, &agent)))
}

/// Takes an agent out of service for good.
#[utoipa::path(delete, path = "/api/v1/agents/{agent}", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The agent", body = Agent),
    (status = 409, description = "It was already", body = Problem),
))]
async fn delete_agent(State(shared): State<Arc<Shared>>, Id(id): Id<AgentId>) -> Result<Response, Problem> {
    let done = shared.orchestrator.decommission_agent(&id).await;
    changed(&shared, &id, done).await
}

/// Lets an agent take no new work: it ends what it runs and leaves.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/drain", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The agent", body = Agent),
))]
async fn drain_agent(State(shared): State<Arc<Shared>>, Id(id): Id<AgentId>) -> Result<Response, Problem> {
    let done = shared.orchestrator.drain_agent(&id).await;
    changed(&shared, &id, done).await
}

/// Lets a drained agent take work again when it next connects.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/resume", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The agent", body = Agent),
))]
async fn resume_agent(State(shared): State<Arc<Shared>>, Id(id): Id<AgentId>) -> Result<Response, Problem> {
    let done = shared.orchestrator.undrain_agent(&id).await;
    changed(&shared, &id, done).await
}

/// Lets an agent connect no more until it is reinstated. The first reason stays.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/revoke", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), request_body = Revoke, responses(
    (status = 200, description = "The agent", body = Agent),
    (status = 409, description = "It was decommissioned", body = Problem),
))]
async fn revoke_agent(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
    Checked(wish): Checked<Revoke>,
) -> Result<Response, Problem> {
    let done = shared.orchestrator.revoke_agent(&id, &wish.reason).await;
    let mut response = changed(&shared, &id, done).await?;
    response.extensions_mut().insert(Audited { detail: wish.reason, ..Audited::default() });
    Ok(response)
}

/// Lets a revoked agent connect again.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/reinstate", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The agent", body = Agent),
))]
async fn reinstate_agent(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
) -> Result<Response, Problem> {
    let done = shared.orchestrator.reinstate_agent(&id).await;
    changed(&shared, &id, done).await
}

/// Takes an agent out of service for good.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/decommission", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The agent", body = Agent),
    (status = 409, description = "It was already", body = Problem),
))]
async fn decommission_agent(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
) -> Result<Response, Problem> {
    let done = shared.orchestrator.decommission_agent(&id).await;
    changed(&shared, &id, done).await
}

/// Says how an agent is.
#[utoipa::path(get, path = "/api/v1/agents/{agent}/health", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "How it is", body = Health),
))]
async fn show_agent_health(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
) -> Result<Json<Health>, Problem> {
    let agent = shared.orchestrator.agent(&id).await?;
    Ok(Json(Health::new(&agent, shared.orchestrator.live_agent(&id).as_ref())))
}

/// Shows how busy the machine of an agent was.
#[utoipa::path(get, path = "/api/v1/agents/{agent}/metrics", tag = "agents",
    params(("agent" = String, Path, description = "Its id")), responses(
    (status = 200, description = "How busy it was", body = Metrics),
))]
async fn show_agent_metrics(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
) -> Result<Json<Metrics>, Problem> {
    shared.orchestrator.agent(&id).await?;
    Ok(Json(Metrics::new(&shared.orchestrator.agent_loads(&id))))
}

/// How many logs to show.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogsQuery {
    /// How many at most. Default: 10.
    #[param(minimum = 1, maximum = 50)]
    limit: Option<u32>,
}

/// Shows the ends of what an agent's newest runs printed.
#[utoipa::path(get, path = "/api/v1/agents/{agent}/logs", tag = "agents",
    params(("agent" = String, Path, description = "Its id"), LogsQuery), responses(
    (status = 200, description = "The newest runs", body = AgentLogs),
))]
async fn show_agent_logs(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AgentId>,
    Query(query): Query<LogsQuery>,
) -> Result<Json<AgentLogs>, Problem> {
    let limit = query.limit.unwrap_or(LOGS);
    if !(1..=MAX_LOGS).contains(&limit) {
        let detail = format!("expected 1 to {MAX_LOGS}");
        return Err(Problem::bad_request("a parameter of the query is wrong").at("limit", detail));
    }
    shared.orchestrator.agent(&id).await?;
    let filter = JobFilter { agent: Some(id), ..JobFilter::default() };
    let jobs = super::jobs::bounded_jobs(&shared, &filter, PageRequest::first(limit)).await?;
    let mut items = Vec::with_capacity(jobs.items.len());
    for job in &jobs.items {
        let run = RunRef { job: job.spec.id, epoch: job.epoch };
        items.push(AgentLog::new(job, &shared.orchestrator.log_tail(run, TAIL_BYTES).await?));
    }
    Ok(Json(AgentLogs { items }))
}

fn shown(shared: &Shared, agent: &AgentRecord) -> Agent {
    Agent::new(agent, shared.orchestrator.live_agent(&agent.id).as_ref())
}

/// The agent after an operation, or what its state has against it.
async fn changed(
    shared: &Shared,
    id: &AgentId,
    done: mamos_core::Result<AgentRecord>,
) -> Result<Response, Problem> {
    match done {
        Ok(agent) => Ok(etag::fresh(agent.revision, &shown(shared, &agent))),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let state = shared.orchestrator.agent(id).await?.state;
            Ok(Problem::from(error).current_state(state.as_str()).into_response())
        }
        Err(error) => Err(error.into()),
    }
}
