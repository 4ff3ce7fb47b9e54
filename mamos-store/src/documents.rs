//! Documents: what a write makes of one, and how their lists are cut. The same in every store here.

use std::ops::Range;

use mamos_core::clock::Timestamp;
use mamos_core::store::{
    Cursor, Document, DocumentChange, DocumentFilter, DocumentWrite, Expected, MAX_DOCUMENT_BYTES,
    MAX_DOCUMENT_NAME_BYTES, Written,
};

/// What is to be done about a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    Put(Document),
    Remove,
}

/// Checks the names and sizes of all writes, before the first one is done.
pub(crate) fn check(writes: &[DocumentWrite]) -> Result<(), &'static str> {
    for write in writes {
        for name in [&write.collection, &write.key] {
            if name.is_empty() {
                return Err("a collection or key is empty; give it a name");
            }
            if name.len() > MAX_DOCUMENT_NAME_BYTES {
                return Err("a collection or key is longer than 512 bytes; shorten it");
            }
        }
        if let DocumentChange::Put { value, .. } = &write.change
            && value.len() > MAX_DOCUMENT_BYTES
        {
            return Err("a value is larger than 1 MiB; keep it elsewhere");
        }
    }
    Ok(())
}

/// Has the document not expired?
pub(crate) fn is_alive(document: &Document, now: Timestamp) -> bool {
    document.expires_at.is_none_or(|at| at > now)
}

/// What a write makes of the document that is stored, expired or not, and the answer to it.
pub(crate) fn after(stored: Option<&Document>, write: &DocumentWrite, now: Timestamp) -> (Written, Effect) {
    let current = stored.filter(|document| is_alive(document, now));
    let holds = match write.expected {
        Expected::Any => true,
        Expected::Absent => current.is_none(),
        Expected::Revision(revision) => current.is_some_and(|document| document.revision == revision),
    };
    // What expired before it was written is gone at once.
    let put = match &write.change {
        DocumentChange::Put { value, expires_at } => {
            expires_at.is_none_or(|at| at > now).then_some((value, *expires_at))
        }
        DocumentChange::Remove => None,
    };
    match (put, current) {
        (None, None) => (Written::Done(0), Effect::Nothing),
        (None, Some(_)) if holds => (Written::Done(0), Effect::Remove),
        (Some((value, expires_at)), _) if holds => {
            let revision = current.map_or(0, |document| document.revision).saturating_add(1);
            let document = Document { key: write.key.clone(), revision, value: value.clone(), expires_at };
            (Written::Done(revision), Effect::Put(document))
        }
        (Some((value, expires_at)), Some(document))
            if follows(document.revision, write.expected)
                && document.value == *value
                && document.expires_at == expires_at =>
        {
            (Written::Done(document.revision), Effect::Nothing)
        }
        (_, current) => (Written::Conflict(current.cloned()), Effect::Nothing),
    }
}

/// Is this the revision that a write with that condition makes?
fn follows(revision: u64, expected: Expected) -> bool {
    match expected {
        Expected::Any => false,
        Expected::Absent => revision == 1,
        Expected::Revision(before) => before.checked_add(1) == Some(revision),
    }
}

/// The cursor behind a key. It says which way the list goes, so that it fits no list of the other way.
pub(crate) fn cursor(filter: &DocumentFilter, key: &str) -> Cursor {
    Cursor(format!("{}{key}", way(filter)))
}

fn way(filter: &DocumentFilter) -> char {
    if filter.is_descending { '<' } else { '>' }
}

/// The keys that are left of a list behind a cursor, as bytes. `None` if the cursor is not of this list.
pub(crate) fn rest(filter: &DocumentFilter, after: Option<&Cursor>) -> Option<Range<Vec<u8>>> {
    let prefix = filter.prefix.as_bytes();
    // No key has the byte 0xff: it is not in UTF-8.
    let all = prefix.to_vec()..[prefix, &[0xff]].concat();
    let Some(Cursor(text)) = after else { return Some(all) };
    let key = text.strip_prefix(way(filter)).filter(|key| {
        !key.is_empty() && key.len() <= MAX_DOCUMENT_NAME_BYTES && key.starts_with(&filter.prefix)
    })?;
    Some(behind(filter, all, key.as_bytes()))
}

/// What is left of a range of keys behind one of them.
pub(crate) fn behind(filter: &DocumentFilter, range: Range<Vec<u8>>, key: &[u8]) -> Range<Vec<u8>> {
    if filter.is_descending { range.start..key.to_vec() } else { [key, &[0]].concat()..range.end }
}
