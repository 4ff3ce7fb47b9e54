//! Where a program keeps its files.

use std::path::{Path, PathBuf};

use super::Trouble;

/// Where the state of a program is kept: as set, as systemd says, or where such things belong.
pub(crate) fn state_directory(program: &str, setting: Option<PathBuf>) -> Result<PathBuf, Trouble> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = setting.or_else(|| variable("STATE_DIRECTORY")) {
        return Ok(directory);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib").join(program));
    }
    let base = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    base.map(|base| base.join(program)).ok_or_else(|| {
        Trouble::usage("there is no place for the state: HOME is not set").next("set `state_directory`")
    })
}

/// Makes the state directory, for the owner only, unless it is there.
pub(crate) fn make_directory(directory: &Path) -> Result<(), Trouble> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        Trouble::usage(format!("the state directory {} cannot be made: {error}", directory.display()))
            .next("set `state_directory` to one that this user may write to")
    })
}
