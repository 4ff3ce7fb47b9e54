//! Files that one program at a time may hold.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Result;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often to ask, and how long to wait before that: a second in all.
const TRIES: (u32, Duration) = (20, Duration::from_millis(50));

/// Takes the lock file at `path`, which is made if it is missing, until the answer is dropped or the
/// process ends. `None` if another program has it. Blocks for up to a second.
pub(crate) fn acquire(path: &Path) -> Result<Option<File>> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    for _ in 0..TRIES.0 {
        match lock.try_lock() {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::Error(error)) => return Err(error),
            // A runtime that was just dropped may still be writing what it had to write.
            Err(TryLockError::WouldBlock) => thread::sleep(TRIES.1),
        }
    }
    Ok(None)
}
