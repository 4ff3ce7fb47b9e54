//! Documents.

use std::collections::{BTreeMap, HashMap};

use mamos_core::ErrorKind;
use mamos_core::clock::Timestamp;
use mamos_core::store::{Document, DocumentFilter, DocumentWrite, Expected, Page, PageRequest, Written};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::errors::{Fault, readable};
use super::rows::{self, DOCUMENT_COLUMNS, get};
use super::sql::Listed;
use super::writer::{Operation, Tx};
use crate::documents::{self, Effect};

/// One document, or `None`.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    collection: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<Document>, Fault> {
    let query =
        format!("SELECT {DOCUMENT_COLUMNS} FROM mamos_document d WHERE d.collection = ? AND d.key = ?");
    let row = sqlx::query(AssertSqlSafe(query))
        .bind(collection.to_owned())
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
        "SELECT {DOCUMENT_COLUMNS} FROM mamos_document d WHERE d.collection = ? AND d.key >= ? AND d.key < ? \
         AND (d.expires_at IS NULL OR d.expires_at > ?) ORDER BY d.key {order} LIMIT ?"
    )
}

/// Documents of a collection in the order of their keys, a page at a time. Those that cannot be
/// understood are left out.
pub(super) async fn page(
    connection: &mut SqliteConnection,
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
            .bind(filter.collection.clone())
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
        range = documents::behind(filter, range, &get::<Vec<u8>>(last, 0)?);
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

    async fn run(&self, tx: &mut Tx) -> Result<Vec<Written>, Fault> {
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
                (None, Some(Err(fault))) => return Err(fault.duplicate()),
            };
            let (written, effect) = documents::after(current, write, self.now);
            match effect {
                Effect::Nothing => {}
                Effect::Put(document) => drop(changed.insert(name(write), Some(document))),
                Effect::Remove => drop(changed.insert(name(write), None)),
            }
            answers.push(written);
        }
        store(tx, changed).await?;
        Ok(answers)
    }
}

impl WriteDocuments {
    /// What is stored under the names of the writes, expired or not.
    async fn read(&self, tx: &mut Tx) -> Result<HashMap<Name<'_>, Result<Document, Fault>>, Fault> {
        static READ: Listed = Listed::new(
            concat!("SELECT v.column3, ", rows::document_columns!(), " FROM (VALUES "),
            3,
            ") AS v CROSS JOIN mamos_document d ON d.collection = v.column1 AND d.key = v.column2",
        );
        let writes: Vec<(i64, &DocumentWrite)> = (0..).zip(&self.writes).collect();
        let found = READ.fetch(&mut tx.connection, &writes, |values, (index, write)| {
            values.add(write.collection.as_str()).add(write.key.as_bytes()).add(*index);
        });
        let mut stored = HashMap::new();
        for row in &found.await? {
            let index: i64 = get(row, 0)?;
            if let Some(write) = self.writes.get(index as usize) {
                stored.insert(name(write), rows::document(row, 1));
            }
        }
        Ok(stored)
    }
}

async fn store(tx: &mut Tx, changed: BTreeMap<Name<'_>, Option<Document>>) -> Result<(), Fault> {
    static PUT: Listed = Listed::new(
        "INSERT INTO mamos_document (collection, key, revision, value, expires_at) \
         SELECT v.column1, v.column2, v.column3, v.column4, v.column5 FROM (VALUES ",
        5,
        ") AS v WHERE v.column1 IS NOT NULL ON CONFLICT (collection, key) DO UPDATE SET \
         revision = excluded.revision, value = excluded.value, expires_at = excluded.expires_at",
    );
    static REMOVE: Listed = Listed::new(
        "DELETE FROM mamos_document WHERE no IN (SELECT d.no FROM (VALUES ",
        2,
        ") AS v CROSS JOIN mamos_document d ON d.collection = v.column1 AND d.key = v.column2)",
    );
    let (mut put, mut removed) = (Vec::new(), Vec::new());
    for (name, document) in changed {
        match document {
            Some(document) => put.push((name, document)),
            None => removed.push(name),
        }
    }
    let done = PUT.execute(&mut tx.connection, &put, |values, ((collection, key), document)| {
        values
            .add(*collection)
            .add(key.as_bytes())
            .add(document.revision as i64)
            .add(document.value.as_ref())
            .add(document.expires_at.map(Timestamp::as_micros));
    });
    done.await?;
    let done = REMOVE.execute(&mut tx.connection, &removed, |values, (collection, key)| {
        values.add(*collection).add(key.as_bytes());
    });
    done.await?;
    Ok(())
}

pub(super) const EXPIRED: &str = "SELECT no FROM mamos_document WHERE expires_at IS NOT NULL AND expires_at <= ? \
                                  ORDER BY expires_at LIMIT ?";

/// See [`mamos_core::store::DocumentStore::prune_documents`].
pub(super) struct PruneDocuments {
    pub(super) now: Timestamp,
    pub(super) limit: u32,
}

impl Operation for PruneDocuments {
    type Answer = u32;
    const NAME: &'static str = "store.prune_documents";

    async fn run(&self, tx: &mut Tx) -> Result<u32, Fault> {
        let query = format!("DELETE FROM mamos_document WHERE no IN ({EXPIRED})");
        let pruned = sqlx::query(AssertSqlSafe(query))
            .bind(self.now.as_micros())
            .bind(i64::from(self.limit))
            .execute(&mut tx.connection)
            .await?;
        Ok(u32::try_from(pruned.rows_affected()).unwrap_or(u32::MAX))
    }
}
