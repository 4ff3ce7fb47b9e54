//! From what SQLite says to what the caller should do.

use std::path::Path;

use mamos_core::{Error, ErrorKind};

/// Why an operation failed inside the store.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite or sqlx failed.
    Sql(sqlx::Error),
    /// One of several callers' share of such a failure.
    Copied((ErrorKind, &'static str), String),
    /// What is stored cannot be understood.
    Corrupt(String),
    /// The contract says no. Nothing was written.
    Refused(ErrorKind, &'static str),
    /// The writer is gone.
    Closed,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sql(error) => error.fmt(f),
            Self::Copied((_, message), source) => write!(f, "{message}: {source}"),
            Self::Corrupt(message) => message.fmt(f),
            Self::Refused(_, message) => message.fmt(f),
            Self::Closed => f.write_str("the store was closed"),
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    /// Is it an answer, and not a failure of the transaction?
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(..))
    }

    /// The same once more, for each caller of a batch that failed as a whole.
    pub(super) fn duplicate(&self) -> Self {
        match self {
            Self::Sql(error) => Self::Copied(explain(error), error.to_string()),
            Self::Copied(explained, source) => Self::Copied(*explained, source.clone()),
            Self::Corrupt(message) => Self::Corrupt(message.clone()),
            Self::Refused(kind, message) => Self::Refused(*kind, message),
            Self::Closed => Self::Closed,
        }
    }

    /// Is it what stands in a row that is wrong, and not the database?
    pub(super) fn is_content(&self) -> bool {
        matches!(
            self,
            Self::Corrupt(_) | Self::Sql(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
        )
    }

    /// Did an index of unique values refuse a row?
    pub(super) fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// The error for the caller of `operation` on the file at `path`.
    pub(super) fn into_error(self, operation: &'static str, path: &Path) -> Error {
        let file = path.display();
        match self {
            Self::Refused(kind, message) => Error::new(kind, operation, message),
            Self::Closed => Error::new(
                ErrorKind::Closed,
                operation,
                format!("the store of {file} was closed; open it again"),
            ),
            Self::Corrupt(message) => Error::new(
                ErrorKind::Corrupt,
                operation,
                format!("a row in {file} cannot be understood: {message}; look at it or restore a backup"),
            ),
            Self::Copied((kind, message), source) => {
                Error::new(kind, operation, format!("{file}: {message}")).with_source(source)
            }
            Self::Sql(error) => {
                let (kind, message) = explain(&error);
                Error::new(kind, operation, format!("{file}: {message}")).with_source(error)
            }
        }
    }
}

/// What was decoded. `None`, and a line in the host's log, if one row cannot be understood: that must
/// not stop what is done with the others.
pub(super) fn readable<T>(decoded: Result<T, Fault>, what: &'static str) -> Result<Option<T>, Fault> {
    match decoded {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.is_content() => {
            tracing::error!(target: "mamos::store", what, %fault, "a row cannot be understood and is left out");
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// What the result code of SQLite means for a person. The low byte is the primary code, see
/// <https://sqlite.org/rescode.html>.
fn explain(error: &sqlx::Error) -> (ErrorKind, &'static str) {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                (ErrorKind::Corrupt, "a row cannot be understood; look at it or restore a backup")
            }
            sqlx::Error::PoolClosed => (ErrorKind::Closed, "the store was closed; open it again"),
            _ => (ErrorKind::Unavailable, "sqlite did not answer; try again"),
        };
    };
    let code: i32 = database.code().and_then(|code| code.parse().ok()).unwrap_or(1);
    match code & 0xff {
        5 | 6 => (
            ErrorKind::Unavailable,
            "locked by another connection; try again, or stop the program that holds it",
        ),
        8 => (ErrorKind::Unavailable, "the file or its directory is read-only; make both writable"),
        10 => (ErrorKind::Unavailable, "reading or writing failed; check the disk"),
        11 => (ErrorKind::Corrupt, "the file is damaged; restore a backup"),
        13 => (
            ErrorKind::Unavailable,
            "no space left: the disk is full or `max_bytes` is met; free some space or raise the limit",
        ),
        14 => (
            ErrorKind::Unavailable,
            "the file cannot be opened; check that its directory exists, that it is a file, and who may read it",
        ),
        26 => (ErrorKind::Corrupt, "not a SQLite database; check the path, or restore a backup"),
        1 | 19 => (ErrorKind::Corrupt, "the tables are not as this version made them; restore a backup"),
        _ => (ErrorKind::Unavailable, "sqlite refused; see the cause"),
    }
}
