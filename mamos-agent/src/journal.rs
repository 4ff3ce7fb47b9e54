//! What an agent must not forget when its process dies: which runs it began, and which results the
//! orchestrator does not have yet.
//!
//! A journal is a file to which records are appended, each with a length and a checksum.
//!
//! - A **command** is on disk as begun (fsync) *before* it is spawned. If that fails, it is not
//!   started but put off for 30 s: given back at once, it would only come again.
//! - The begin of a **typed job** is appended without fsync: it survives `kill -9` of the process, not
//!   a loss of power.
//! - A **result** is appended before it is sent, and survives `kill -9` of the process. After a restart
//!   it is sent again until the orchestrator has it.
//! - The **session** is kept too, so that the restarted agent resumes it and its results still count.
//!
//! Runs that had begun but not ended when the process died are *not* among the runs that the restarted
//! agent says it still has. The orchestrator therefore gives them back as crashed, and a job that kills
//! its agent is buried after its limit of crashes instead of killing one agent after the other.
//!
//! A torn or damaged record ends the journal: it is cut there, with a warning. Everything before it
//! counts. When more than half of a large file is garbage, it is rewritten.
//!
//! # Source
//!
//! Checksummed append-only logs as in LevelDB and Kafka; "fsyncgate" (2018) for why a file is rewritten,
//! and not written on, after a failed fsync.

mod record;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mamos_core::id::SessionId;
use mamos_core::job::Outcome;
use mamos_core::lease::RunRef;
use mamos_core::{Error, ErrorKind, Result};

pub(crate) use self::record::Record;
use self::record::{HEADER_BYTES, MAX_RECORD_BYTES};
use crate::identity::sync_directory_of;
use crate::lock;

/// Begins every journal, so that another file is not taken for one.
const MAGIC: &[u8; 8] = b"MAMOSJ1\n";
/// A smaller file is never rewritten: it costs more than it frees.
const DEFAULT_COMPACT_BYTES: u64 = 1024 * 1024;

/// A journal on disk. One agent's only: a second one that opens it is refused.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    live: HashMap<RunRef, Live>,
    live_bytes: u64,
    session: Option<SessionId>,
    /// The end of the file is unknown: it must be rewritten before it is written on.
    is_broken: bool,
    compact_bytes: u64,
    is_inline: bool,
    buffer: Vec<u8>,
    _lock: File,
}

#[derive(Debug)]
struct Live {
    record: Record,
    bytes: u64,
}

/// What a journal remembered.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Remembered {
    pub(crate) session: Option<SessionId>,
    /// Results that the orchestrator may not have, ordered by run.
    pub(crate) ended: Vec<(RunRef, Outcome)>,
    /// Runs that had begun when the process died.
    pub(crate) interrupted: Vec<RunRef>,
}

impl Journal {
    /// Opens the journal at `path`, or begins one.
    ///
    /// Blocks, for up to a second if another process holds it.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: another agent has it open. Give each agent a journal of its own.
    /// - [`ErrorKind::Corrupt`]: the file is not a journal.
    /// - [`ErrorKind::Config`]: it cannot be read or made. Check the directory, its owner and mode.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let lock = lock_beside(&path)?;
        let opened = || -> std::io::Result<File> {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let file = opened().map_err(|error| unusable(&path, error))?;
        let mut journal = Self {
            path,
            file,
            length: 0,
            live: HashMap::new(),
            live_bytes: 0,
            session: None,
            is_broken: false,
            compact_bytes: DEFAULT_COMPACT_BYTES,
            is_inline: false,
            buffer: Vec::new(),
            _lock: lock,
        };
        journal.replay()?;
        Ok(journal)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many results it holds that the orchestrator may not have.
    pub fn unsent(&self) -> usize {
        self.live.values().filter(|live| matches!(live.record, Record::Ended { .. })).count()
    }

    /// Rewrites the file when it is larger than this and more than half of it is garbage. Default: 1 MiB.
    #[must_use]
    pub fn compact_above(mut self, bytes: u64) -> Self {
        self.compact_bytes = bytes;
        self
    }

    /// Writes on a thread of the Tokio runtime instead of a blocking one. For simulations, where the order
    /// of events must not depend on threads; elsewhere a slow disk would stop everything else.
    #[must_use]
    pub fn inline(mut self) -> Self {
        self.is_inline = true;
        self
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.is_inline
    }

    /// What it remembers. Runs that had begun are forgotten by that: they are over.
    pub(crate) fn recall(&mut self) -> Remembered {
        let mut remembered = Remembered { session: self.session, ..Remembered::default() };
        for live in self.live.values() {
            match &live.record {
                Record::Ended { run, outcome } => remembered.ended.push((*run, outcome.clone())),
                Record::Started { run, .. } => remembered.interrupted.push(*run),
                Record::Session(_) | Record::Forgotten { .. } => {}
            }
        }
        remembered.ended.sort_by_key(|(run, _)| *run);
        remembered.interrupted.sort();
        for run in &remembered.interrupted {
            if let Some(live) = self.live.remove(run) {
                self.live_bytes -= live.bytes;
            }
        }
        remembered
    }

    /// Appends records in one write, all or none, and makes them durable if asked to. Blocks.
    pub(crate) fn append(&mut self, records: Vec<Record>, durably: bool) -> Result<()> {
        if self.is_broken {
            self.rewrite().map_err(|error| unwritable(&self.path, error))?;
        }
        self.buffer.clear();
        let mut sizes = Vec::with_capacity(records.len());
        for record in &records {
            let before = self.buffer.len();
            record
                .write_to(&mut self.buffer)
                .map_err(|why| Error::new(ErrorKind::LimitExceeded, "journal.append", why))?;
            sizes.push((self.buffer.len() - before) as u64);
        }
        if let Err(error) = self.write_buffer(durably) {
            self.is_broken = true;
            return Err(unwritable(&self.path, error));
        }
        for (record, bytes) in records.into_iter().zip(sizes) {
            self.note(record, bytes);
        }
        if self.length > self.compact_bytes && self.live_bytes < self.length / 2 {
            // What was appended is safe in the old file; only the space is not freed.
            if let Err(error) = self.rewrite() {
                tracing::warn!(path = %self.path.display(), %error, "the journal could not be compacted");
            }
        }
        Ok(())
    }

    fn write_buffer(&mut self, durably: bool) -> std::io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.length += self.buffer.len() as u64;
        if durably { self.file.sync_data() } else { Ok(()) }
    }

    /// Keeps the account of what is live.
    fn note(&mut self, record: Record, bytes: u64) {
        match record {
            Record::Session(session) => self.session = Some(session),
            record => {
                let Some(run) = record.run() else { return };
                let live = (!matches!(record, Record::Forgotten { .. })).then_some(Live { record, bytes });
                let added = live.as_ref().map_or(0, |live| live.bytes);
                let replaced = match live {
                    Some(live) => self.live.insert(run, live),
                    None => self.live.remove(&run),
                };
                self.live_bytes = self.live_bytes + added - replaced.map_or(0, |live| live.bytes);
            }
        }
    }

    /// Writes what is live to a new file, and puts that in place of the old one.
    fn rewrite(&mut self) -> std::io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        let mut bytes = MAGIC.to_vec();
        let session = self.session.map(Record::Session);
        for record in session.iter().chain(self.live.values().map(|live| &live.record)) {
            record.write_to(&mut bytes).map_err(std::io::Error::other)?;
        }
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.length = bytes.len() as u64;
        // The new file is whole and in use; a crash may at worst bring the old name back.
        self.is_broken = false;
        sync_directory_of(&self.path)
    }

    fn replay(&mut self) -> Result<()> {
        let size = self.file.metadata().map_err(|error| unusable(&self.path, error))?.len();
        let mut reader = BufReader::new(&self.file);
        let mut magic = Vec::new();
        let read = reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic);
        read.map_err(|error| unusable(&self.path, error))?;
        if !MAGIC.starts_with(&magic) {
            let message = format!("{} is not a journal of an agent; name another file", self.path.display());
            return Err(Error::new(ErrorKind::Corrupt, "journal.open", message));
        }
        let mut good = MAGIC.len() as u64;
        let mut records = Vec::new();
        if magic.len() == MAGIC.len() {
            while let Some((record, bytes)) =
                read_record(&mut reader).map_err(|error| unusable(&self.path, error))?
            {
                good += bytes;
                records.push((record, bytes));
            }
        }
        drop(reader);
        for (record, bytes) in records {
            self.note(record, bytes);
        }
        let tidy = |file: &mut File| -> std::io::Result<()> {
            if magic.len() < MAGIC.len() {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(MAGIC)?;
            }
            file.set_len(good)?;
            file.seek(SeekFrom::Start(good))?;
            file.sync_all()
        };
        if size > good {
            let path = self.path.display();
            tracing::warn!(%path, bytes = size - good, "the end of the journal was torn or damaged; it is cut");
        }
        tidy(&mut self.file).map_err(|error| unusable(&self.path, error))?;
        self.length = good;
        Ok(())
    }
}

/// The next record with its size in the file; `None` at the end or at the first that is not whole.
fn read_record(reader: &mut impl Read) -> std::io::Result<Option<(Record, u64)>> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    reader.take(HEADER_BYTES as u64).read_to_end(&mut header)?;
    let (Some(length), Some(checksum)) = (header.first_chunk::<4>(), header.get(4..8)) else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    let checksum = checksum.try_into().map_or(0, u32::from_le_bytes);
    // Zeroes, as a file system leaves them after a crash, have a right checksum: that of nothing.
    if length == 0 || length > MAX_RECORD_BYTES {
        return Ok(None);
    }
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Ok(None);
    }
    Ok(Record::read(checksum, &body).map(|record| (record, (HEADER_BYTES + length) as u64)))
}

/// Holds a lock file as long as the journal is open. Beside it, because the journal itself is replaced.
fn lock_beside(path: &Path) -> Result<File> {
    let lock = lock::acquire(&path.with_extension("lock")).map_err(|error| unusable(path, error))?;
    lock.ok_or_else(|| {
        let message =
            format!("another agent has {} open; give each agent a journal of its own", path.display());
        Error::new(ErrorKind::Conflict, "journal.open", message)
    })
}

fn unusable(path: &Path, error: std::io::Error) -> Error {
    let message = format!("the journal {} cannot be opened; check its directory and owner", path.display());
    Error::new(ErrorKind::Config, "journal.open", message).with_source(error)
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    let message = format!("the journal {} cannot be written; is the disk full or read-only?", path.display());
    Error::new(ErrorKind::Unavailable, "journal.append", message).with_source(error)
}

#[cfg(test)]
mod tests;
