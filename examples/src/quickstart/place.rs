//! Where things are kept.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The directory of the quickstart.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
}

/// Held while a quickstart uses the directory: its agents have identities, and each may live once only.
/// The operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Taken(#[expect(dead_code, reason = "it is its being open that counts")] File);

impl Place {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Makes the directory, and takes it for this process.
    pub(super) fn take(&self) -> Result<Taken> {
        let directory = self.directory.display();
        fs::create_dir_all(&self.directory).with_context(|| format!("cannot make {directory}"))?;
        let lock = File::create(self.directory.join("quickstart.lock"))
            .with_context(|| format!("cannot write to {directory}; choose another with --data"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Taken(lock)),
            Err(TryLockError::WouldBlock) => {
                bail!("another quickstart uses {directory}; wait for its end, or choose another with --data")
            }
            Err(TryLockError::Error(error)) => Err(error).context(format!("cannot lock {directory}")),
        }
    }

    /// The SQLite file.
    pub(super) fn database(&self) -> PathBuf {
        self.directory.join("quickstart.db")
    }

    /// What an agent keeps: its identity, and the results that are not on record yet.
    pub(super) fn agent_state(&self, name: &str) -> PathBuf {
        self.agents().join(name)
    }

    /// Forgets the agents' identities, which a new database does not know.
    pub(super) fn forget_agents(&self) -> Result<()> {
        let agents = self.agents();
        if agents.exists() {
            fs::remove_dir_all(&agents).with_context(|| format!("cannot remove {}", agents.display()))?;
        }
        Ok(())
    }

    /// Not in the directory: the path of a socket may have some 100 bytes only.
    pub(super) fn socket(&self) -> PathBuf {
        std::env::temp_dir().join(format!("mamos-quickstart-{}.sock", std::process::id()))
    }

    fn agents(&self) -> PathBuf {
        self.directory.join("agents")
    }
}

/// The path as a person would open it from anywhere.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
