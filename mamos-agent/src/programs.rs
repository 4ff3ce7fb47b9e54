//! Looks at the programs that a policy names, and reads policies from files.

use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mamos_core::whitelist::policy::{
    MAX_POLICY_BYTES, Policy, PolicyErrors, ProgramError, ProgramFacts, Programs,
};

const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
const ANY_EXECUTE: u32 = 0o111;

/// Reads the whitelist of this machine, and looks at each program that it names.
///
/// # Errors
///
/// [`PolicyErrors`] with all faults at once; also if the file cannot be read or is longer than
/// [`MAX_POLICY_BYTES`].
pub fn load_policy(path: impl AsRef<Path>) -> Result<Policy, PolicyErrors> {
    let path = path.as_ref();
    let origin = path.display().to_string();
    let text = read_bounded(path).map_err(|error| {
        PolicyErrors::unreadable(&origin, format!("cannot be read: {error}; check the path and its rights"))
    })?;
    Policy::parse(&text, &origin, &SystemPrograms)
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    // One byte more than allowed, so that the policy itself says that it is too long.
    std::fs::File::open(path)?.take(MAX_POLICY_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Looks at the real file system.
///
/// A program counts as writable by others if someone but root and the user of this process could replace
/// it: by the rights of the file itself, or of a directory above it, on the way to it or behind its links.
/// A hard link or a copy of a shell under another name cannot be told from a program.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemPrograms;

impl Programs for SystemPrograms {
    fn inspect(&self, program: &Path) -> Result<Option<ProgramFacts>, ProgramError> {
        let resolved = program.canonicalize().map_err(unreadable)?;
        let metadata = resolved.metadata().map_err(unreadable)?;
        let writable_by_others = if is_file_writable(&metadata) {
            Some(resolved.clone())
        } else {
            let mut directories = Vec::new();
            directories.extend(program.parent());
            directories.extend(resolved.parent());
            directories.into_iter().find_map(find_writable_directory)
        };
        Ok(Some(ProgramFacts {
            is_file: metadata.is_file(),
            is_executable: metadata.mode() & ANY_EXECUTE != 0,
            writable_by_others,
            resolved,
        }))
    }
}

fn unreadable(error: std::io::Error) -> ProgramError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ProgramError::Missing,
        _ => ProgramError::Unreadable(error.to_string()),
    }
}

fn is_file_writable(metadata: &Metadata) -> bool {
    let own_group = rustix::process::getegid().as_raw();
    let group_may = metadata.mode() & GROUP_WRITE != 0 && metadata.gid() != 0 && metadata.gid() != own_group;
    metadata.mode() & OTHERS_WRITE != 0 || group_may || is_foreign(metadata)
}

fn is_foreign(metadata: &Metadata) -> bool {
    metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw()
}

/// In a directory with the sticky bit (`/tmp`) others cannot replace what is not theirs, so it is fine
/// above the program's own directory; in that one they could still put files beside the program.
fn find_writable_directory(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().enumerate().find_map(|(height, directory)| {
        let metadata = directory.metadata().ok()?;
        let is_open = metadata.mode() & OTHERS_WRITE != 0;
        let is_excused = height > 0 && metadata.mode() & STICKY != 0;
        ((is_open && !is_excused) || is_foreign(&metadata)).then(|| directory.to_owned())
    })
}
