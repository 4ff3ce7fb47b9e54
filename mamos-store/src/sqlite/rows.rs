//! Cells of SQLite, for the decoding that all stores in SQL share.

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Column, Row};
use uuid::Uuid;

use super::errors::Fault;

pub(super) use crate::sql::rows::*;

/// The columns that [`session`] reads.
pub(super) const SESSION_COLUMNS: &str = "no, id, link, agent, orchestrator, opened_at, expires_at, end";

impl Cells for SqliteRow {
    fn maybe_int(&self, index: usize) -> Result<Option<i64>, Fault> {
        get(self, index)
    }

    fn maybe_float(&self, index: usize) -> Result<Option<f64>, Fault> {
        get(self, index)
    }

    fn maybe_text(&self, index: usize) -> Result<Option<&str>, Fault> {
        get(self, index)
    }

    fn maybe_bytes(&self, index: usize) -> Result<Option<&[u8]>, Fault> {
        get(self, index)
    }

    fn maybe_uuid(&self, index: usize) -> Result<Option<Uuid>, Fault> {
        let bytes: Option<&[u8]> = get(self, index)?;
        bytes.map(Uuid::from_slice).transpose().map_err(|error| corrupt("id", error))
    }

    fn name(&self, index: usize) -> &str {
        self.column(index).name()
    }
}

pub(super) fn get<'r, T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(
    row: &'r SqliteRow,
    index: usize,
) -> Result<T, Fault> {
    row.try_get(index).map_err(|error| match error {
        // sqlx knows the number of the column, and people its name.
        sqlx::Error::ColumnDecode { source, .. } => corrupt(row.column(index).name(), source),
        error => Fault::Sql(error),
    })
}

pub(super) fn time(row: &SqliteRow, index: usize) -> Result<Option<Timestamp>, Fault> {
    row.maybe_time(index)
}

pub(super) fn uuid(row: &SqliteRow, index: usize) -> Result<Uuid, Fault> {
    row.uuid(index)
}

pub(super) fn blob(row: &SqliteRow, index: usize) -> Result<Bytes, Fault> {
    Ok(Bytes::from(get::<Vec<u8>>(row, index)?))
}
