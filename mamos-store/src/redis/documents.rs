//! Documents.

use std::collections::{BTreeMap, BTreeSet};

use mamos_core::ErrorKind;
use mamos_core::clock::Timestamp;
use mamos_core::store::{Document, DocumentFilter, DocumentWrite, Expected, Page, PageRequest, Written};

use super::Core;
use super::codec::{Reader, kept, optional_time, put_short, text, time};
use super::errors::{Fault, readable};
use super::keys::Key;
use super::link::{Way, strings};
use super::tx::{Operation, Tx};
use crate::documents::{self, Effect};

/// How many documents are read at once: they may have a megabyte each.
const CHUNK: usize = 64;

/// The name of a document: its collection with its length, and its key, so that those of a collection sort by key.
fn name(collection: &str, key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(2 + collection.len() + key.len());
    put_short(&mut name, collection.as_bytes());
    name.extend_from_slice(key);
    name
}

fn expiry(at: Timestamp, name: &[u8]) -> Vec<u8> {
    [time(at).as_slice(), name].concat()
}

fn encode(document: &Document) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + document.value.len());
    bytes.extend_from_slice(&document.revision.to_be_bytes());
    bytes.extend_from_slice(&optional_time(document.expires_at));
    bytes.extend_from_slice(&document.value);
    bytes
}

fn decode(key: &[u8], bytes: &[u8]) -> Result<Document, Fault> {
    let mut reader = Reader::new("document", bytes);
    Ok(Document {
        key: text(key, "key of a document")?,
        revision: reader.u64()?,
        expires_at: reader.optional_time()?,
        value: kept(reader.rest().to_vec()),
    })
}

/// One document, or `None`.
pub(super) async fn read(
    core: &Core,
    collection: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<Document>, Fault> {
    let stored = core.link.field(Key::Documents, &name(collection, key.as_bytes())).await?;
    if stored.is_empty() {
        return Ok(None);
    }
    Ok(Some(decode(key.as_bytes(), &stored)?).filter(|document| documents::is_alive(document, now)))
}

/// Documents of a collection in the order of their keys, a page at a time. Those that cannot be
/// understood are left out.
pub(super) async fn page(
    core: &Core,
    filter: &DocumentFilter,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Page<Document>, Fault> {
    let mut range = documents::rest(filter, page.after.as_ref())
        .ok_or(Fault::Refused(ErrorKind::Invalid, "this cursor is not of this list; begin again"))?;
    let limit = page.bounded_limit() as usize;
    let count = CHUNK.min(limit + 1).to_string();
    let mut items: Vec<Document> = Vec::new();
    loop {
        let from = [b"[".as_slice(), &name(&filter.collection, &range.start)].concat();
        let to = [b"(".as_slice(), &name(&filter.collection, &range.end)].concat();
        let (command, first, second) = match filter.is_descending {
            true => ("ZREVRANGEBYLEX", &to, &from),
            false => ("ZRANGEBYLEX", &from, &to),
        };
        let args: [&[u8]; 5] = [first, second, b"LIMIT", b"0", count.as_bytes()];
        let names = strings(core.link.command(Way::Read, command, Key::DocumentIndex, &args).await?)?;
        let prefix = 2 + filter.collection.len();
        let Some(last) = names.last() else { return Ok(Page { items, next: None }) };
        range = documents::behind(filter, range, &last[prefix..]);
        let fields: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let stored = core.link.fields(Way::Read, Key::Documents, &fields).await?;
        for (name, bytes) in names.iter().zip(stored) {
            // One that was removed between the two reads.
            if bytes.is_empty() {
                continue;
            }
            let document = readable(decode(&name[prefix..], &bytes), "document")?;
            let Some(document) = document.filter(|document| documents::is_alive(document, now)) else {
                continue;
            };
            if items.len() == limit {
                let next = items.last().map(|last| documents::cursor(filter, &last.key));
                return Ok(Page { items, next });
            }
            items.push(document);
        }
    }
}

/// See [`mamos_core::store::DocumentStore::write_documents`].
pub(super) struct WriteDocuments {
    pub(super) writes: Vec<DocumentWrite>,
    pub(super) now: Timestamp,
}

impl Operation for WriteDocuments {
    type Answer = Vec<Written>;
    const NAME: &'static str = "store.write_documents";

    async fn plan(&self, core: &Core) -> Result<(Tx, Vec<Written>), Fault> {
        documents::check(&self.writes)
            .map_err(|message| Fault::Refused(ErrorKind::LimitExceeded, message))?;
        let name_of = |write: &DocumentWrite| name(&write.collection, write.key.as_bytes());
        let names: BTreeSet<Vec<u8>> = self.writes.iter().map(name_of).collect();
        let names: Vec<Vec<u8>> = names.into_iter().collect();
        let mut stored: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        for chunk in names.chunks(CHUNK) {
            let fields: Vec<&[u8]> = chunk.iter().map(Vec::as_slice).collect();
            let found = core.link.fields(Way::Other, Key::Documents, &fields).await?;
            stored.extend(fields.into_iter().zip(found));
        }
        let mut changed: BTreeMap<Vec<u8>, Option<Document>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(self.writes.len());
        for write in &self.writes {
            let name = name_of(write);
            let decoded = match stored.get(name.as_slice()) {
                Some(bytes) if !bytes.is_empty() => match decode(write.key.as_bytes(), bytes) {
                    // This is how a record that cannot be understood is mended.
                    Err(_) if write.expected == Expected::Any => None,
                    Err(fault) if !changed.contains_key(&name) => return Err(fault),
                    decoded => decoded.ok(),
                },
                _ => None,
            };
            let current = match changed.get(&name) {
                Some(changed) => changed.as_ref(),
                None => decoded.as_ref(),
            };
            let (written, effect) = documents::after(current, write, self.now);
            match effect {
                Effect::Nothing => {}
                Effect::Put(document) => drop(changed.insert(name, Some(document))),
                Effect::Remove => drop(changed.insert(name, None)),
            }
            answers.push(written);
        }
        let mut tx = Tx::default();
        for (name, bytes) in stored {
            let before = decode(b"", &bytes).ok().and_then(|document| document.expires_at);
            match changed.remove(name) {
                // That a condition did not hold must be true when the others are written, too.
                None => tx.check(Key::Documents, name, bytes),
                Some(after) => write(&mut tx, name, bytes, before, after.as_ref()),
            }
        }
        Ok((tx, answers))
    }
}

/// Plans to write or remove a document, and its places in the indexes.
fn write(tx: &mut Tx, name: &[u8], stored: Vec<u8>, expires_at: Option<Timestamp>, after: Option<&Document>) {
    let next = after.and_then(|document| document.expires_at);
    if let Some(at) = expires_at.filter(|_| expires_at != next) {
        tx.remove_member(Key::DocumentExpiry, expiry(at, name));
    }
    if let Some(at) = next.filter(|_| expires_at != next) {
        tx.add_member(Key::DocumentExpiry, expiry(at, name));
    }
    match after {
        Some(document) => {
            if stored.is_empty() {
                tx.add_member(Key::DocumentIndex, name);
            }
            tx.replace(Key::Documents, name, stored, encode(document));
        }
        None => {
            tx.check(Key::Documents, name, stored);
            tx.remove(Key::Documents, name);
            tx.remove_member(Key::DocumentIndex, name);
        }
    }
}

/// See [`mamos_core::store::DocumentStore::prune_documents`].
pub(super) struct PruneDocuments {
    pub(super) now: Timestamp,
    pub(super) limit: u32,
}

impl Operation for PruneDocuments {
    type Answer = u32;
    const NAME: &'static str = "store.prune_documents";

    async fn plan(&self, core: &Core) -> Result<(Tx, u32), Fault> {
        let mut tx = Tx::default();
        let to = [b"[".as_slice(), &time(self.now), &[0xff]].concat();
        let count = self.limit.to_string();
        let args: [&[u8]; 5] = [b"-", &to, b"LIMIT", b"0", count.as_bytes()];
        let expired =
            strings(core.link.command(Way::Other, "ZRANGEBYLEX", Key::DocumentExpiry, &args).await?)?;
        let mut pruned = 0;
        for chunk in expired.chunks(CHUNK) {
            let fields: Vec<&[u8]> = chunk.iter().map(|member| member.get(8..).unwrap_or_default()).collect();
            let stored = core.link.fields(Way::Other, Key::Documents, &fields).await?;
            for ((member, name), bytes) in chunk.iter().zip(fields).zip(stored) {
                tx.remove_member(Key::DocumentExpiry, member.clone());
                let at = decode(b"", &bytes).ok().and_then(|document| document.expires_at);
                if at.is_some_and(|at| at <= self.now) {
                    write(&mut tx, name, bytes, None, None);
                    pruned += 1;
                }
            }
        }
        Ok((tx, pruned))
    }
}
