//! Documents.

use std::collections::{BTreeMap, BTreeSet};

use mamos_core::clock::Timestamp;
use mamos_core::store::{Document, DocumentFilter, DocumentWrite, Page, PageRequest, Written};
use mamos_core::{Error, ErrorKind, Result};

use crate::documents::{self, Effect};

/// All documents; those that expired too, until they are pruned or written over.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// By collection, and then by the bytes of the key.
    table: BTreeMap<String, BTreeMap<Vec<u8>, Document>>,
    by_expiry: BTreeSet<(Timestamp, String, String)>,
}

impl Documents {
    pub(super) fn get(&self, collection: &str, key: &str, now: Timestamp) -> Option<&Document> {
        self.stored(collection, key).filter(|document| documents::is_alive(document, now))
    }

    fn stored(&self, collection: &str, key: &str) -> Option<&Document> {
        self.table.get(collection)?.get(key.as_bytes())
    }

    pub(super) fn write(&mut self, writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>> {
        documents::check(&writes)
            .map_err(|message| Error::new(ErrorKind::LimitExceeded, "store.write_documents", message))?;
        Ok(writes.into_iter().map(|write| self.write_one(write, now)).collect())
    }

    fn write_one(&mut self, write: DocumentWrite, now: Timestamp) -> Written {
        let (written, effect) = documents::after(self.stored(&write.collection, &write.key), &write, now);
        match effect {
            Effect::Nothing => {}
            Effect::Remove => self.remove(&write.collection, &write.key),
            Effect::Put(document) => {
                self.remove(&write.collection, &write.key);
                if let Some(at) = document.expires_at {
                    self.by_expiry.insert((at, write.collection.clone(), write.key.clone()));
                }
                self.table.entry(write.collection).or_default().insert(write.key.into_bytes(), document);
            }
        }
        written
    }

    fn remove(&mut self, collection: &str, key: &str) {
        let Some(keys) = self.table.get_mut(collection) else { return };
        if let Some(Document { expires_at: Some(at), .. }) = keys.remove(key.as_bytes()) {
            self.by_expiry.remove(&(at, collection.to_owned(), key.to_owned()));
        }
        if keys.is_empty() {
            self.table.remove(collection);
        }
    }

    pub(super) fn page(
        &self,
        filter: &DocumentFilter,
        page: &PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>> {
        let range = documents::rest(filter, page.after.as_ref()).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "store.documents", "this cursor is not of this list; begin again")
        })?;
        let found = self.table.get(&filter.collection).into_iter().flat_map(|keys| keys.range(range.clone()));
        let mut alive = found.map(|(_, document)| document).filter(|found| documents::is_alive(found, now));
        let mut next = || if filter.is_descending { alive.next_back() } else { alive.next() };
        let mut items = Vec::new();
        while items.len() < page.bounded_limit() as usize
            && let Some(document) = next()
        {
            items.push(document.clone());
        }
        let next = next().and(items.last()).map(|last| documents::cursor(filter, &last.key));
        Ok(Page { items, next })
    }

    pub(super) fn prune(&mut self, now: Timestamp, limit: u32) -> u32 {
        let mut pruned = 0;
        while pruned < limit
            && let Some((_, collection, key)) = self.by_expiry.first().filter(|(at, ..)| *at <= now).cloned()
        {
            self.remove(&collection, &key);
            pruned += 1;
        }
        pruned
    }
}
