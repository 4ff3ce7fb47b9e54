//! What went wrong, why, and what to do.

use std::fmt;
use std::io;

use super::ending::Ending;
use super::problem::Problem;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) ending: Ending,
    /// Empty if there is nothing to say.
    message: String,
    next: Option<String>,
}

impl Trouble {
    pub(super) fn new(ending: Ending, message: impl Into<String>) -> Self {
        Self { ending, message: message.into(), next: None }
    }

    /// The command line makes no sense.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Ending::Usage, message)
    }

    /// Says what to do.
    #[must_use]
    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The orchestrator refused.
    pub(super) fn refused(problem: &Problem, what: &str) -> Self {
        let mut message = format!("cannot {what}: {}", problem.said());
        if let Some(state) = &problem.current_state {
            message.push_str(&format!("; it is {state} now"));
        }
        for fault in &problem.errors {
            message.push_str(&format!("\n  {}: {}", fault.pointer, fault.detail));
        }
        let (ending, next) = match problem.status {
            401 => (Ending::Denied, "log in with `mamosctl login USER`, or give a key with --token"),
            403 => (
                Ending::Denied,
                "`mamosctl whoami` shows what you may do; an administrator can give you more",
            ),
            404 => (Ending::NotFound, "check the name; the `list` order beside this one shows what there is"),
            412 | 428 => (Ending::Conflict, "someone changed it at the same time; look at it and try again"),
            409 => (Ending::Conflict, "look at what there is with the `get` or `list` order"),
            400 | 413 | 415 | 422 => {
                (Ending::Usage, "correct it and try again; --help shows how it is written")
            }
            408 | 429 | 502 | 503 | 504 => {
                (Ending::Unavailable, "try again later, or wait longer with --timeout")
            }
            _ => (Ending::Failed, "the log of the orchestrator says more"),
        };
        Self { ending, message, next: Some(next.to_owned()) }
    }

    /// Nobody answered.
    pub(super) fn unreachable(server: &str, what: &str, why: impl fmt::Display) -> Self {
        Self::new(Ending::Unavailable, format!("cannot {what}: {server} does not answer: {why}"))
            .next("check --server, --ca and --pin, and whether the orchestrator runs")
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

/// Standard output is gone: whoever read it has enough.
impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Ending::Fine, "");
        }
        Self::new(Ending::Failed, format!("standard output cannot be written: {error}"))
    }
}
