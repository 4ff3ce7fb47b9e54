//! Entity tags: reading again only what changed, and editing only what was seen.
//!
//! A tag is a hash of the answer, so that it says when anything in it changed. What is edited has its
//! revision before the hash: an edit asks for the revision only, because the liveness of an agent changes
//! all the time and is nobody's edit.

use axum::Json;
use axum::http::header::{ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// The most tags that are read from one header.
const MAX_TAGS: usize = 64;

/// Answers with a thing and its tag; with 304 if the caller has just that.
pub(crate) fn answer<T: Serialize>(headers: &HeaderMap, thing: &T) -> Response {
    tagged(headers, None, thing)
}

/// The same for a thing that has a revision, which [`check_revision`] asks for.
pub(crate) fn answer_revision<T: Serialize>(headers: &HeaderMap, revision: u64, thing: &T) -> Response {
    tagged(headers, Some(revision), thing)
}

fn tagged<T: Serialize>(headers: &HeaderMap, revision: Option<u64>, thing: &T) -> Response {
    let body = match serde_json::to_vec(thing) {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(target: "mamos::http", %error, "an answer cannot be written down");
            let detail = "it failed here; the log of the orchestrator says why";
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response();
        }
    };
    let hash = URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..12]);
    let tag = match revision {
        Some(revision) => format!("\"{revision}.{hash}\""),
        None => format!("\"{hash}\""),
    };
    let is_known = tags(headers, &IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag);
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(axum::http::header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Did the caller see this revision?
///
/// # Errors
///
/// 428 if they do not say what they saw, 412 if it is another one.
pub(crate) fn check_revision(headers: &HeaderMap, revision: u64) -> Result<(), Problem> {
    if !headers.contains_key(IF_MATCH) {
        let detail = "say which one you saw: send its ETag as If-Match";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail));
    }
    let seen = |tag: &str| {
        let revision_of = || tag.strip_prefix('"')?.split_once('.')?.0.parse::<u64>().ok();
        tag == "*" || revision_of() == Some(revision)
    };
    if tags(headers, &IF_MATCH).any(seen) { Ok(()) } else { Err(stale()) }
}

/// 412: somebody else changed it.
pub(crate) fn stale() -> Problem {
    let detail = "it has changed since you read it; read it again, then decide";
    Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
}

fn tags<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).take(MAX_TAGS)
}

/// A created or changed thing with its tag.
pub(crate) fn fresh<T: Serialize>(revision: u64, thing: &T) -> Response {
    tagged(&HeaderMap::new(), Some(revision), thing)
}

/// An answer with a status of its own.
pub(crate) fn with_status<T: Serialize>(status: StatusCode, thing: &T) -> Response {
    (status, Json(thing)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn an_edit_asks_for_the_revision_and_not_for_the_hash() {
        assert_eq!(check_revision(&HeaderMap::new(), 7).unwrap_err().status, 428);
        for (sent, is_good) in [
            ("\"7.abc\"", true),
            ("\"6.abc\", \"7.xyz\"", true),
            ("*", true),
            ("\"8.abc\"", false),
            ("W/\"7.abc\"", false),
            ("7", false),
            ("", false),
        ] {
            let status = check_revision(&headers(IF_MATCH, sent), 7).map_err(|problem| problem.status);
            assert_eq!(status, if is_good { Ok(()) } else { Err(412) }, "{sent:?}");
        }
    }

    #[test]
    fn what_the_caller_has_is_not_sent_again() {
        let first = answer(&HeaderMap::new(), &"thing");
        let tag = first.headers()[ETAG].clone();
        let again = HeaderMap::from_iter([(IF_NONE_MATCH, tag)]);
        assert_eq!(answer(&again, &"thing").status(), 304);
        assert_eq!(answer(&again, &"other").status(), 200);
    }
}
