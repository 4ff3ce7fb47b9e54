//! Documents of one sort.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use mamos_core::store::{
    Document, DocumentChange, DocumentFilter, DocumentWrite, Expected, Page, PageRequest, Written,
};
use mamos_core::{Error, ErrorKind, Result, Store, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A collection of the store whose documents are all a `T`, as JSON.
pub(super) struct Collection<T> {
    store: Arc<dyn Store>,
    name: &'static str,
    kind: PhantomData<fn() -> T>,
}

/// A document that was read.
#[derive(Debug, Clone)]
pub(super) struct Kept<T> {
    pub(super) key: String,
    pub(super) revision: u64,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) value: T,
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    pub(super) fn new(store: &Arc<dyn Store>, name: &'static str) -> Self {
        Self { store: Arc::clone(store), name, kind: PhantomData }
    }

    pub(super) async fn get(&self, key: &str, now: Timestamp) -> Result<Option<Kept<T>>> {
        let document = self.store.document(self.name, key, now).await?;
        document.map(|document| self.read(document)).transpose()
    }

    /// Gives the new revision, or `None` if the document is not as it was expected.
    pub(super) async fn put(
        &self,
        key: &str,
        expected: Expected,
        value: &T,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Option<u64>> {
        let value = serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
            Error::new(ErrorKind::Invalid, "access.write", "it cannot be written down").with_source(error)
        })?;
        self.write(key, expected, DocumentChange::Put { value, expires_at }, now).await
    }

    /// Gives whether it is gone: what was gone before counts.
    pub(super) async fn remove(&self, key: &str, expected: Expected, now: Timestamp) -> Result<bool> {
        Ok(self.write(key, expected, DocumentChange::Remove, now).await?.is_some())
    }

    /// Documents in the order of their keys. One that cannot be read is left out: a person must look.
    pub(super) async fn page(&self, page: PageRequest, now: Timestamp) -> Result<Page<Kept<T>>> {
        let page = self.store.documents(self.all(), page, now).await?;
        let items = page.items.into_iter().filter_map(|document| {
            let kept = self.read(document);
            kept.inspect_err(|error| tracing::error!(target: "mamos::auth", %error, "a document is left out"))
                .ok()
        });
        Ok(Page { items: items.collect(), next: page.next })
    }

    /// Is there none, not even one that cannot be read?
    pub(super) async fn is_empty(&self, now: Timestamp) -> Result<bool> {
        let page = self.store.documents(self.all(), PageRequest::first(1), now).await?;
        Ok(page.items.is_empty())
    }

    /// The first document that is so.
    pub(super) async fn find(
        &self,
        is_it: impl Fn(&Kept<T>) -> bool + Send,
        now: Timestamp,
    ) -> Result<Option<Kept<T>>> {
        let mut request = PageRequest::first(1000);
        loop {
            let page = self.page(request, now).await?;
            if let Some(found) = page.items.into_iter().find(&is_it) {
                return Ok(Some(found));
            }
            let Some(next) = page.next else { return Ok(None) };
            request = PageRequest { limit: 1000, after: Some(next) };
        }
    }

    fn all(&self) -> DocumentFilter {
        let collection = self.name.to_owned();
        DocumentFilter { collection, prefix: String::new(), is_descending: false }
    }

    async fn write(
        &self,
        key: &str,
        expected: Expected,
        change: DocumentChange,
        now: Timestamp,
    ) -> Result<Option<u64>> {
        let write = DocumentWrite { collection: self.name.to_owned(), key: key.to_owned(), expected, change };
        match self.store.write_documents(vec![write], now).await?.pop() {
            Some(Written::Done(revision)) => Ok(Some(revision)),
            _ => Ok(None),
        }
    }

    fn read(&self, document: Document) -> Result<Kept<T>> {
        let Document { key, revision, value, expires_at } = document;
        match serde_json::from_slice(&value) {
            Ok(value) => Ok(Kept { key, revision, expires_at, value }),
            Err(error) => {
                let message = format!("the document {key} of {} cannot be read", self.name);
                Err(Error::new(ErrorKind::Corrupt, "access.read", message).with_source(error))
            }
        }
    }
}
