//! Errors as callers see them: problem details (RFC 9457).

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mamos_core::{Error, ErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

/// What a caller is told when something did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Names the sort of problem: a reference relative to the API, stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for programs, for example `not_found`.
    pub code: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// What sort of problem it is, for people.
    pub title: &'static str,
    /// What happened here, why, and what to do.
    pub detail: String,
    /// Which parts of the request are wrong, if that can be said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// The state that the request contradicts, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_state: Option<String>,
    /// When to try again, in whole seconds.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

/// A part of a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// Which part: a JSON pointer into the body, or the name of a parameter.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Problem {
    /// A problem of this sort.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{code}"),
            code,
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Problem"),
            detail: detail.into(),
            errors: Vec::new(),
            current_state: None,
            retry_after: None,
        }
    }

    /// 400: it cannot be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 401: nobody is known by what was shown.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// 403: the caller may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: there is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 405: not with this method.
    pub fn method_not_allowed() -> Self {
        let detail = "the path does not take this method; the Allow header says which it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// 409: it contradicts what is there.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 422: it can be read and makes no sense.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    /// 429: too many.
    pub fn too_many(detail: impl Into<String>, retry_after: u64) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail);
        Self { retry_after: Some(retry_after.max(1)), ..problem }
    }

    /// 503: not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
        Self { retry_after: Some(1), ..problem }
    }

    /// Says which part of the request is wrong.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(Fault { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// Says which state the request contradicts.
    #[must_use]
    pub fn current_state(mut self, state: impl Into<String>) -> Self {
        self.current_state = Some(state.into());
        self
    }
}

/// Tells the caller what is theirs to know. What is not is logged, and the caller gets its kind only.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.message().to_owned();
        match error.kind() {
            ErrorKind::NotFound => Self::not_found(detail),
            ErrorKind::Conflict | ErrorKind::Stale => Self::conflict(detail),
            ErrorKind::Denied => Self::forbidden(detail),
            ErrorKind::Invalid | ErrorKind::Unsupported => Self::invalid(detail),
            ErrorKind::LimitExceeded => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "limit_exceeded", detail),
            ErrorKind::Unavailable => {
                tracing::warn!(target: "mamos::http", %error, "a request could not be served");
                Self::unavailable(
                    "it cannot be done now: the store does not answer, or too many ask; try again",
                )
            }
            ErrorKind::Closed => Self::unavailable("the orchestrator is shutting down; try again"),
            _ => {
                tracing::error!(target: "mamos::http", %error, "a request failed");
                let detail = "it failed here; the log of the orchestrator says why";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
            }
        }
    }
}

impl From<mamos_core::id::InvalidName> for Problem {
    fn from(error: mamos_core::id::InvalidName) -> Self {
        Self::invalid(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        // For the layers around: metrics and the audit log name the problem.
        response.extensions_mut().insert(Told(self.code, self.detail));
        response
    }
}

/// The code and the detail of a problem that was told, in the extensions of its response.
#[derive(Debug, Clone)]
pub(crate) struct Told(pub(crate) &'static str, pub(crate) String);
