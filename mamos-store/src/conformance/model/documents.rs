//! Operations on documents.

use bytes::Bytes;
use mamos_core::store::{
    Document, DocumentChange, DocumentFilter, DocumentWrite, Expected, Page, PageRequest,
};
use mamos_core::{Result, Store};

use super::{Compared, NO_LIMIT, Play, SECOND, Timestamp, ask};

const COLLECTIONS: [&str; 2] = ["notes", "users"];
/// Few, so that operations meet the same documents again and again.
const KEYS: [&str; 6] = ["a", "a/1", "a_", "aB", "a\u{10FFFF}", "b"];

impl Play<'_> {
    fn some_document(&mut self) -> (String, String) {
        let collection = COLLECTIONS[self.random.usize(0..COLLECTIONS.len())];
        (collection.to_owned(), KEYS[self.random.usize(0..KEYS.len())].to_owned())
    }

    fn some_write(&mut self) -> DocumentWrite {
        let (collection, mut key) = self.some_document();
        if self.random.u32(0..40) == 0 {
            // Out of bounds: the whole batch is refused.
            key.clear();
        }
        let expected = match self.random.u32(0..6) {
            0 => Expected::Any,
            1..3 => Expected::Absent,
            _ => Expected::Revision(self.random.u64(0..4)),
        };
        let expires_at = match self.random.u32(0..3) {
            0 => Some(self.now + self.random.u32(0..30) * SECOND - 5 * SECOND),
            _ => None,
        };
        // Few values, so that some writes are repeats.
        let value = Bytes::from(vec![self.random.u8(0..2)]);
        let change = match self.random.u32(0..5) {
            0 => DocumentChange::Remove,
            _ => DocumentChange::Put { value, expires_at },
        };
        DocumentWrite { collection, key, expected, change }
    }

    pub(super) async fn documents(&mut self) -> Compared {
        match self.random.u32(0..8) {
            0..5 => {
                let writes: Vec<DocumentWrite> =
                    (0..self.random.usize(1..5)).map(|_| self.some_write()).collect();
                ask!(self, write_documents(writes, self.now), Clone::clone);
                if self.random.u32(0..4) == 0 {
                    // As after a lost answer.
                    ask!(self, write_documents(writes, self.now), Clone::clone);
                }
                Ok(())
            }
            5 => {
                ask!(self, prune_documents(self.now, NO_LIMIT), |pruned| *pruned);
                Ok(())
            }
            _ => self.list_documents().await,
        }
    }

    async fn list_documents(&mut self) -> Compared {
        let (collection, key) = self.some_document();
        let prefix = key.chars().take(self.random.usize(0..4)).collect();
        let filter = DocumentFilter { collection, prefix, is_descending: self.random.bool() };
        let (size, now) = (self.random.u32(1..5), self.now);
        let a = all_documents(self.a, &filter, size, now).await;
        let b = all_documents(self.b, &filter, size, now).await;
        self.compare(&format!("documents({filter:?}) in pages of {size}"), &a, &b, Clone::clone)
    }

    pub(super) async fn compare_documents(&mut self) -> Compared {
        for collection in COLLECTIONS {
            for key in KEYS {
                ask!(self, document(collection, key, self.now), Clone::clone);
            }
            let (collection, page) = (collection.to_owned(), PageRequest::first(500));
            let filter = DocumentFilter { collection, prefix: String::new(), is_descending: false };
            ask!(self, documents(filter, page, self.now), |page: &Page<Document>| page.items.clone());
        }
        Ok(())
    }
}

/// The documents of a list, page by page.
async fn all_documents(
    store: &dyn Store,
    filter: &DocumentFilter,
    size: u32,
    now: Timestamp,
) -> Result<Vec<Vec<Document>>> {
    let (mut pages, mut after) = (Vec::new(), None);
    while pages.len() <= KEYS.len() {
        let page = store.documents(filter.clone(), PageRequest { limit: size, after }, now).await?;
        pages.push(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(pages)
}
