//! What a policy wants to know of a program, without touching a file itself.

use std::fmt;
use std::path::{Path, PathBuf};

/// Looks at programs while a policy is loaded.
///
/// The core opens no file, so the machine that will run the commands brings its own:
/// `mamos_agent::SystemPrograms`.
pub trait Programs {
    /// What is at this absolute path. `Ok(None)` if nobody looked; the policy then judges the name alone.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] if there is nothing, or it cannot be looked at.
    fn inspect(&self, program: &Path) -> Result<Option<ProgramFacts>, ProgramError>;
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramFacts {
    /// The path once every link is followed.
    pub resolved: PathBuf,
    /// Is it a file, and not a directory, socket or device?
    pub is_file: bool,
    /// May it be executed?
    pub is_executable: bool,
    /// What others could write to and so replace the program: the file itself or a directory above it.
    pub writable_by_others: Option<PathBuf>,
}

/// Why a program could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramError {
    /// There is nothing at the path.
    Missing,
    /// The system did not let us look; the reason is for people.
    Unreadable(String),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Unreadable(reason) => write!(f, "cannot be looked at: {reason}"),
        }
    }
}

impl std::error::Error for ProgramError {}

/// Looks at nothing: for an orchestrator, whose machine does not have the agents' programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct UncheckedPrograms;

impl Programs for UncheckedPrograms {
    fn inspect(&self, _: &Path) -> Result<Option<ProgramFacts>, ProgramError> {
        Ok(None)
    }
}
