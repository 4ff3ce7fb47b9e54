//! Documents, and what can be wrong with them.

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::clock::Timestamp;
use mamos_core::store::{
    Document, DocumentFilter, DocumentStore, DocumentWrite, Expected, Page, PageRequest, Store, Written,
};

use super::{Broken, Flaw};

#[async_trait]
impl<S: Store> DocumentStore for Broken<S> {
    async fn document(&self, collection: &str, key: &str, now: Timestamp) -> Result<Option<Document>> {
        let now = if self.has(Flaw::ServesExpiredDocuments) { Timestamp::EPOCH } else { now };
        self.inner.document(collection, key, now).await
    }

    async fn write_documents(&self, mut writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>> {
        if self.has(Flaw::OverwritesDocuments) {
            writes.iter_mut().for_each(|write| write.expected = Expected::Any);
        }
        if !self.has(Flaw::WritesPartsOfBatches) && !self.has(Flaw::RefusesRepeatedWrites) {
            return self.inner.write_documents(writes, now).await;
        }
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            let before = self.inner.document(&write.collection, &write.key, now).await?;
            let mut written = self.inner.write_documents(vec![write], now).await?;
            let is_repeat = before.as_ref().is_some_and(|before| written == [Written::Done(before.revision)]);
            if self.has(Flaw::RefusesRepeatedWrites) && is_repeat {
                written = vec![Written::Conflict(before)];
            }
            answers.append(&mut written);
        }
        Ok(answers)
    }

    async fn documents(
        &self,
        filter: DocumentFilter,
        page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>> {
        let now = if self.has(Flaw::ServesExpiredDocuments) { Timestamp::EPOCH } else { now };
        let mut page = self.inner.documents(filter, page, now).await?;
        if self.has(Flaw::ListsLoseDocuments) && page.next.is_some() {
            page.items.pop();
        }
        Ok(page)
    }

    async fn prune_documents(&self, now: Timestamp, limit: u32) -> Result<u32> {
        let now = if self.has(Flaw::PrunesLiveDocuments) { Timestamp::MAX } else { now };
        self.inner.prune_documents(now, limit).await
    }
}
