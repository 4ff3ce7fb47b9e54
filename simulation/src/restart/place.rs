//! The files of one scenario, and what its processes have in common.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use mamos_core::clock::{Clock, SystemClock};
use mamos_store::broken::Flaw;

/// How many attempts an agent runs at once.
pub(super) const SLOTS: u32 = 4;

/// A fault put in on purpose, to see that the judge notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// An agent whose link is lost forgets its session and what it runs.
    Amnesia,
    /// The store gives back all that an agent held when it returns, known or not.
    ForgetsKnownRuns,
    /// The store applies reports without fencing.
    IgnoresEpoch,
    /// The store says that it stored a batch, but not the last job of it.
    LosesJobs,
    /// The store takes a piece of a log although one before it is missing.
    AcceptsLogGaps,
}

impl Sabotage {
    pub(super) fn flaw(self) -> Option<Flaw> {
        match self {
            Self::Amnesia => None,
            Self::ForgetsKnownRuns => Some(Flaw::ForgetsKnownRuns),
            Self::IgnoresEpoch => Some(Flaw::IgnoresEpoch),
            Self::LosesJobs => Some(Flaw::LosesJobs),
            Self::AcceptsLogGaps => Some(Flaw::AcceptsLogGaps),
        }
    }
}

/// The files of one scenario.
#[derive(Debug, Clone)]
pub struct Place {
    directory: PathBuf,
}

impl Place {
    /// Those in a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    pub(super) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// The database.
    pub(super) fn database(&self) -> PathBuf {
        self.directory.join("jobs.sqlite")
    }

    /// The registration token, and after it in the same file the key of the client.
    pub(super) fn secrets(&self) -> PathBuf {
        self.directory.join("secrets")
    }

    /// The state of an agent.
    pub(super) fn agent(&self, number: usize) -> PathBuf {
        self.directory.join(format!("agent-{number}"))
    }

    /// What an agent saw.
    pub(super) fn evidence(&self, number: usize) -> PathBuf {
        self.directory.join(format!("agent-{number}.seen"))
    }

    /// What a process logged.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }
}

/// Now, in microseconds since 1970: all processes are on one machine.
pub(super) fn now() -> i64 {
    SystemClock.now().as_micros()
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Ends this process when the driver is gone, however that came about: its end of our standard input is
/// closed then.
pub(super) fn end_with_the_driver() {
    std::thread::spawn(|| {
        // Nothing is ever written to it; an error means the same as its end.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(3);
    });
}
