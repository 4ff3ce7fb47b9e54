//! One error type for all ports: its kind says what to do, its source says why.

use std::error::Error as StdError;
use std::fmt;

/// The result of an operation on a port or on the orchestrator.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// What went wrong, in which operation, and what to do about it.
///
/// Compact on purpose: results of batches carry many of them.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    source: Option<Source>,
}

/// Tells the caller what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No record has the given id. Check the id.
    NotFound,
    /// The request contradicts what is stored. Read the current state, then decide.
    Conflict,
    /// The lease, session or link was lost or taken over. Stop what depends on it.
    Stale,
    /// The caller may not do this. Ask for the permission, or do not try again.
    Denied,
    /// The input breaks a rule. Correct it; trying the same again cannot help.
    Invalid,
    /// A bound on size or count was met. Send less, or wait.
    LimitExceeded,
    /// The backend did not answer or answered with a passing error. The operation may or may not
    /// have been done; the same call may be made again.
    Unavailable,
    /// Stored data or a peer's bytes cannot be understood. A person must look.
    Corrupt,
    /// This implementation does not offer the operation.
    Unsupported,
    /// A setting is wrong. Correct it and start again.
    Config,
    /// The other side, or this program, is shutting down.
    Closed,
}

impl Error {
    /// An error of the given kind in the given operation, for example `"store.claim"`.
    ///
    /// The message is a lowercase fragment that says what, why, and what to do.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, operation, message: message.into(), source: None }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What, why, and what to do; without the operation and the cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// May the same call succeed later? True for [`ErrorKind::Unavailable`] only.
    pub fn is_retryable(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }

    /// The same error once more, for each caller of a batch that failed as a whole.
    ///
    /// The cause is kept as text.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let copy = Self::new(self.0.kind, self.0.operation, self.0.message.clone());
        match &self.0.source {
            Some(source) => copy.with_source(source.to_string()),
            None => copy,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("operation", &self.0.operation)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<crate::id::InvalidName> for Error {
    fn from(error: crate::id::InvalidName) -> Self {
        Self::new(ErrorKind::Invalid, "name", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_operation_message_and_cause() {
        let error = Error::new(ErrorKind::Unavailable, "store.claim", "the disk is full; free some space")
            .with_source("ENOSPC");
        assert_eq!(error.to_string(), "store.claim: the disk is full; free some space: ENOSPC");
        assert_eq!(error.duplicate().to_string(), error.to_string());
        assert!(error.is_retryable());
    }

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
