//! The file that an identity is kept in.

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mamos_core::auth::{KeyPair, Secret};
use mamos_core::id::InstanceId;
use mamos_core::{AgentId, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Identity, Life, Registered};

/// Larger than any identity; a file beyond it is not one.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// The version of the format.
const VERSION: u32 = 1;

/// An identity as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    seed: Secret,
    agent: Option<AgentId>,
    token: Option<Secret>,
    instance: InstanceId,
    previous: Option<InstanceId>,
    is_welcomed: bool,
    /// Missing in older files: the life in there has said fewer than one start may.
    #[serde(default)]
    hellos: u64,
}

/// What files of any version have in common.
#[derive(Deserialize)]
struct AnyVersion {
    version: Option<u32>,
}

impl Identity {
    /// The text that is kept.
    pub(super) fn to_text(&self) -> serde_json::Result<Zeroizing<Vec<u8>>> {
        let stored = Stored {
            version: VERSION,
            seed: Secret::new(URL_SAFE_NO_PAD.encode(self.key.expose_seed())),
            agent: self.agent().cloned(),
            token: self.token().cloned(),
            instance: self.life.instance,
            previous: self.life.previous,
            is_welcomed: self.life.is_welcomed,
            hellos: self.life.hellos,
        };
        serde_json::to_vec(&stored).map(Zeroizing::new)
    }

    /// Reads the text that was kept, or says what is wrong with it. Never with its content.
    pub(super) fn from_text(text: &[u8]) -> std::result::Result<Self, String> {
        // What serde says of a wrong value would show it; of a wrong field it says the name.
        let place = |error: serde_json::Error| format!("line {}, column {}", error.line(), error.column());
        let any: AnyVersion = serde_json::from_slice(text)
            .map_err(|error| format!("it is no identity of an agent ({})", place(error)))?;
        match any.version {
            Some(VERSION) => {}
            Some(version) => {
                return Err(format!("it was written by another MAMOS (format {version}, not {VERSION})"));
            }
            None => {
                return Err("it is from a MAMOS whose agents had a secret and no key pair yet".to_owned());
            }
        }
        let stored: Stored = serde_json::from_slice(text)
            .map_err(|error| format!("a field is missing, unknown or wrong ({})", place(error)))?;
        let seed = URL_SAFE_NO_PAD.decode(stored.seed.expose()).map(Zeroizing::new).ok();
        let seed: Option<[u8; 32]> = seed.and_then(|seed| seed.as_slice().try_into().ok());
        let key = seed.and_then(|seed| KeyPair::from_seed(seed).ok());
        let key = Arc::new(key.ok_or("its seed is not that of an Ed25519 key")?);
        let registered = match (stored.agent, stored.token) {
            (Some(agent), Some(token)) => Some(Registered { agent, token }),
            (None, None) => None,
            _ => return Err("it has an agent without a token, or a token without an agent".to_owned()),
        };
        let life = Life {
            instance: stored.instance,
            previous: stored.previous,
            is_welcomed: stored.is_welcomed,
            hellos: stored.hellos,
        };
        Ok(Self { key, registered, life })
    }
}

pub(super) fn load(path: &Path) -> Result<Option<Identity>> {
    let mut text = Zeroizing::new(Vec::new());
    match fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let message = format!("the identity {} cannot be read; check its owner and mode", path.display());
            return Err(Error::new(ErrorKind::Config, "identity.load", message).with_source(error));
        }
    }
    Identity::from_text(&text).map(Some).map_err(|why| {
        let message = format!(
            "{} cannot be used: {why}; restore the file, or remove it and register again",
            path.display()
        );
        Error::new(ErrorKind::Corrupt, "identity.load", message)
    })
}

pub(super) fn save(identity: &Identity, path: &Path) -> Result<()> {
    write(identity, path).map_err(|error| {
        let message =
            format!("the identity cannot be written to {}; is the disk full or read-only?", path.display());
        Error::new(ErrorKind::Unavailable, "identity.save", message).with_source(error)
    })
}

fn write(identity: &Identity, path: &Path) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    // A leftover could have another mode, which opening it would keep.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != IoErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&identity.to_text()?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory_of(path)
}

/// Makes a rename in the directory of `path` durable.
pub(crate) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
    fs::File::open(directory)?.sync_all()
}
