//! `Idempotency-Key`: a creating request that is sent again gives the same answer and creates nothing more.
//!
//! What is known of a key is a document, so that it holds across restarts and on all orchestrators of a
//! store. It is taken before the work begins: of two requests at once, one does the work and the other is
//! told to wait. A process that dies in between leaves the key taken for [`RUNNING_FOR`], then the request
//! may be tried again.
//!
//! Answers are kept without what may be seen only once ([`Withheld`]): a replay has null there. Jobs need no
//! kept answer: their ids are [derived](Key::job_id) from the key, so that storing them again is a repeat.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use mamos_core::store::{DocumentChange, DocumentWrite, Expected, Written};
use mamos_core::{Error, ErrorKind, JobId, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::caller::Caller;
use crate::guard::{Audited, Rule};
use crate::problem::Problem;
use crate::shared::Shared;

/// The longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 128;
/// How long a key is remembered.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long a key stays taken by a request of which nothing more is heard.
const RUNNING_FOR: Duration = Duration::from_secs(60);
/// The largest body that is kept; of larger ones status and headers are.
const MAX_KEPT_BYTES: usize = 256 * 1024;
const COLLECTION: &str = "idempotency";
/// The headers that are kept.
const KEPT_HEADERS: [HeaderName; 3] = [CONTENT_TYPE, LOCATION, ETAG];

/// Put into the extensions of a response: members of its JSON that are shown once and never kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Withheld(pub(crate) &'static [&'static str]);

/// A request that may come again.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    document: String,
    request: String,
}

/// What is known of a request.
#[derive(Debug)]
pub(crate) enum Known {
    /// Nothing: it is this one's turn.
    New(Turn),
    /// Another one is at it.
    Running(Turn),
    /// It was answered.
    Answered(Answer),
}

/// The right to answer a request.
#[derive(Debug)]
pub(crate) struct Turn {
    key: Key,
    revision: u64,
}

/// How a request was answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// With a job.
    Job { id: JobId },
    /// So.
    Response { status: u16, headers: Vec<(String, String)>, body: Option<String> },
}

/// What is kept of a request.
#[derive(Serialize, Deserialize)]
struct Kept {
    request: String,
    /// Tells two that take the same key at the same time apart.
    nonce: String,
    answer: Option<Answer>,
}

impl Key {
    /// The key of a request; `None` if it has none.
    ///
    /// # Errors
    ///
    /// 400 if it is empty, too long or not visible ASCII.
    pub(crate) fn of(
        headers: &HeaderMap,
        caller: &Caller,
        route: &str,
        body: &[u8],
    ) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        let bytes = value.as_bytes();
        let is_good = (1..=MAX_KEY_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
        if !is_good || values.next().is_some() {
            let detail = "Idempotency-Key must be one value of 1 to 128 visible ASCII characters";
            return Err(Problem::bad_request(detail).at("Idempotency-Key", "not such a value"));
        }
        let text = String::from_utf8_lossy(bytes);
        let document = hash(&[caller.principal.name.as_bytes(), route.as_bytes(), text.as_bytes()]);
        Ok(Some(Self { document, request: hash(&[route.as_bytes(), body]) }))
    }

    /// The id of the job that the request stores, or of the one with that index of several.
    pub(crate) fn job_id(&self, index: usize) -> JobId {
        JobId::from_key(&format!("idempotency {} {index}", self.document))
    }

    /// Looks what is known of the request, and takes the turn if nothing is.
    ///
    /// # Errors
    ///
    /// 422 if the key was used for another request; the error of the store.
    pub(crate) async fn begin(self, shared: &Shared) -> Result<Known, Problem> {
        let now = shared.now();
        let nonce = uuid::Uuid::new_v4().to_string();
        let fresh = Kept { request: self.request.clone(), nonce, answer: None };
        let write = self.put(&fresh, Expected::Absent, RUNNING_FOR, shared)?;
        match shared.orchestrator.store().write_documents(vec![write], now).await?.pop() {
            Some(Written::Done(revision)) => Ok(Known::New(Turn { key: self, revision })),
            Some(Written::Conflict(Some(document))) => {
                let kept: Kept = serde_json::from_slice(&document.value).map_err(|error| {
                    Error::new(ErrorKind::Corrupt, "idempotency.read", "not what was kept").with_source(error)
                })?;
                if kept.request != self.request {
                    return Err(reused());
                }
                let turn = Turn { key: self, revision: document.revision };
                Ok(kept.answer.map_or(Known::Running(turn), Known::Answered))
            }
            _ => Err(still_running()),
        }
    }

    fn put(&self, kept: &Kept, expected: Expected, life: Duration, shared: &Shared) -> Result<DocumentWrite> {
        let value = serde_json::to_vec(kept).map(Bytes::from).map_err(|error| {
            Error::new(ErrorKind::Invalid, "idempotency.write", "cannot be written down").with_source(error)
        })?;
        let expires_at = Some(shared.now() + life);
        Ok(DocumentWrite {
            collection: COLLECTION.to_owned(),
            key: self.document.clone(),
            expected,
            change: DocumentChange::Put { value, expires_at },
        })
    }
}

impl Turn {
    /// Keeps the answer. Does nothing if the turn has passed to another request meanwhile.
    pub(crate) async fn answer(self, answer: Answer, shared: &Shared) -> Result<()> {
        let kept = Kept { request: self.key.request.clone(), nonce: String::new(), answer: Some(answer) };
        let write = self.key.put(&kept, Expected::Revision(self.revision), KEPT_FOR, shared)?;
        shared.orchestrator.store().write_documents(vec![write], shared.now()).await.map(|_| ())
    }

    /// Gives the turn back: nothing was created.
    pub(crate) async fn give_back(self, shared: &Shared) -> Result<()> {
        let write = DocumentWrite {
            collection: COLLECTION.to_owned(),
            key: self.key.document,
            expected: Expected::Revision(self.revision),
            change: DocumentChange::Remove,
        };
        shared.orchestrator.store().write_documents(vec![write], shared.now()).await.map(|_| ())
    }
}

/// Around the routes whose [rule](crate::guard::Rule) says so.
pub(crate) async fn layer(
    State((shared, rule)): State<(Arc<Shared>, Rule)>,
    request: Request,
    next: Next,
) -> Response {
    replay_or_run(shared, rule, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn replay_or_run(
    shared: Arc<Shared>,
    rule: Rule,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = request.extensions().get::<Caller>().cloned();
    let Some(caller) = caller.filter(|_| request.headers().contains_key("idempotency-key")) else {
        return Ok(next.run(request).await);
    };
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, rule.max_body_bytes).await.map_err(|_| {
        let detail = "the body is larger than this route takes, or ended before it was complete";
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })?;
    let route = format!("{} {}", parts.method, parts.uri);
    // A body that the members cannot be taken out of is refused anyway.
    let compared = without(&body, rule.uncompared).unwrap_or_default();
    let Some(key) = Key::of(&parts.headers, &caller, &route, compared.as_bytes())? else {
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    };
    let turn = match key.begin(&shared).await? {
        Known::New(turn) => turn,
        Known::Running(_) => return Err(still_running()),
        Known::Answered(answer) => return replay(answer),
    };
    // Goes on when the caller hangs up, so that what was created is known when they come back.
    let request = Request::from_parts(parts, Body::from(body));
    let running = tokio::spawn(async move { keep(&shared, turn, next.run(request).await).await });
    running.await.unwrap_or_else(|error| {
        tracing::error!(target: "mamos::http", %error, "a request failed");
        let detail = "it failed here; the log of the orchestrator says why";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
    })
}

/// Keeps a good answer, and lets the request be tried again after another one.
async fn keep(shared: &Shared, turn: Turn, response: Response) -> Result<Response, Problem> {
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        turn.give_back(shared).await?;
        return Ok(Response::from_parts(parts, body));
    }
    // Our own answers are bounded by what they are made from.
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    let withheld = parts.extensions.get::<Withheld>().map_or(&[][..], |withheld| withheld.0);
    let kept = without(&body, withheld).filter(|body| body.len() <= MAX_KEPT_BYTES);
    let header = |name: &HeaderName| {
        parts.headers.get(name)?.to_str().ok().map(|value| (name.as_str().to_owned(), value.to_owned()))
    };
    let headers = KEPT_HEADERS.iter().filter_map(header).collect();
    let answer = Answer::Response { status: parts.status.as_u16(), headers, body: kept };
    if let Err(error) = turn.answer(answer, shared).await {
        // The work is done: saying that it failed would make the caller do it again.
        tracing::warn!(target: "mamos::http", %error, "an answer could not be kept for its idempotency key");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// The body without what is shown once. `None` if it cannot be kept.
fn without(body: &[u8], withheld: &[&str]) -> Option<String> {
    if withheld.is_empty() {
        return String::from_utf8(body.to_vec()).ok();
    }
    let mut value: Value = serde_json::from_slice(body).ok()?;
    let members = value.as_object_mut()?;
    for name in withheld {
        members.insert((*name).to_owned(), Value::Null);
    }
    serde_json::to_string(&value).ok()
}

fn replay(answer: Answer) -> Result<Response, Problem> {
    let Answer::Response { status, headers, body } = answer else { return Err(reused()) };
    let mut response = body.unwrap_or_default().into_response();
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    response.headers_mut().remove(CONTENT_TYPE);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    mark_replayed(&mut response);
    Ok(response)
}

/// Says that nothing was done this time.
pub(crate) fn mark_replayed(response: &mut Response) {
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    response.extensions_mut().insert(Audited { is_skipped: true, ..Audited::default() });
}

/// 422: the key was used for something else.
pub(crate) fn reused() -> Problem {
    let detail = "this Idempotency-Key was used for another request; choose another key";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
}

fn still_running() -> Problem {
    let detail = "the first request with this Idempotency-Key is not answered yet; try again";
    let problem = Problem::new(StatusCode::CONFLICT, "idempotency_key_in_use", detail);
    Problem { retry_after: Some(1), ..problem }
}

fn hash(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_once_is_not_kept() {
        let body = br#"{"id": 1, "token": "mamos_reg_secret"}"#;
        let kept = without(body, &["token"]).unwrap();
        assert_eq!(kept, r#"{"id":1,"token":null}"#);
        assert_eq!(without(b"not json, with a secret", &["token"]), None);
        assert_eq!(without(b"text", &[]).as_deref(), Some("text"));
    }

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }
}
