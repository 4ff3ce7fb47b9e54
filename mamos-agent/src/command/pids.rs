//! Which process groups run, remembered on disk, so that the next life of the agent can end them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use mamos_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::proc;

/// More entries than this were not made by us.
const MAX_ENTRIES: usize = 65_536;

/// A directory with one file for each command that runs.
#[derive(Debug)]
pub(super) struct Pids {
    directory: PathBuf,
    /// Held while we live: whoever gets it knows that what stands in the files is left over.
    _lock: File,
}

/// What is known of a group. Process ids are used again, so the time of start and the session belong to it.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    boot_id: String,
    session: i32,
    started: u64,
}

impl Pids {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let unusable = |error: std::io::Error| {
            let message = format!("{} cannot be used; check its rights", directory.display());
            Error::new(ErrorKind::Config, "command.pids", message).with_source(error)
        };
        fs::create_dir_all(directory).map_err(unusable)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "{} belongs to an agent that runs; give each agent a directory of its own",
                    directory.display()
                );
                return Err(Error::new(ErrorKind::Conflict, "command.pids", message));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        end_leftovers(directory).map_err(unusable)?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// Remembers a group until the answer is dropped. A failure is logged: the command runs all the same.
    pub(super) fn remember(&self, group: u32) -> Remembered {
        let path = self.directory.join(group.to_string());
        if let Err(error) = write(&path, group) {
            tracing::warn!(group, %error, "a running command is not remembered; a crash would leave it behind");
        }
        Remembered(path)
    }
}

fn write(path: &Path, group: u32) -> std::io::Result<()> {
    let leader = i32::try_from(group).ok().and_then(proc::process);
    // Without /proc there is nothing to recognise a process by, and killing by number alone is no option.
    let (Some(leader), Some(boot_id)) = (leader, proc::boot_id()) else { return Ok(()) };
    let entry = Entry { boot_id, session: leader.session, started: leader.started };
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(&entry)?)?;
    fs::rename(temporary, path)
}

/// Forgets the group when dropped.
#[derive(Debug)]
pub(super) struct Remembered(PathBuf);

impl Drop for Remembered {
    fn drop(&mut self) {
        // Gone already, or never written: both are what we want.
        let _ = fs::remove_file(&self.0);
    }
}

fn end_leftovers(directory: &Path) -> std::io::Result<()> {
    for file in fs::read_dir(directory)?.take(MAX_ENTRIES) {
        let path = file?.path();
        if path.file_name().is_some_and(|name| name == "lock") {
            continue;
        }
        if let Some((group, entry)) = read(&path)
            && is_left_over(group, &entry)
            && let Some(pid) = Pid::from_raw(group)
        {
            tracing::warn!(group, "killing a command that an earlier agent left running");
            // It may have ended since we looked.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        fs::remove_file(&path)?;
    }
    Ok(())
}

fn read(path: &Path) -> Option<(i32, Entry)> {
    let group = path.file_name()?.to_str()?.parse().ok().filter(|group| *group > 1)?;
    Some((group, serde_json::from_slice(&fs::read(path).ok()?).ok()?))
}

fn is_left_over(group: i32, entry: &Entry) -> bool {
    if proc::boot_id().as_ref() != Some(&entry.boot_id) {
        return false;
    }
    match proc::process(group) {
        Some(leader) => leader.started == entry.started && leader.group == group,
        // The leader is gone, but its children keep the number of their group from being used again.
        None => proc::members(group).is_some_and(|members| {
            members.iter().any(|member| member.session == entry.session && member.started >= entry.started)
        }),
    }
}
