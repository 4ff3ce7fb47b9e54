//! The key that orchestrators sign encrypted links with, so that agents can pin it.
//!
//! One for all orchestrators on a store: an agent that pins its public half is served by any of them and by
//! nobody else. It is made once and kept as a document in the store. It is never changed by itself, as that
//! would turn away every agent that pinned it; remove the document, and the next start makes another.
//!
//! ```
//! # use mamos_core::{Store, auth::link_key, clock::{Clock, SystemClock}};
//! # async fn example(store: &dyn Store) -> mamos_core::Result<()> {
//! let key = link_key::find_or_make(store, SystemClock.now()).await?;
//! println!("agents pin {}", key.public_key());
//! # Ok(()) }
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{KeyPair, Secret};
use crate::clock::Timestamp;
use crate::store::{DocumentChange, DocumentWrite, Expected, Store};
use crate::{Error, ErrorKind, Result};

/// Where the key is kept.
const COLLECTION: &str = "link_keys";
const KEY: &str = "current";

/// The key as a document. It holds the private half: whoever reads the store can play the orchestrator.
#[derive(Serialize, Deserialize)]
struct StoredKey {
    seed: Secret,
}

/// The key, if one was made on this store.
///
/// # Errors
///
/// - [`ErrorKind::Corrupt`]: what is kept in its place is no key.
/// - Those of the store.
pub async fn find(store: &dyn Store, now: Timestamp) -> Result<Option<KeyPair>> {
    let document = store.document(COLLECTION, KEY, now).await?;
    document.map(|document| read(&document.value)).transpose()
}

/// The key. It is made if there is none; of several that make one at once, all get the one that was kept.
///
/// # Errors
///
/// - [`ErrorKind::Corrupt`]: what is kept in its place is no key.
/// - [`ErrorKind::Unavailable`]: the system gives no random numbers.
/// - Those of the store.
pub async fn find_or_make(store: &dyn Store, now: Timestamp) -> Result<KeyPair> {
    if let Some(key) = find(store, now).await? {
        return Ok(key);
    }
    let write = DocumentWrite {
        collection: COLLECTION.to_owned(),
        key: KEY.to_owned(),
        expected: Expected::Absent,
        change: DocumentChange::Put { value: written(&KeyPair::generate()?)?, expires_at: None },
    };
    store.write_documents(vec![write], now).await?;
    // Read again whether this one was kept or another's, so that all use what is there.
    find(store, now).await?.ok_or_else(|| {
        let message = "the key was removed while it was made; start again";
        Error::new(ErrorKind::Unavailable, "link_key.make", message)
    })
}

fn read(value: &[u8]) -> Result<KeyPair> {
    let corrupt = || {
        let message = format!(
            "the document `{KEY}` in `{COLLECTION}` is no key of links; remove it, and the next start makes \
             another, which agents must pin anew"
        );
        Error::new(ErrorKind::Corrupt, "link_key.read", message)
    };
    // Without the error of the parser, which may repeat what it read.
    let stored: StoredKey = serde_json::from_slice(value).map_err(|_| corrupt())?;
    let seed = URL_SAFE_NO_PAD.decode(stored.seed.expose()).map_err(|_| corrupt())?;
    KeyPair::from_seed(seed.try_into().map_err(|_| corrupt())?)
}

fn written(key: &KeyPair) -> Result<Bytes> {
    let stored = StoredKey { seed: Secret::new(URL_SAFE_NO_PAD.encode(key.expose_seed())) };
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::Invalid, "link_key.write", "it cannot be written down").with_source(error)
    };
    serde_json::to_vec(&stored).map(Bytes::from).map_err(failed)
}
