//! The file that remembers logins.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ending::Ending;
use super::trouble::Trouble;

/// Who is logged in where.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    /// The server of the last login: the one that is meant when none is named.
    pub(super) server: Option<String>,
    #[serde(default)]
    pub(super) logins: BTreeMap<String, Login>,
}

/// One login. It prints without its token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) token: String,
    pub(super) expires_at: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

impl Credentials {
    /// Reads the file; nobody is logged in if there is none.
    pub(super) fn load() -> Result<Self, Trouble> {
        let Some(path) = path() else {
            return Ok(Self::default());
        };
        let wrong = |why: String| {
            Trouble::new(Ending::Failed, format!("the logins in {} cannot be read: {why}", path.display()))
                .next("remove the file and log in again")
        };
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(wrong(error.to_string())),
            Ok(text) => {
                let mode = fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode());
                if mode & 0o077 != 0 {
                    return Err(wrong(format!("others may read it (mode {:o})", mode & 0o777))
                        .next(format!("chmod 600 {}", path.display())));
                }
                toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))
            }
        }
    }

    /// Writes the file as a whole, for the owner only.
    pub(super) fn save(&self) -> Result<(), Trouble> {
        let path = path().ok_or_else(|| {
            Trouble::usage("there is no place for logins: HOME is not set")
                .next("give a key with MAMOS_TOKEN")
        })?;
        self.write(&path).map_err(|error| {
            let message = format!("the login cannot be kept in {}: {error}", path.display());
            Trouble::new(Ending::Failed, message).next("check the directory, or give a key with MAMOS_TOKEN")
        })
    }

    fn write(&self, path: &PathBuf) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    }
}

/// `$XDG_CONFIG_HOME/mamos/credentials.toml`, else below `~/.config`.
fn path() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(base.join("mamos").join("credentials.toml"))
}
