//! Why operations fail, and what the caller is told.

use std::fmt::Display;

use mamos_core::{Error, ErrorKind};

/// What an error of a database means for a person.
pub(crate) type Explain = fn(&sqlx::Error) -> (ErrorKind, &'static str);

/// Why an operation failed inside the store.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The database or sqlx failed.
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
    /// The same once more, for each caller of a batch that failed as a whole.
    pub(crate) fn copied(&self, explain: Explain) -> Self {
        match self {
            Self::Sql(error) => Self::Copied(explain(error), error.to_string()),
            Self::Copied(explained, source) => Self::Copied(*explained, source.clone()),
            Self::Corrupt(message) => Self::Corrupt(message.clone()),
            Self::Refused(kind, message) => Self::Refused(*kind, message),
            Self::Closed => Self::Closed,
        }
    }

    /// Is it what stands in a row that is wrong, and not the database?
    pub(crate) fn is_content(&self) -> bool {
        matches!(
            self,
            Self::Corrupt(_) | Self::Sql(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
        )
    }

    /// Did an index of unique values refuse a row?
    pub(crate) fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// The error for the caller of `operation` on the database at `place`.
    pub(crate) fn explained(self, operation: &'static str, place: impl Display, explain: Explain) -> Error {
        match self {
            Self::Refused(kind, message) => Error::new(kind, operation, message),
            Self::Closed => Error::new(
                ErrorKind::Closed,
                operation,
                format!("the store of {place} was closed; open it again"),
            ),
            Self::Corrupt(message) => Error::new(
                ErrorKind::Corrupt,
                operation,
                format!("a row in {place} cannot be understood: {message}; look at it or restore a backup"),
            ),
            Self::Copied((kind, message), source) => {
                Error::new(kind, operation, format!("{place}: {message}")).with_source(source)
            }
            Self::Sql(error) => {
                let (kind, message) = explain(&error);
                Error::new(kind, operation, format!("{place}: {message}")).with_source(error)
            }
        }
    }
}

/// What was decoded. `None`, and a line in the host's log, if one row cannot be understood: that must
/// not stop what is done with the others.
pub(crate) fn readable<T>(decoded: Result<T, Fault>, what: &'static str) -> Result<Option<T>, Fault> {
    match decoded {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.is_content() => {
            tracing::error!(target: "mamos::store", what, %fault, "a row cannot be understood and is left out");
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}
