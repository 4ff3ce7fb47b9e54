//! Keeps everything in one SQLite file. For one orchestrator on one machine, with no server to run.
//!
//! One task owns the one connection that writes. It takes whatever operations wait, does them in one
//! transaction, and answers after the commit, so that many callers share the cost of one sync. Reads go
//! over connections of their own and never wait for the writer.
//!
//! What a crash or a power cut may lose is the choice of [`Durability`]. `docs/store-sqlite.md` says
//! more about files, limits and backups.

mod agents;
mod changes;
mod claim;
mod corrupt;
mod documents;
mod enqueue;
mod errors;
mod jobs;
mod known;
mod lists;
mod report;
mod rows;
mod schema;
mod sessions;
mod sql;
mod store;
mod successes;
mod sweep;
mod tokens;
mod writer;

#[cfg(test)]
mod plans;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mamos_core::{Error, ErrorKind, Result};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use self::errors::Fault;
use self::known::Lanes;
use self::writer::Writer;

const OPEN: &str = "store.open";

/// What survives what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// Synced before every answer: nothing acknowledged is lost, by a crash of the program, of the
    /// system or by a power cut.
    #[default]
    Full,
    /// Synced now and then: a crash of the program loses nothing; a crash of the system or a power cut
    /// may lose the last transactions, and leaves the file consistent.
    Normal,
    /// Never synced: a crash of the program loses nothing; a crash of the system or a power cut may lose
    /// everything and damage the file.
    Off,
}

impl Durability {
    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Normal => "normal",
            Self::Off => "off",
        }
    }

    fn synchronous(self) -> SqliteSynchronous {
        match self {
            Self::Full => SqliteSynchronous::Full,
            Self::Normal => SqliteSynchronous::Normal,
            Self::Off => SqliteSynchronous::Off,
        }
    }
}

/// Where the file is and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteSettings {
    /// The file. Created if it does not exist, for its owner alone; its directory must. SQLite keeps two
    /// more files beside it, with `-wal` and `-shm` at the end of their names.
    pub path: PathBuf,
    /// What a crash or a power cut may lose. Default: [`Durability::Full`].
    pub durability: Durability,
    /// How large the file may grow, in bytes, rounded down to whole pages of 4 KiB; the `-wal` file is not counted.
    /// Beyond it everything that needs room is refused with
    /// [`ErrorKind::Unavailable`]. Default: no limit but the disk's.
    pub max_bytes: Option<u64>,
    /// How long to wait for another process that writes to the file, before an operation fails with
    /// [`ErrorKind::Unavailable`]. Default: 5 s.
    pub busy_timeout: Duration,
    /// How many reads go on at once; more wait. At least 1. Default: 4.
    pub readers: u32,
}

impl SqliteSettings {
    /// The defaults, for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
            max_bytes: None,
            busy_timeout: Duration::from_secs(5),
            readers: 4,
        }
    }

    /// Sets [`SqliteSettings::durability`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets [`SqliteSettings::max_bytes`].
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Sets [`SqliteSettings::busy_timeout`].
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets [`SqliteSettings::readers`].
    #[must_use]
    pub fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    fn writing(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .busy_timeout(self.busy_timeout)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(self.durability.synchronous())
            .page_size(PAGE_BYTES)
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", WAL_PAGES.to_string())
            .pragma("journal_size_limit", (i64::from(WAL_PAGES) * 2 * i64::from(PAGE_BYTES)).to_string())
            .pragma("temp_store", "MEMORY")
            .row_buffer_size(ROW_BUFFER)
            .thread_name(|_| "mamos-sqlite-writer".to_owned());
        match self.max_bytes {
            None => options,
            Some(bytes) => {
                options.pragma("max_page_count", (bytes / u64::from(PAGE_BYTES)).max(1).to_string())
            }
        }
    }

    fn reading(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(true)
            .busy_timeout(self.busy_timeout)
            .row_buffer_size(ROW_BUFFER)
            .thread_name(|_| "mamos-sqlite-reader".to_owned())
    }

    /// What SQLite would only say in its own words, or notice at the first write.
    fn check(&self) -> Result<()> {
        let refused = |message: String| Err(Error::new(ErrorKind::Config, OPEN, message));
        let file = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => refused(format!("{file} is a directory; give the path of a file")),
            Ok(found) if found.permissions().readonly() => {
                refused(format!("{file} is read-only; make it and its directory writable"))
            }
            Ok(_) => Ok(()),
            Err(_) => {
                let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                match std::fs::metadata(parent) {
                    Ok(found) if !found.is_dir() => {
                        refused(format!("{} is not a directory; check the path", parent.display()))
                    }
                    Ok(found) if found.permissions().readonly() => refused(format!(
                        "{} is read-only; make it writable, or choose another path",
                        parent.display()
                    )),
                    Ok(_) => Ok(()),
                    Err(_) => {
                        refused(format!("the directory {} does not exist; create it", parent.display()))
                    }
                }
            }
        }
    }
}

/// SQLite's default, and the page of most file systems.
const PAGE_BYTES: u32 = 4096;
/// Keeps the hot pages of about a million waiting jobs, so that a claim seldom reads the file.
const WRITER_CACHE_KIB: u32 = 64 * 1024;
/// How large the `-wal` file grows before its pages go into the file, in pages: 16 MiB. SQLite's 1000
/// pages are a handful of large batches, and each checkpoint costs syncs.
const WAL_PAGES: u32 = 4096;
/// How many rows wait between SQLite's thread and ours. sqlx's 50 make both wait for each other in
/// every batch.
const ROW_BUFFER: usize = 1024;

/// A store in a SQLite file.
///
/// Cheap to share behind an [`Arc`]. When it is dropped, what was queued is still done.
#[derive(Debug)]
pub struct SqliteStore {
    settings: SqliteSettings,
    path: Arc<PathBuf>,
    writer: std::sync::Mutex<Option<Arc<Writer>>>,
    writing: Mutex<Option<JoinHandle<()>>>,
    readers: SqlitePool,
    lanes: Lanes,
}

impl SqliteStore {
    /// Opens the file, creates it or brings its tables up to date. Must be called within a Tokio
    /// runtime, which must run as long as the store is used.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: the path is wrong, nothing can be written there, or a newer version of
    ///   MAMOS wrote the file. The message says which, and what to do.
    /// - [`ErrorKind::Corrupt`]: the file is damaged, or no SQLite database.
    /// - [`ErrorKind::Unavailable`]: another process holds the lock, or there is no space left.
    pub async fn open(settings: SqliteSettings) -> Result<Self> {
        settings.check()?;
        let path = Arc::new(settings.path.clone());
        let failed = |fault: Fault| at_open(fault.into_error(OPEN, &path));
        create(&path).map_err(|error| {
            let message =
                format!("{} cannot be created; check who may write to its directory", path.display());
            Error::new(ErrorKind::Config, OPEN, message).with_source(error)
        })?;
        let mut connection = SqliteConnection::connect_with(&settings.writing())
            .await
            .map_err(|error| failed(error.into()))?;
        let found = schema::migrate(&mut connection).await.map_err(failed)?;
        if found > schema::VERSION {
            let message = format!(
                "{} has schema {found}, and this version of mamos knows {} at most; use the newer version, \
                 or restore a backup from before it",
                path.display(),
                schema::VERSION
            );
            return Err(Error::new(ErrorKind::Config, OPEN, message));
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(settings.readers.max(1))
            .acquire_timeout(settings.busy_timeout.max(Duration::from_secs(1)))
            .connect_lazy_with(settings.reading());
        let (writer, writing) = Writer::start(connection, settings.writing(), Arc::clone(&path));
        Ok(Self {
            settings,
            path,
            writer: std::sync::Mutex::new(Some(Arc::new(writer))),
            writing: Mutex::new(Some(writing)),
            readers,
            lanes: Lanes::default(),
        })
    }

    /// Does what is queued, and closes the file, so that it stands alone without its `-wal`. Later calls
    /// fail with [`ErrorKind::Closed`]. Calling it again changes nothing.
    pub async fn close(&self) {
        self.readers.close().await;
        drop(self.lock().take());
        if let Some(writing) = self.writing.lock().await.take() {
            // It ends once the calls that go on have been answered. A panic in it was reported by then.
            let _ = writing.await;
        }
    }

    /// Copies the whole database into a new file at `target`, consistent as of now, while the store
    /// goes on. The copy holds all that the file holds, and is its owner's alone too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`]: the copy could not be written, or the file is there already.
    pub async fn backup(&self, target: &Path) -> Result<()> {
        let fault = |error: sqlx::Error| Fault::from(error).into_error("store.backup", target);
        let text = target.to_str().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "store.backup", "the path is not UTF-8; choose another")
        })?;
        let mut reader = self.readers.acquire().await.map_err(fault)?;
        // SQLite takes an empty file for a new one.
        owners_alone().create_new(true).open(target).map_err(|error| fault(error.into()))?;
        let vacuum = sqlx::query(AssertSqlSafe("VACUUM INTO ?".to_owned())).bind(text.to_owned());
        if let Err(error) = vacuum.execute(&mut *reader).await {
            // Half a copy is of no use; what made it fail is what the caller must hear of.
            let _ = std::fs::remove_file(target);
            return Err(fault(error));
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Writer>>> {
        self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn writer(&self, operation: &'static str) -> Result<Arc<Writer>> {
        self.lock().clone().ok_or_else(|| Fault::Closed.into_error(operation, &self.path))
    }
}

/// Makes the file unless it is there. SQLite gives the files beside it the same permissions.
fn create(path: &Path) -> std::io::Result<()> {
    match owners_alone().create_new(true).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// How files are made that only their owner may read: they hold private keys.
fn owners_alone() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// While opening, a file that cannot be opened is a matter of settings.
fn at_open(error: Error) -> Error {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    match cause {
        Some(cause) if cause.contains("(code: 14)") || cause.contains("(code: 8)") => {
            Error::new(ErrorKind::Config, OPEN, error.message().to_owned()).with_source(cause)
        }
        _ => error,
    }
}
