//! From what SQLite says to what the caller should do.

use std::path::Path;

use mamos_core::{Error, ErrorKind};

pub(super) use crate::sql::fault::{Fault, readable};

impl Fault {
    /// Is it an answer, and not a failure of the transaction?
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(..))
    }

    /// The same once more, for each caller of a batch that failed as a whole.
    pub(super) fn duplicate(&self) -> Self {
        self.copied(explain)
    }

    /// The error for the caller of `operation` on the file at `path`.
    pub(super) fn into_error(self, operation: &'static str, path: &Path) -> Error {
        self.explained(operation, path.display(), explain)
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
