//! Who the agent is, in memory and on disk: what changes is written on a blocking thread, the newest only,
//! one write at a time.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mamos_core::auth::Secret;
use mamos_core::{AgentId, Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::identity::Identity;
use crate::lock;

/// An identity, and the file that it is kept in, if it is.
pub(super) struct Keeper {
    identity: watch::Sender<Identity>,
    file: Option<Arc<IdentityFile>>,
    is_changed: bool,
    writing: Option<JoinHandle<Result<()>>>,
}

/// A file that is this program's own. Whoever writes to it holds it, so that a write which outlives the
/// runtime cannot undo what the next one writes.
pub(super) struct IdentityFile {
    path: PathBuf,
    _lock: File,
}

impl IdentityFile {
    /// Takes the file, which need not exist. Blocks, for up to a second if another program has it.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let config = |message: String| Error::new(ErrorKind::Config, "agent.build", message);
        let directory = path.parent().unwrap_or(Path::new("")).display().to_string();
        let directory = if directory.is_empty() { ".".to_owned() } else { directory };
        let lock = lock::acquire(&path.with_extension("lock")).map_err(|error| {
            config(format!("{directory} cannot be used; check its owner and mode")).with_source(error)
        })?;
        let lock = lock.ok_or_else(|| {
            config(format!(
                "another agent runs with the state in {directory}; stop it, or give this one a directory of its own"
            ))
        })?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn load(&self) -> Result<Option<Identity>> {
        Identity::load(&self.path)
    }
}

/// Makes a directory that only its owner can read, unless it is there.
pub(super) fn make_directory(directory: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        let message = format!("the state directory {} cannot be made", directory.display());
        Error::new(ErrorKind::Config, "agent.build", message).with_source(error)
    })
}

impl Keeper {
    /// Keeps an identity that is used as it is, in memory only.
    pub(super) fn in_memory(identity: Identity) -> Self {
        Self { identity: watch::Sender::new(identity), file: None, is_changed: false, writing: None }
    }

    /// Keeps an identity whose life has begun, and has that on disk when it returns. Blocks.
    pub(super) fn in_file(identity: Identity, file: IdentityFile) -> Result<Self> {
        identity.save(&file.path)?;
        Ok(Self { file: Some(Arc::new(file)), ..Self::in_memory(identity) })
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Identity> {
        self.identity.subscribe()
    }

    /// The orchestrator welcomed the agent.
    pub(super) fn welcomed(&mut self, agent: &AgentId, issued: Option<Secret>) {
        self.is_changed |= self.identity.send_if_modified(|identity| identity.welcomed(agent, issued));
    }

    /// The orchestrator renewed the token.
    pub(super) fn renewed(&mut self, token: Secret) {
        self.identity.send_modify(|identity| identity.renewed(token));
        self.is_changed = true;
    }

    /// Is what is known also on disk, or cannot be put there?
    pub(super) fn is_idle(&self) -> bool {
        self.writing.is_none() && !self.is_changed
    }

    /// Writes what has changed, unless an earlier write is under way: then after that.
    pub(super) fn begin(&mut self) {
        if self.writing.is_some() || !std::mem::take(&mut self.is_changed) {
            return;
        }
        let Some(file) = self.file.clone() else { return };
        let identity = self.identity();
        self.writing = Some(tokio::task::spawn_blocking(move || identity.save(&file.path)));
    }

    /// Waits for the write that is under way, if any. Safe to drop and call again.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let ended = writing.await;
        self.writing = None;
        // What is in memory is enough to go on: an older token is good for a while, a registration can be
        // made again with the same key, and a life that is not known to be welcomed just goes on.
        if let Ok(Err(error)) = ended {
            tracing::error!(%error, "who the agent is could not be kept; it is tried again with the next token");
        }
    }
}
