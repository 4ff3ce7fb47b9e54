//! Lists a page at a time: limits, signed cursors, and the link to the next page.

use aws_lc_rs::hmac;
use axum::Json;
use axum::http::header::LINK;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use mamos_core::store::{Cursor, DocumentChange, DocumentWrite, Expected, PageRequest, Store, Written};
use mamos_core::{Error, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::shared::Shared;

/// How many items a page has if nobody says.
pub(crate) const DEFAULT_LIMIT: u32 = 50;
/// The most items of a page.
pub(crate) const MAX_LIMIT: u32 = 500;
/// The longest cursor, in bytes: those of the stores have some dozens.
const MAX_CURSOR_BYTES: usize = 4096;
/// Where the key that signs cursors is kept, so that all orchestrators on one store read each other's.
const COLLECTION: &str = "http";
const KEY: &str = "cursor_key";

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// What it holds. May be fewer than asked for, even none, although there are more.
    items: Vec<T>,
    /// Where the next page begins: give it as `cursor`. Null at the end.
    next_cursor: Option<String>,
}

impl<T> List<T> {
    /// All of a list that is short enough to be shown at once.
    pub(crate) fn all(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

/// Signs the cursors of lists, so that nobody can make up a place in another list.
#[derive(Default)]
pub(crate) struct Cursors {
    key: OnceCell<hmac::Key>,
}

/// A page that somebody asked for.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    key: &'a hmac::Key,
    route: &'static str,
    filter: String,
    request: PageRequest,
}

/// What a cursor says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// The route of the list.
    r: String,
    /// A hash of what the list was filtered by.
    f: String,
    /// Where the store goes on.
    c: String,
}

/// Reads which page of a list is asked for. `route` names the list, `query` is what it is filtered by, with
/// its `limit` and `cursor`: a cursor is good for the same list with the same filters only.
pub(crate) async fn ask<'a>(
    shared: &'a Shared,
    route: &'static str,
    query: &impl Serialize,
    limit: Option<u32>,
    cursor: Option<&str>,
) -> Result<Asked<'a>, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("expected 1 to {MAX_LIMIT}");
        return Err(Problem::bad_request("a parameter of the query is wrong").at("limit", detail));
    }
    let key = shared.cursors.key(shared.orchestrator.store().as_ref(), shared.now()).await?;
    let mut filter = serde_json::to_value(query).map_err(|error| Problem::bad_request(error.to_string()))?;
    if let Some(members) = filter.as_object_mut() {
        members.remove("limit");
        members.remove("cursor");
    }
    let filter = URL_SAFE_NO_PAD.encode(&Sha256::digest(filter.to_string())[..12]);
    let after = match cursor {
        None => None,
        Some(cursor) => Some(read(key, cursor, route, &filter).ok_or_else(bad_cursor)?),
    };
    Ok(Asked { key, route, filter, request: PageRequest { limit, after } })
}

impl Asked<'_> {
    /// What to ask the store for.
    pub(crate) fn request(&self) -> PageRequest {
        self.request.clone()
    }

    /// The answer, with a link to the next page if there is one.
    pub(crate) fn answer<T: Serialize>(self, uri: &Uri, items: Vec<T>, next: Option<Cursor>) -> Response {
        let next_cursor = next.map(|next| {
            let place = Place { r: self.route.to_owned(), f: self.filter, c: next.0 };
            write(self.key, &place)
        });
        let link = next_cursor.as_ref().map(|cursor| next_link(uri.query().unwrap_or_default(), cursor));
        let mut response = Json(List { items, next_cursor }).into_response();
        if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}

/// A reference relative to the list itself, so that it is right wherever the API is mounted.
fn next_link(query: &str, cursor: &str) -> String {
    let kept = query.split('&').filter(|part| !part.is_empty() && !part.starts_with("cursor="));
    let parts: Vec<String> = kept.map(str::to_owned).chain([format!("cursor={cursor}")]).collect();
    format!("<?{}>; rel=\"next\"", parts.join("&"))
}

fn write(key: &hmac::Key, place: &Place) -> String {
    // Three texts can always be written down.
    let place = serde_json::to_vec(place).unwrap_or_default();
    let signature = hmac::sign(key, &place);
    format!("{}.{}", URL_SAFE_NO_PAD.encode(place), URL_SAFE_NO_PAD.encode(signature))
}

fn read(key: &hmac::Key, cursor: &str, route: &str, filter: &str) -> Option<Cursor> {
    if cursor.len() > MAX_CURSOR_BYTES {
        return None;
    }
    let (place, signature) = cursor.split_once('.')?;
    let (place, signature) = (URL_SAFE_NO_PAD.decode(place).ok()?, URL_SAFE_NO_PAD.decode(signature).ok()?);
    hmac::verify(key, &place, &signature).ok()?;
    let place: Place = serde_json::from_slice(&place).ok()?;
    (place.r == route && place.f == filter).then_some(Cursor(place.c))
}

fn bad_cursor() -> Problem {
    let detail = "the cursor is not one of this list with these filters; begin again without it";
    Problem::new(axum::http::StatusCode::BAD_REQUEST, "bad_cursor", detail).at("cursor", "not of this list")
}

impl Cursors {
    /// The key, made on first use by whoever comes first.
    async fn key(&self, store: &dyn Store, now: Timestamp) -> mamos_core::Result<&hmac::Key> {
        self.key.get_or_try_init(|| read_or_make(store, now)).await
    }
}

async fn read_or_make(store: &dyn Store, now: Timestamp) -> mamos_core::Result<hmac::Key> {
    let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    if let Some(document) = store.document(COLLECTION, KEY, now).await? {
        return Ok(key(&document.value));
    }
    let mut fresh = [0; 32];
    aws_lc_rs::rand::fill(&mut fresh)
        .map_err(|_| Error::new(ErrorKind::Unavailable, "cursor.key", "no random numbers can be had"))?;
    let write = DocumentWrite {
        collection: COLLECTION.to_owned(),
        key: KEY.to_owned(),
        expected: Expected::Absent,
        change: DocumentChange::Put { value: Bytes::copy_from_slice(&fresh), expires_at: None },
    };
    match store.write_documents(vec![write], now).await?.pop() {
        Some(Written::Conflict(Some(other))) => Ok(key(&other.value)),
        _ => Ok(key(&fresh)),
    }
}

impl std::fmt::Debug for Cursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursors").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { r: "jobs".to_owned(), f: "f".to_owned(), c: "17".to_owned() }
    }

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let cursor = write(&key, &place());
        assert_eq!(read(&key, &cursor, "jobs", "f"), Some(Cursor("17".to_owned())));
        assert_eq!(read(&key, &cursor, "agents", "f"), None);
        assert_eq!(read(&key, &cursor, "jobs", "g"), None);
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]);
        assert_eq!(read(&other, &cursor, "jobs", "f"), None);
    }

    #[test]
    fn a_cursor_with_any_byte_changed_is_refused() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let cursor = write(&key, &place());
        for at in 0..cursor.len() {
            let mut other = cursor.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(read(&key, &other, "jobs", "f"), None, "byte {at}");
        }
    }

    #[test]
    fn the_link_keeps_the_filters() {
        assert_eq!(
            next_link("limit=2&cursor=old&state=ready", "new"),
            "<?limit=2&state=ready&cursor=new>; rel=\"next\""
        );
        assert_eq!(next_link("", "new"), "<?cursor=new>; rel=\"next\"");
    }
}
