//! Cells of PostgreSQL, for the decoding that all stores in SQL share.

use std::borrow::Cow;
use std::str::from_utf8;

use sqlx::postgres::PgRow;
use sqlx::{Column, Row, ValueRef};
use uuid::Uuid;

use super::errors::Fault;

pub(super) use crate::sql::rows::*;

/// The columns that [`session`] reads. The last one has another name than in SQLite: `end` is a word of SQL.
pub(super) const SESSION_COLUMNS: &str = "no, id, link, agent, orchestrator, opened_at, expires_at, ended";

fn raw(row: &PgRow, index: usize) -> Result<Option<&[u8]>, Fault> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(None);
    }
    value.as_bytes().map(Some).map_err(|error| corrupt(row.name(index), error))
}

/// Everything comes in binary form, so that numbers are as long as their types.
impl Cells for PgRow {
    fn maybe_int(&self, index: usize) -> Result<Option<i64>, Fault> {
        let Some(bytes) = raw(self, index)? else { return Ok(None) };
        let number = match *bytes {
            [byte] => i64::from(byte),
            [a, b] => i64::from(i16::from_be_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(corrupt(self.name(index), "it is no number")),
        };
        Ok(Some(number))
    }

    fn maybe_float(&self, index: usize) -> Result<Option<f64>, Fault> {
        Ok(self.try_get(index)?)
    }

    fn maybe_text(&self, index: usize) -> Result<Option<&str>, Fault> {
        let text = raw(self, index)?.map(from_utf8).transpose();
        text.map_err(|error| corrupt(self.name(index), error))
    }

    fn maybe_bytes(&self, index: usize) -> Result<Option<&[u8]>, Fault> {
        raw(self, index)
    }

    fn maybe_uuid(&self, index: usize) -> Result<Option<Uuid>, Fault> {
        let uuid = raw(self, index)?.map(Uuid::from_slice).transpose();
        uuid.map_err(|error| corrupt(self.name(index), error))
    }

    fn name(&self, index: usize) -> &str {
        self.column(index).name()
    }
}

/// Text as PostgreSQL can keep it: it has no zero bytes.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}
