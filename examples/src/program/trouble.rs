//! What went wrong, why, and what to do.

use std::error::Error as _;
use std::fmt;
use std::io::{self, Write};

use mamos_core::{Error, ErrorKind};

use super::ending::Ending;
use crate::config::ConfigError;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) ending: Ending,
    message: String,
    next: Option<String>,
}

impl Trouble {
    pub(crate) fn new(ending: Ending, message: impl Into<String>) -> Self {
        Self { ending, message: message.into(), next: None }
    }

    /// A setting is missing or wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Ending::Usage, message)
    }

    /// Says what to do.
    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Trouble {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string()).next("docs/operating.md lists the settings")
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let ending = match error.kind() {
            ErrorKind::Config | ErrorKind::Invalid | ErrorKind::LimitExceeded => Ending::Usage,
            ErrorKind::NotFound => Ending::NotFound,
            ErrorKind::Conflict | ErrorKind::Stale => Ending::Conflict,
            ErrorKind::Denied => Ending::Denied,
            ErrorKind::Unavailable | ErrorKind::Closed => Ending::Unavailable,
            _ => Ending::Failed,
        };
        // The last cause is the telling one, for example that of the operating system.
        let mut cause = error.source();
        while let Some(next) = cause.and_then(|cause| cause.source()) {
            cause = Some(next);
        }
        let mut message = error.message().to_owned();
        if let Some(cause) = cause.map(ToString::to_string).filter(|cause| !message.contains(cause.as_str()))
        {
            message.push_str(&format!(": {cause}"));
        }
        Self::new(ending, message)
    }
}

/// On standard error; nobody reading it is no error.
pub(crate) fn complain(program: &str, trouble: &Trouble) {
    let _ = writeln!(io::stderr().lock(), "{program}: {trouble}");
}

/// Talk, on standard error.
pub(crate) fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
