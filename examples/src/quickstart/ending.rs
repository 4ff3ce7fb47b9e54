//! How the program ends, and the exit code that says so.

use std::process::ExitCode;

/// See [`Cli`](super::Cli) for what the codes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Fine,
    Failed,
    Usage,
    Denied,
    CommandFailed,
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Fine => 0,
            Ending::Failed => 1,
            Ending::Usage => 2,
            Ending::Denied => 5,
            Ending::CommandFailed => 7,
            Ending::Interrupted => 130,
        })
    }
}
