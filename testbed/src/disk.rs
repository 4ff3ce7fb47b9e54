//! Disks that a test may fill.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::process::run;

/// A disk of a test's own, in memory, which is gone when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Mounts one of that size.
    ///
    /// # Panics
    ///
    /// If the system refuses: only root may mount.
    pub fn new(mebibytes: u32) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "mamos-test"]);
        run(mount.arg(directory.path()));
        Self { directory }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes that much of it away, until [`SmallDisk::make_room`].
    ///
    /// # Panics
    ///
    /// If it has not that much.
    pub fn take(&self, mebibytes: usize) {
        let ballast = vec![0_u8; mebibytes * 1024 * 1024];
        std::fs::write(self.path().join(BALLAST), ballast).expect("the disk has that much");
    }

    /// Gives back what was taken.
    ///
    /// # Panics
    ///
    /// If nothing was taken.
    pub fn make_room(&self) {
        std::fs::remove_file(self.path().join(BALLAST)).expect("some of the disk was taken");
    }
}

const BALLAST: &str = "ballast";

/// Also from under a server that still runs: its files live until it ends.
impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that failed has said so already.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
