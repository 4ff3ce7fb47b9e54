//! Lists, a page at a time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mamos_core::auth::Permission;
use mamos_core::store::{Cursor, Page, PageRequest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::permission_named;
use crate::problem::Problem;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;

/// Some of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Items<T> {
    /// The things.
    items: Vec<T>,
    /// Where the next page begins, as `cursor`; null at the end.
    next_cursor: Option<String>,
}

impl<T> Items<T> {
    pub(super) fn all(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }

    pub(super) fn of<R>(page: Page<R>, show: impl FnMut(R) -> T) -> Self {
        let next_cursor = page.next.map(|cursor| URL_SAFE_NO_PAD.encode(cursor.0));
        Self { items: page.items.into_iter().map(show).collect(), next_cursor }
    }
}

/// Which part of a list is wanted.
pub(super) fn page(limit: Option<u32>, cursor: Option<&str>) -> Result<PageRequest, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad_request("limit is from 1 to 500").at("limit", "not from 1 to 500"));
    }
    let bad = || Problem::new(axum::http::StatusCode::BAD_REQUEST, "bad_cursor", "no page has this cursor");
    let after = cursor.map(|cursor| {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad())?;
        String::from_utf8(bytes).map(Cursor).map_err(|_| bad())
    });
    Ok(PageRequest { limit, after: after.transpose()? })
}

/// Reads the names of permissions.
pub(super) fn permissions<C: FromIterator<Permission>>(names: &[String]) -> Result<C, Problem> {
    let read = |(index, name): (usize, &String)| {
        permission_named(name).ok_or_else(|| {
            let known = Permission::ALL.map(Permission::as_str).join(", ");
            Problem::invalid("there is no such permission")
                .at(format!("/permissions/{index}"), format!("not one of {known}"))
        })
    };
    names.iter().enumerate().map(read).collect()
}
