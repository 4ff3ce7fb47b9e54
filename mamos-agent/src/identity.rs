//! Who the agent is, kept in a file so that a restart does not need a new registration.

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mamos_core::auth::{Credentials, Secret};
use mamos_core::{AgentId, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Larger than any identity; a file beyond it is not one.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Who an agent is: the secret that it made, and the id that it got for it.
///
/// It is on disk before the secret is first sent, so that a registration whose answer was lost, or that
/// a crash cut off, can be made again with the same token and gives the same agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its id; `None` until it is registered.
    pub agent: Option<AgentId>,
    /// What it proves itself with.
    pub secret: Secret,
}

impl Identity {
    /// A new secret, from the random numbers of the operating system.
    pub fn generate() -> Self {
        let random = [uuid::Uuid::new_v4().as_u128(), uuid::Uuid::new_v4().as_u128()];
        Self { agent: None, secret: Secret::from_random("mamos_agent", random) }
    }

    /// Reads an identity; `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: the file cannot be read. Correct its owner or mode.
    /// - [`ErrorKind::Corrupt`]: it is not an identity. Restore it, or remove it and register again.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let failed = |kind, message: &str, source: Box<dyn std::error::Error + Send + Sync>| {
            let message = format!("{message} ({})", path.display());
            Err(Error::new(kind, "identity.load", message).with_source(source))
        };
        let mut text = String::new();
        let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let message = "the identity cannot be read; check its owner and mode";
                return failed(ErrorKind::Config, message, error.into());
            }
        }
        match serde_json::from_str(&text) {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => {
                let message = "not an identity; restore the file, or remove it and register again";
                failed(ErrorKind::Corrupt, message, error.into())
            }
        }
    }

    /// Writes the identity, readable for its owner only, replacing an older one as a whole.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`]: it could not be written; an older one is unchanged.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.write(path).map_err(|error| {
            let message = format!(
                "the identity cannot be written to {}; is the disk full or read-only?",
                path.display()
            );
            Error::new(ErrorKind::Unavailable, "identity.save", message).with_source(error)
        })
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        // A leftover could have another mode, which opening it would keep.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != IoErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory_of(path)
    }

    /// What the agent shows: itself if it is registered, else the token. `None` if it has neither.
    pub fn credentials(&self, token: Option<&Secret>) -> Option<Credentials> {
        let secret = self.secret.clone();
        match (&self.agent, token) {
            (Some(id), _) => Some(Credentials::Agent { id: id.clone(), secret }),
            (None, Some(token)) => Some(Credentials::Registration { token: token.clone(), secret }),
            (None, None) => None,
        }
    }
}

/// Makes a rename in the directory of `path` durable.
pub(crate) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use mamos_core::{AgentKind, Timestamp};

    use super::*;

    #[test]
    fn an_identity_survives_its_file_which_only_the_owner_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.json");
        assert_eq!(Identity::load(&path).unwrap(), None);
        let agent = AgentId::from_parts(AgentKind::new("a").unwrap(), Timestamp::EPOCH, 1);
        let mut identity = Identity { agent: Some(agent), secret: Secret::new("s1") };
        fs::write(directory.path().join("identity.new"), "left over").unwrap();
        identity.save(&path).unwrap();
        identity.secret = Secret::new("s2");
        identity.save(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap(), Some(identity));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_identity_is_corrupt_and_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.json");
        fs::write(&path, "{\"agent\": 5}").unwrap();
        assert_eq!(Identity::load(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
