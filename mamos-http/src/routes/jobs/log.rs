//! What a run of a job printed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mamos_core::JobId;
use mamos_core::JobState;
use mamos_core::auth::Permission;
use mamos_core::job::JobRecord;
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::LogPiece;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::dto::log::{Log, Piece};
use crate::extract::{Id, Query};
use crate::guard::{Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;

/// How much one answer has if nobody says, and at most, in bytes.
const DEFAULT_BYTES: u32 = 64 * 1024;
const MAX_BYTES: u32 = 1024 * 1024;

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(routes!(show_job_log), Rule::needs(Permission::Read))
}

/// Which part of a log, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// Which run. Default: the last.
    epoch: Option<u64>,
    /// From this byte on. Default: 0.
    offset: Option<u64>,
    /// At most so many bytes. Default: 65536.
    #[param(minimum = 1, maximum = 1_048_576)]
    limit_bytes: Option<u32>,
    /// Default: json.
    #[param(inline)]
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    Text,
}

/// Shows what a run of a job printed: as JSON, as plain bytes, or as a range of plain bytes.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/log", tag = "jobs",
    params(
        ("job" = String, Path, description = "Its id"),
        LogQuery,
        ("Range" = Option<String>, Header, description = "`bytes=a-b`, `bytes=a-` or `bytes=-n`: plain bytes, at most 1 MiB at once"),
    ), responses(
    (status = 200, description = "A part of the log", content((Log = "application/json"), (String = "text/plain"), (String = "application/octet-stream")),
        headers(("X-Mamos-Next-Offset" = u64, description = "Where the next part of plain bytes begins"))),
    (status = 206, description = "The range, or its beginning", content((String = "text/plain"), (String = "application/octet-stream")), headers(("Content-Range" = String))),
    (status = 416, description = "The log does not reach that far", body = Problem),
))]
async fn show_job_log(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<JobId>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let limit = query.limit_bytes.unwrap_or(DEFAULT_BYTES);
    if !(1..=MAX_BYTES).contains(&limit) {
        let detail = format!("expected 1 to {MAX_BYTES}");
        return Err(Problem::bad_request("a parameter of the query is wrong").at("limit_bytes", detail));
    }
    // The numbers of stores are signed.
    if query.offset.is_some_and(|offset| i64::try_from(offset).is_err()) {
        return Err(Problem::bad_request("a parameter of the query is wrong").at("offset", "too large"));
    }
    let job = shared.orchestrator.job(id).await?;
    let epoch = query.epoch.map_or(job.epoch, Epoch::from_number);
    if epoch > job.epoch {
        return Err(Problem::not_found(format!("the job was claimed {} times only", job.epoch)));
    }
    let run = RunRef { job: id, epoch };
    if let Some(range) = headers.get(RANGE) {
        let asked = range.to_str().ok().and_then(Asked::read);
        // What cannot be read as a range of bytes is ignored, as RFC 9110 has it.
        if let Some(asked) = asked {
            return range_of(&shared, &job, run, asked).await;
        }
    }
    let offset = query.offset.unwrap_or(0);
    let pieces = shared.orchestrator.log(run, offset, limit).await?;
    let next_offset = offset + length(&pieces);
    // A log that fills the limit may go on.
    let is_ended = has_ended(&job, epoch) && next_offset - offset < u64::from(limit);
    if query.format == Some(Format::Text) {
        let mut response = plain(StatusCode::OK, &pieces);
        response.headers_mut().insert("x-mamos-next-offset", HeaderValue::from(next_offset));
        return Ok(response);
    }
    let pieces = pieces.iter().map(Piece::from).collect();
    Ok(Json(Log { epoch: epoch.to_string(), offset, next_offset, is_ended, pieces }).into_response())
}

/// Will the run print no more?
fn has_ended(job: &JobRecord, epoch: Epoch) -> bool {
    epoch < job.epoch || !matches!(job.state, JobState::Leased | JobState::Running)
}

fn length(pieces: &[LogPiece]) -> u64 {
    pieces.iter().map(|piece| piece.bytes.len() as u64).sum()
}

fn plain(status: StatusCode, pieces: &[LogPiece]) -> Response {
    let bytes = pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect::<Vec<u8>>();
    let kind = match std::str::from_utf8(&bytes) {
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    };
    // Whatever was printed is data, never a page.
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (axum::http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, bytes).into_response()
}

/// A range of bytes, as somebody asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// From this byte to that one, or to the end.
    From(u64, Option<u64>),
    /// The last so many.
    Last(u64),
}

impl Asked {
    /// Reads one range. `None` for several, other units, and what makes no sense.
    fn read(text: &str) -> Option<Self> {
        let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            is_number.then(|| text.parse::<u64>().ok()).flatten()
        };
        match (first.trim(), last.trim()) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// The first and the last byte of it in a log of that size, both included.
    fn within(self, size: u64) -> Option<(u64, u64)> {
        let end = size.checked_sub(1)?;
        match self {
            Self::From(first, last) => (first <= end).then(|| (first, last.unwrap_or(end).min(end))),
            Self::Last(0) => None,
            Self::Last(count) => Some((size.saturating_sub(count), end)),
        }
    }
}

async fn range_of(shared: &Shared, job: &JobRecord, run: RunRef, asked: Asked) -> Result<Response, Problem> {
    let size = shared.orchestrator.log_size(run).await?;
    // While it goes on, nobody knows how long it will be.
    let total = if has_ended(job, run.epoch) { size.to_string() } else { "*".to_owned() };
    let Some((first, last)) = asked.within(size) else {
        let detail = format!("the log has {size} bytes");
        let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
        let mut response = problem.into_response();
        if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
            response.headers_mut().insert(CONTENT_RANGE, range);
        }
        return Ok(response);
    };
    let limit = u32::try_from(last - first + 1).unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let pieces = shared.orchestrator.log(run, first, limit).await?;
    let mut response = plain(StatusCode::PARTIAL_CONTENT, &pieces);
    let end = first + length(&pieces).max(1) - 1;
    if let Ok(range) = HeaderValue::try_from(format!("bytes {first}-{end}/{total}")) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        // The examples of RFC 9110, section 14.1.2, for a representation of 10000 bytes.
        let cases = [
            ("bytes=0-499", Some((0, 499))),
            ("bytes=500-999", Some((500, 999))),
            ("bytes=-500", Some((9500, 9999))),
            ("bytes=9500-", Some((9500, 9999))),
            ("bytes=9500-99999", Some((9500, 9999))),
            ("bytes=10000-", None),
            ("bytes=-0", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Asked::read(text).unwrap().within(10_000), expected, "{text}");
        }
        for text in
            ["bytes=5-4", "bytes=", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=+1-2", "bytes=a-b"]
        {
            assert_eq!(Asked::read(text), None, "{text}");
        }
        assert_eq!(Asked::From(0, None).within(0), None);
    }
}
