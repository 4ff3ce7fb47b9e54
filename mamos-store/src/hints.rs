//! What all hints have in common.

use bytes::Bytes;
use mamos_core::hint::MAX_HINT_BYTES;
use mamos_core::{Error, ErrorKind, Result};

/// Refuses hints that are too large, before any of them is told.
pub(crate) fn check(hints: &[Bytes]) -> Result<()> {
    match hints.iter().map(Bytes::len).max() {
        Some(bytes) if bytes > MAX_HINT_BYTES => {
            let message = format!("a hint of {bytes} bytes is over the limit of {MAX_HINT_BYTES}");
            Err(Error::new(ErrorKind::LimitExceeded, "hints.tell", message))
        }
        _ => Ok(()),
    }
}
