//! Reading requests: bodies, parameters of the path and of the query, each with a problem that says what is
//! wrong.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use garde::Validate;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::problem::Problem;

/// The longest part of a parser's message that is told: it may quote what it was given.
const MAX_TOLD_CHARS: usize = 300;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body whose values are checked against each other and against their bounds.
#[derive(Debug)]
pub(crate) struct Checked<T>(pub(crate) T);

/// A JSON body that may be left out.
#[derive(Debug)]
pub(crate) struct OptionalBody<T>(pub(crate) T);

/// The last parameter of the path, an id or a name. Those before it belong to where the API is mounted.
#[derive(Debug)]
pub(crate) struct Id<T>(pub(crate) T);

/// The parameters of the query. Those that stand several times become a list.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        read_json(&json_bytes(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Validate<Context = ()>> FromRequest<S> for Checked<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Body(body) = Body::<T>::from_request(request, state).await?;
        check(&body)?;
        Ok(Self(body))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Validate<Context = ()> + Default> FromRequest<S>
    for OptionalBody<T>
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(not_json());
        }
        let body = read_json(&bytes)?;
        check(&body)?;
        Ok(Self(body))
    }
}

impl<S: Send + Sync, T: FromStr<Err: Display>> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // An id that cannot be one names nothing.
        let nothing = |why: &dyn Display| Problem::not_found(told(&format!("nothing has this id: {why}")));
        let parameters =
            RawPathParams::from_request_parts(parts, state).await.map_err(|error| nothing(&error))?;
        let text = parameters.iter().last().map(|(_, value)| value).unwrap_or_default();
        text.parse().map(Self).map_err(|error| nothing(&error))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let parameters = serde_html_form::Deserializer::from_bytes(query.as_bytes());
        serde_path_to_error::deserialize(parameters).map(Self).map_err(|error| {
            let name = error.path().iter().find_map(|segment| match segment {
                Segment::Map { key } => Some(key.clone()),
                _ => None,
            });
            let detail = told(&error.inner().to_string());
            Problem::bad_request("a parameter of the query is wrong").at(name.unwrap_or_default(), detail)
        })
    }
}

/// The bytes of a body that says that it is JSON.
pub(crate) async fn json_bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        return Err(not_json());
    }
    Ok(Bytes::from_request(request, state).await?)
}

/// Reads JSON, and says by a JSON pointer what of it is wrong.
pub(crate) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let at = pointer(error.path());
        let error = error.into_inner();
        if error.is_data() {
            let problem = Problem::invalid("the body does not say what this route takes");
            problem.at(at, told(&error.to_string()))
        } else {
            not_readable(&error)
        }
    })?;
    parser.end().map_err(|error| not_readable(&error))?;
    Ok(value)
}

/// Are its values within their bounds?
pub(crate) fn check<T: Validate<Context = ()>>(body: &T) -> Result<(), Problem> {
    let Err(report) = body.validate() else { return Ok(()) };
    let problem = Problem::invalid("the body has values that are not allowed");
    Err(report.iter().take(100).fold(problem, |problem, (path, error)| {
        // `jobs[0].retry.jitter` as a pointer; the names in bodies have none of these characters.
        let path = path.to_string().replace(']', "").replace(['[', '.'], "/");
        problem.at(format!("/{path}"), told(error.message()))
    }))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn not_json() -> Problem {
    let detail = "the body must be JSON; send it with Content-Type: application/json";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

fn not_readable(error: &serde_json::Error) -> Problem {
    Problem::bad_request("the body is not JSON").at("", told(&error.to_string()))
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                let key: String = key.chars().take(MAX_TOLD_CHARS).collect();
                pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

fn told(text: &str) -> String {
    text.chars().take(MAX_TOLD_CHARS).collect()
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = "the body is larger than this route takes; send less at once";
            return Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
        }
        Self::bad_request("the body ended before it was complete")
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        inner: Vec<Inner>,
        #[serde(default)]
        raw: Option<Box<serde_json::value::RawValue>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "a/b~c")]
        number: u8,
    }

    fn fault(body: &str) -> (u16, String) {
        let problem = read_json::<Outer>(body.as_bytes()).unwrap_err();
        (problem.status, problem.errors[0].pointer.clone())
    }

    #[test]
    fn a_fault_is_pointed_at() {
        assert_eq!(
            fault(r#"{"inner": [{"a/b~c": 1}, {"a/b~c": 300}]}"#),
            (422, "/inner/1/a~1b~0c".to_owned())
        );
        assert_eq!(fault(r#"{"other": 1}"#).0, 422);
        assert_eq!(fault(r#"{"inner": [], "inner": []}"#).0, 422);
        assert_eq!(fault(r#"{"inner": ["#).0, 400);
        assert_eq!(fault(r#"{} {}"#).0, 400);
        let huge = format!(r#"{{"{}": 1}}"#, "x".repeat(100_000));
        assert!(read_json::<Outer>(huge.as_bytes()).unwrap_err().errors[0].detail.len() <= MAX_TOLD_CHARS);
    }

    #[test]
    fn what_is_kept_as_it_was_written_is() {
        let read: Outer =
            read_json(br#"{"raw": {"n": 123456789012345678901234567890.10}, "inner": [{"a/b~c": 255}]}"#)
                .unwrap();
        assert_eq!(read.raw.unwrap().get(), r#"{"n": 123456789012345678901234567890.10}"#);
        assert_eq!(read.inner[0].number, 255);
    }
}
