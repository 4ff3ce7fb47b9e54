//! What is wrong with a policy: all of it at once, each with its place.

use std::fmt;
use std::sync::Arc;

use crate::{Error, ErrorKind};

/// Further faults of one file are counted, not kept.
pub const MAX_FAULTS: usize = 100;

/// All that is wrong with one policy, in the order of the file. Prints one line for each fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyErrors {
    faults: Vec<PolicyError>,
    dropped: usize,
}

impl PolicyErrors {
    pub(super) fn new(mut faults: Vec<PolicyError>) -> Self {
        faults.sort_by_key(|fault| (fault.line, fault.column));
        let dropped = faults.len().saturating_sub(MAX_FAULTS);
        faults.truncate(MAX_FAULTS);
        Self { faults, dropped }
    }

    /// A policy that could not be read at all.
    pub fn unreadable(origin: &str, message: impl Into<String>) -> Self {
        Self::new(vec![PolicyError {
            origin: origin.into(),
            line: 1,
            column: 1,
            subject: String::new(),
            message: message.into(),
        }])
    }

    /// The faults, at most [`MAX_FAULTS`].
    pub fn iter(&self) -> impl Iterator<Item = &PolicyError> {
        self.faults.iter()
    }

    /// How many there are, with those that were only counted.
    pub fn count(&self) -> usize {
        self.faults.len() + self.dropped
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if n == 0 { "" } else { "\n" })?;
        }
        if self.dropped > 0 {
            write!(f, "\nand {} more", self.dropped)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

impl From<PolicyErrors> for Error {
    fn from(errors: PolicyErrors) -> Self {
        Self::new(ErrorKind::Config, "whitelist.load", errors.to_string())
    }
}

/// One fault of a policy.
///
/// Prints as `origin:line:column: subject: message`, which editors and terminals can jump to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyError {
    /// Where the text came from, usually the path of its file.
    pub origin: Arc<str>,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The key that is at fault, for example `commands.disk-usage.timeout`. Empty for the whole text.
    pub subject: String,
    /// What, why, and what to do.
    pub message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.origin, self.line, self.column)?;
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.message)
    }
}
