//! How the program ends, and the exit code that says so.

use std::process::ExitCode;

/// The exit codes are those of `docs/operating.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Fine,
    Failed,
    Usage,
    NotFound,
    Conflict,
    Denied,
    Unavailable,
    Interrupted,
}

impl Ending {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Denied => 5,
            Self::Unavailable => 6,
            Self::Interrupted => 130,
        }
    }
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(ending.code())
    }
}
