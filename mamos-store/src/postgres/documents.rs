//! Documents.

use std::collections::{BTreeMap, HashMap};

use mamos_core::ErrorKind;
use mamos_core::clock::Timestamp;
use mamos_core::store::{Document, DocumentFilter, DocumentWrite, Expected, Page, PageRequest, Written};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};

use super::errors::{Fault, readable};
use super::rows::{self, Cells, DOCUMENT_COLUMNS};
use super::tx::{Operation, Tx};
use crate::documents::{self, Effect};

/// One document, or `None`.
pub(super) async fn read(
    connection: &mut PgConnection,
    collection: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<Document>, Fault> {
    let query =
        format!("SELECT {DOCUMENT_COLUMNS} FROM mamos_document d WHERE d.collection = $1 AND d.key = $2");
    let row = sqlx::query(AssertSqlSafe(query))
        .bind(collection.as_bytes().to_vec())
        .bind(key.as_bytes().to_vec())
        .fetch_optional(connection)
        .await?;
    let stored = row.as_ref().map(|row| rows::document(row, 0)).transpose()?;
    Ok(stored.filter(|document| documents::is_alive(document, now)))
}

/// The statement of [`page`].
pub(super) fn page_query(is_descending: bool) -> String {
    let order = if is_descending { "DESC" } else { "ASC" };
    format!(
        "SELECT {DOCUMENT_COLUMNS} FROM mamos_document d WHERE d.collection = $1 AND d.key >= $2 AND d.key < $3 \
         AND (d.expires_at IS NULL OR d.expires_at > $4) ORDER BY d.key {order} LIMIT $5"
    )
}

/// Documents of a collection in the order of their keys, a page at a time. Those that cannot be
/// understood are left out.
pub(super) async fn page(
    connection: &mut PgConnection,
    filter: &DocumentFilter,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Page<Document>, Fault> {
    let mut range = documents::rest(filter, page.after.as_ref())
        .ok_or(Fault::Refused(ErrorKind::Invalid, "this cursor is not of this list; begin again"))?;
    let limit = page.bounded_limit() as usize;
    let mut items: Vec<Document> = Vec::new();
    loop {
        let query = sqlx::query(AssertSqlSafe(page_query(filter.is_descending)))
            .bind(filter.collection.as_bytes().to_vec())
            .bind(range.start.clone())
            .bind(range.end.clone())
            .bind(now.as_micros())
            .bind(limit as i64 + 1);
        let found = query.fetch_all(&mut *connection).await?;
        for row in &found {
            let Some(document) = readable(rows::document(row, 0), "document")? else { continue };
            if items.len() == limit {
                let next = items.last().map(|last| documents::cursor(filter, &last.key));
                return Ok(Page { items, next });
            }
            items.push(document);
        }
        // Without broken rows one query is enough.
        let Some(last) = found.last().filter(|_| found.len() > limit) else {
            return Ok(Page { items, next: None });
        };
        range = documents::behind(filter, range, last.bytes(0)?);
    }
}

/// See [`mamos_core::store::DocumentStore::write_documents`].
pub(super) struct WriteDocuments {
    pub(super) writes: Vec<DocumentWrite>,
    pub(super) now: Timestamp,
}

/// Collection and key.
type Name<'a> = (&'a str, &'a str);

fn name(write: &DocumentWrite) -> Name<'_> {
    (&write.collection, &write.key)
}

impl Operation for WriteDocuments {
    type Answer = Vec<Written>;
    const NAME: &'static str = "store.write_documents";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Written>, Fault> {
        documents::check(&self.writes)
            .map_err(|message| Fault::Refused(ErrorKind::LimitExceeded, message))?;
        let stored = self.read(tx).await?;
        let mut changed: BTreeMap<Name<'_>, Option<Document>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(self.writes.len());
        for write in &self.writes {
            let current = match (changed.get(&name(write)), stored.get(&name(write))) {
                (Some(changed), _) => changed.as_ref(),
                (None, None) => None,
                (None, Some(Ok(document))) => Some(document),
                // This is how a row that cannot be understood is mended.
                (None, Some(Err(_))) if write.expected == Expected::Any => None,
                (None, Some(Err(fault))) => return Err(fault.again()),
            };
            let (written, effect) = documents::after(current, write, self.now);
            match effect {
                Effect::Nothing => {}
                Effect::Put(document) => drop(changed.insert(name(write), Some(document))),
                Effect::Remove => drop(changed.insert(name(write), None)),
            }
            answers.push(written);
        }
        store(tx, changed, |name| stored.contains_key(name)).await?;
        Ok(answers)
    }
}

impl WriteDocuments {
    /// What is stored under the names of the writes, expired or not.
    async fn read(&self, tx: &mut Tx<'_>) -> Result<HashMap<Name<'_>, Result<Document, Fault>>, Fault> {
        // Locked in the order of their keys. What is not there yet is locked by the insert.
        const READ: &str = concat!(
            "SELECT d.collection, ",
            rows::document_columns!(),
            " FROM mamos_document d JOIN (SELECT DISTINCT collection, key FROM \
             unnest($1::bytea[], $2::bytea[]) AS v(collection, key)) v \
             ON d.collection = v.collection AND d.key = v.key \
             ORDER BY d.collection, d.key FOR NO KEY UPDATE OF d"
        );
        let found = sqlx::query(READ)
            .bind(self.writes.iter().map(|write| write.collection.as_bytes()).collect::<Vec<_>>())
            .bind(self.writes.iter().map(|write| write.key.as_bytes()).collect::<Vec<_>>())
            .fetch_all(&mut *tx.connection)
            .await?;
        let mut by_name: HashMap<(&[u8], &[u8]), &PgRow> = HashMap::with_capacity(found.len());
        for row in &found {
            by_name.insert((row.bytes(0)?, row.bytes(1)?), row);
        }
        let mut stored = HashMap::new();
        for write in &self.writes {
            if let Some(row) = by_name.get(&(write.collection.as_bytes(), write.key.as_bytes())) {
                stored.entry(name(write)).or_insert_with(|| rows::document(*row, 1));
            }
        }
        Ok(stored)
    }
}

async fn store(
    tx: &mut Tx<'_>,
    changed: BTreeMap<Name<'_>, Option<Document>>,
    is_stored: impl Fn(&Name<'_>) -> bool,
) -> Result<(), Fault> {
    // A new one that another transaction stored meanwhile is a violation: all is done again, and sees it.
    const INSERT: &str = "INSERT INTO mamos_document (collection, key, revision, value, expires_at) \
         SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[])";
    const UPDATE: &str = "UPDATE mamos_document d SET revision = v.revision, value = v.value, \
         expires_at = v.expires_at FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[]) \
         AS v(collection, key, revision, value, expires_at) WHERE d.collection = v.collection AND d.key = v.key";
    const REMOVE: &str = "DELETE FROM mamos_document d USING unnest($1::bytea[], $2::bytea[]) AS v(collection, key) \
         WHERE d.collection = v.collection AND d.key = v.key";
    let (mut inserted, mut updated, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for (name, document) in changed {
        match document {
            Some(document) if is_stored(&name) => updated.push((name, document)),
            Some(document) => inserted.push((name, document)),
            None => removed.push(name),
        }
    }
    for (statement, put) in [(INSERT, inserted), (UPDATE, updated)] {
        if put.is_empty() {
            continue;
        }
        let expiries = put.iter().map(|(_, document)| document.expires_at.map(Timestamp::as_micros));
        sqlx::query(statement)
            .bind(put.iter().map(|((collection, _), _)| collection.as_bytes()).collect::<Vec<_>>())
            .bind(put.iter().map(|((_, key), _)| key.as_bytes()).collect::<Vec<_>>())
            .bind(put.iter().map(|(_, document)| document.revision as i64).collect::<Vec<_>>())
            .bind(put.iter().map(|(_, document)| document.value.as_ref()).collect::<Vec<&[u8]>>())
            .bind(expiries.collect::<Vec<_>>())
            .execute(&mut *tx.connection)
            .await?;
    }
    if !removed.is_empty() {
        sqlx::query(REMOVE)
            .bind(removed.iter().map(|(collection, _)| collection.as_bytes()).collect::<Vec<_>>())
            .bind(removed.iter().map(|(_, key)| key.as_bytes()).collect::<Vec<_>>())
            .execute(&mut *tx.connection)
            .await?;
    }
    Ok(())
}

/// See [`mamos_core::store::DocumentStore::prune_documents`].
pub(super) struct PruneDocuments {
    pub(super) now: Timestamp,
    pub(super) limit: u32,
}

impl Operation for PruneDocuments {
    type Answer = u32;
    const NAME: &'static str = "store.prune_documents";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<u32, Fault> {
        const PRUNE: &str = "WITH e AS (SELECT collection, key FROM mamos_document WHERE expires_at IS NOT NULL \
             AND expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) \
             DELETE FROM mamos_document d USING e WHERE d.collection = e.collection AND d.key = e.key";
        let pruned = sqlx::query(PRUNE)
            .bind(self.now.as_micros())
            .bind(i64::from(self.limit))
            .execute(&mut *tx.connection)
            .await?;
        Ok(u32::try_from(pruned.rows_affected()).unwrap_or(u32::MAX))
    }
}
