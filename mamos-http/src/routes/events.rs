//! What happens, as it happens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use mamos_core::auth::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::extract::Query;
use crate::guard::{Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::stream::{After, EventDto, EventFilter, EventSource, Supervisor, Wanted, dto, position, sse, ws};

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(routes!(events), Rule::needs(Permission::Read))
        .add(routes!(events_ws), Rule::needs(Permission::Read))
}

/// How many events a page has at most.
const MAX_PAGE: usize = 500;
const DEFAULT_PAGE: usize = 50;

/// Which events, and from where on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Any of `jobs`, `agents` and `queues`, separated by commas.
    #[param(example = "jobs,queues")]
    topic: Option<String>,
    /// Names of events, separated by commas. `job_log` comes only if it is named here.
    #[param(example = "job_settled,job_rescued")]
    event: Option<String>,
    /// About this job.
    job: Option<String>,
    /// About this agent.
    agent: Option<String>,
    /// About jobs of this queue, or about the queue.
    queue: Option<String>,
    /// About jobs of this kind.
    kind: Option<String>,
    /// The id of the event after which to begin. The header `Last-Event-ID` wins over it. Without either:
    /// with what happens from now on; a page begins with the oldest that is kept.
    #[param(example = "9f86d081884c7d65-42")]
    after: Option<String>,
    /// `sse` (the default) for a stream, `json` for a page of what is kept.
    #[param(inline)]
    format: Option<Format>,
    /// How many events a page has at most. Default: 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    Sse,
    Json,
}

/// A page of the events that are kept.
#[derive(Debug, Serialize, ToSchema)]
struct EventPage {
    items: Vec<EventDto>,
    /// Where the next page begins: the `after` of the next request. Also at the end, where more may come.
    #[schema(example = "9f86d081884c7d65-42")]
    next_cursor: String,
    /// How many events before the first of this page are gone; `null` if nobody knows, because the
    /// orchestrator was started anew.
    missed: Option<u64>,
}

impl EventsQuery {
    fn filter(&self) -> Result<EventFilter, Problem> {
        EventFilter::new(&Wanted {
            topic: self.topic.as_deref(),
            event: self.event.as_deref(),
            job: self.job.as_deref(),
            agent: self.agent.as_deref(),
            queue: self.queue.as_deref(),
            kind: self.kind.as_deref(),
        })
    }

    fn after(&self, headers: &HeaderMap, shared: &Shared) -> Result<After, Problem> {
        let last = last_event_id(headers)?;
        After::parse(last.or(self.after.as_deref()), shared.orchestrator.event_series())
    }
}

/// The header that browsers send when they resume a stream.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let value = headers.get("last-event-id").filter(|value| !value.is_empty());
    let text = value.map(|value| value.to_str()).transpose();
    text.map_err(|_| Problem::bad_request("the header Last-Event-ID is not visible ASCII"))
}

/// Streams events as server-sent events, or gives a page of those that are kept.
///
/// Each has an `id` from which the stream can be resumed, `event` with its name, and `data` with all of it
/// as JSON. `gap` says that events were missed, `end` with a reason (`shutdown`, `revoked`, `unavailable`)
/// that the orchestrator ended the stream. Heartbeats are comments, and move the id on.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventsQuery), security(("bearer" = [])), responses(
    (status = 200, description = "The stream, or a page of JSON", content(
        (EventDto = "text/event-stream"),
        (EventPage = "application/json"),
    )),
    (status = 400, description = "A parameter is wrong", body = Problem),
    (status = 401, description = "Nobody is known by what was shown", body = Problem),
    (status = 403, description = "The caller may not read", body = Problem),
    (status = 429, description = "Too many streams", body = Problem),
))]
async fn events(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Result<Response, Problem> {
    let filter = query.filter()?;
    let after = query.after(&headers, &shared)?;
    if query.format == Some(Format::Json) {
        let limit = query.limit.unwrap_or(DEFAULT_PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::bad_request("a page has 1 to 500 events").at("limit", "out of range"));
        }
        return Ok(Json(page(&shared, after, filter, limit).await).into_response());
    }
    let supervisor = Supervisor::begin(&shared, &caller, &headers, Permission::Read)?;
    Ok(sse(EventSource::new(&shared.orchestrator, after, filter), supervisor))
}

/// Streams events over WebSocket: each is a text frame with the same JSON as over server-sent events.
///
/// Browsers, which cannot send an `Authorization` header here, offer the subprotocols `mamos.v1` and
/// `mamos.bearer.<token>`. What the caller sends is not read.
#[utoipa::path(get, path = "/api/v1/events/ws", tag = "events", params(EventsQuery), security(("bearer" = [])), responses(
    (status = 101, description = "The stream follows"),
    (status = 400, description = "A parameter is wrong, or it is no WebSocket request", body = Problem),
    (status = 401, description = "Nobody is known by what was shown", body = Problem),
    (status = 403, description = "The caller may not read", body = Problem),
    (status = 429, description = "Too many streams", body = Problem),
))]
async fn events_ws(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let (filter, after) = (query.filter()?, query.after(&headers, &shared)?);
    let upgrade = upgrade.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let supervisor = Supervisor::begin(&shared, &caller, &headers, Permission::Read)?;
    Ok(ws(upgrade, EventSource::new(&shared.orchestrator, after, filter), supervisor))
}

async fn page(shared: &Shared, after: After, filter: EventFilter, limit: usize) -> EventPage {
    let orchestrator = &shared.orchestrator;
    let kept = EventSource::page(orchestrator, after, filter, limit).await;
    let series = orchestrator.event_series();
    EventPage {
        items: kept.events.iter().filter_map(|event| dto(series, event)).collect(),
        next_cursor: position(series, kept.last),
        missed: kept.missed,
    }
}
