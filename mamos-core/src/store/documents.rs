//! Small documents and the conditions of their changes.

use bytes::Bytes;

use crate::clock::Timestamp;

/// The longest collection or key of a document, in bytes.
pub const MAX_DOCUMENT_NAME_BYTES: usize = 512;
/// The largest value of a document, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// A small document, as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is unique by, within its collection.
    pub key: String,
    /// From 1, grows by one with each change.
    pub revision: u64,
    /// What it says. Opaque to the store.
    pub value: Bytes,
    /// Gone from then on; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// A wish to change a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentWrite {
    /// Its collection.
    pub collection: String,
    /// Its key.
    pub key: String,
    /// How it must be now.
    pub expected: Expected,
    /// What it should become.
    pub change: DocumentChange,
}

/// How a document must be for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// However it is.
    Any,
    /// It must not be there.
    Absent,
    /// It must have this revision.
    Revision(u64),
}

/// What a document should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentChange {
    /// It has this value until it expires.
    Put {
        /// What it says.
        value: Bytes,
        /// Gone from then on; `None` for never.
        expires_at: Option<Timestamp>,
    },
    /// It is gone.
    Remove,
}

/// What became of a wish to change a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Done. The revision that it has now; 0 if it is gone.
    Done(u64),
    /// The condition did not hold: the document is as it was, here if there is one.
    Conflict(Option<Document>),
}

/// Which documents to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFilter {
    /// Of this collection.
    pub collection: String,
    /// Whose keys begin so; empty for all.
    pub prefix: String,
    /// The last key first?
    pub is_descending: bool,
}
