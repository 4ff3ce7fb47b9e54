//! The audit log: who did what that needed a permission, and who was kept from it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::AuditId;
use crate::store::{
    Document, DocumentChange, DocumentFilter, DocumentWrite, Expected, Page, PageRequest, Store,
};
use crate::{Error, ErrorKind, Result};

/// The collection that the records are kept in.
const COLLECTION: &str = "audit";
/// The longest of each text of a record, in bytes; what is longer is cut.
const MAX_TEXT_BYTES: usize = 512;
/// How many records one call looks at to find some that fit, so that a rare filter does not cost the store
/// its whole history at once.
const MAX_LOOKED_AT: usize = 5000;
/// How often one call asks the store, for a page may be asked for one record at a time.
const MAX_QUERIES: usize = 64;

/// Something that somebody did, or tried to do. Never changed once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its id; later records have larger ones.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub entry: AuditEntry,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The name of who did it, for example `user:ann`; `anonymous` for a stranger.
    pub principal: String,
    /// What was done, a verb after its noun, for example `agent.drain`.
    pub action: String,
    /// To what, for example the id of the agent; empty if to nothing in particular.
    pub target: String,
    /// How it went.
    pub outcome: AuditOutcome,
    /// More about it, for people. Never a secret.
    pub detail: String,
    /// Where it came from, for example an address; empty if from this program.
    pub peer: String,
}

/// How something that somebody wanted to do went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// They may not.
    Denied,
    /// They may, and it did not work.
    Failed,
}

impl AuditEntry {
    /// Something that was done.
    pub fn done(principal: impl Into<String>, action: &str, target: impl Into<String>) -> Self {
        Self {
            principal: principal.into(),
            action: action.to_owned(),
            target: target.into(),
            outcome: AuditOutcome::Done,
            detail: String::new(),
            peer: String::new(),
        }
    }

    fn bounded(mut self) -> Self {
        for text in
            [&mut self.principal, &mut self.action, &mut self.target, &mut self.detail, &mut self.peer]
        {
            text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        }
        self
    }
}

/// Which records to list. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of this principal.
    pub principal: Option<String>,
    /// Of this action, or of all actions that begin so if it ends with a dot, for example `agent.`.
    pub action: Option<String>,
    /// To this target.
    pub target: Option<String>,
    /// That went so.
    pub outcome: Option<AuditOutcome>,
}

impl AuditFilter {
    fn fits(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let is_action = self.action.as_ref().is_none_or(|action| {
            *action == entry.action || (action.ends_with('.') && entry.action.starts_with(action.as_str()))
        });
        is(&self.principal, &entry.principal)
            && is(&self.target, &entry.target)
            && is_action
            && self.outcome.is_none_or(|outcome| outcome == entry.outcome)
    }
}

/// Writes the audit log and reads it.
#[derive(Clone)]
pub struct AuditLog {
    store: Arc<dyn Store>,
    keep: Option<Duration>,
}

impl AuditLog {
    /// The audit log in a store, whose records are kept for so long; for ever if `None`.
    pub fn new(store: Arc<dyn Store>, keep: Option<Duration>) -> Self {
        Self { store, keep }
    }

    /// Writes records, in order.
    ///
    /// # Errors
    ///
    /// The error of the store. Nothing may be on record then: do not do what had to be audited.
    pub async fn append(&self, entries: Vec<AuditEntry>, now: Timestamp) -> Result<()> {
        let expires_at = self.keep.map(|keep| now + keep);
        let writes = entries.into_iter().enumerate().map(|(index, entry)| {
            let id = AuditId::from_parts(now, ordered(now, index));
            let stored = Stored { at: now.as_micros(), entry: entry.bounded() };
            let value = serde_json::to_vec(&stored).map(Bytes::from).map_err(|error| {
                Error::new(ErrorKind::Invalid, "audit.append", "a record cannot be written down")
                    .with_source(error)
            })?;
            Ok(DocumentWrite {
                collection: COLLECTION.to_owned(),
                key: id.to_string(),
                expected: Expected::Absent,
                change: DocumentChange::Put { value, expires_at },
            })
        });
        let writes = writes.collect::<Result<Vec<DocumentWrite>>>()?;
        self.store.write_documents(writes, now).await.map(|_| ())
    }

    /// Records that fit the filter, the newest first, a page at a time. A page may be shorter than asked
    /// for, even empty, although there are more: look at [`Page::next`].
    ///
    /// # Errors
    ///
    /// The error of the store; [`ErrorKind::Invalid`] for a cursor that it did not make.
    pub async fn list(
        &self,
        filter: &AuditFilter,
        mut page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<AuditRecord>> {
        let limit = page.bounded_limit() as usize;
        let mut items = Vec::new();
        let mut looked_at = 0;
        for queries in 1.. {
            page.limit = u32::try_from(limit - items.len()).unwrap_or(1);
            let wanted = DocumentFilter {
                collection: COLLECTION.to_owned(),
                prefix: String::new(),
                is_descending: true,
            };
            let found = self.store.documents(wanted, page, now).await?;
            looked_at += found.items.len();
            items.extend(found.items.iter().filter_map(read).filter(|record| filter.fits(&record.entry)));
            let is_enough = items.len() >= limit || looked_at >= MAX_LOOKED_AT || queries >= MAX_QUERIES;
            if found.next.is_none() || is_enough {
                return Ok(Page { items, next: found.next });
            }
            page = PageRequest { limit: 1, after: found.next };
        }
        Ok(Page { items, next: page.after })
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").field("keep", &self.keep).finish_non_exhaustive()
    }
}

/// The random bits of an id, of which the first say the microsecond (RFC 9562, section 6.2, method 3) and the
/// place in the batch, so that records of one millisecond keep their order.
fn ordered(now: Timestamp, index: usize) -> u128 {
    let micros = now.as_micros().rem_euclid(1000) as u128;
    let index = index.min(0xffff) as u128;
    let random = uuid::Uuid::new_v4().as_u128() & 0x3fff_ffff_ffff;
    (micros << 64) | (index << 46) | random
}

#[derive(Serialize, Deserialize)]
struct Stored {
    at: i64,
    #[serde(flatten)]
    entry: AuditEntry,
}

fn read(document: &Document) -> Option<AuditRecord> {
    let stored: Option<Stored> = serde_json::from_slice(&document.value).ok();
    let record = stored.zip(document.key.parse().ok()).map(|(stored, id)| AuditRecord {
        id,
        at: Timestamp::from_micros(stored.at),
        entry: stored.entry,
    });
    if record.is_none() {
        tracing::error!(target: "mamos::audit", key = document.key, "not an audit record; a person must look");
    }
    record
}
