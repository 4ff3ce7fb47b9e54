//! How the program ends, and the exit code that says so.

use std::process::ExitCode;

/// See [`Cli`](super::Cli) for what the codes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Fine,
    Failed,
    Usage,
    NotFound,
    Conflict,
    Denied,
    Unavailable,
    JobFailed,
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Fine => 0,
            Ending::Failed => 1,
            Ending::Usage => 2,
            Ending::NotFound => 3,
            Ending::Conflict => 4,
            Ending::Denied => 5,
            Ending::Unavailable => 6,
            Ending::JobFailed => 7,
            Ending::Interrupted => 130,
        })
    }
}
