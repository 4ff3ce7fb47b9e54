//! Frames over Unix sockets.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use mamos_core::transport::{Connection, Connector, Listener, MAX_FRAME_BYTES};
use mamos_core::{Error, ErrorKind, Result};
use tokio::net::{UnixListener, UnixStream};

use super::stream::FrameConnection;
use super::tcp::ACCEPT_REST;

/// Listens on a socket file, which only the owner may open (mode 0600). Removes it when dropped.
#[derive(Debug)]
pub struct UnixFrameListener {
    listener: UnixListener,
    file: SocketFile,
    max_frame_bytes: usize,
}

impl UnixFrameListener {
    /// Listens on a path. A socket file that is there already is replaced if nobody answers on it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the path cannot be bound: somebody listens there, something else is
    /// there, the directory is missing, or the path is too long (a little over 80 bytes are safe).
    pub async fn bind(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let at = path.display().to_string();
        let failed = |error: io::Error| {
            let message = format!("cannot listen on {at}; check the directory and the length of the path");
            Error::new(ErrorKind::Config, "unix.bind", message).with_source(error)
        };
        make_way(&path).await?;
        let (listener, file) = bind_privately(path).map_err(failed)?;
        Ok(Self { listener, file, max_frame_bytes: MAX_FRAME_BYTES })
    }

    /// The largest frame, in bytes. Default: [`MAX_FRAME_BYTES`].
    #[must_use]
    pub fn with_max_frame_bytes(mut self, max_frame_bytes: usize) -> Self {
        self.max_frame_bytes = max_frame_bytes;
        self
    }
}

/// Refuses a path where somebody answers or where something else is.
async fn make_way(path: &Path) -> Result<()> {
    let taken = |what: &str| {
        let message = format!("{} {what}", path.display());
        Err(Error::new(ErrorKind::Config, "unix.bind", message))
    };
    match fs::symlink_metadata(path) {
        // Nothing there, or binding will say what is wrong.
        Err(_) => Ok(()),
        Ok(found) if !found.file_type().is_socket() => {
            taken("exists and is not a socket; choose another path")
        }
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => taken("is in use; stop the other program or choose another path"),
        },
    }
}

/// Makes the socket in a directory that nobody else can enter, and moves it to its place with the right
/// mode: at no moment can anyone else connect.
fn bind_privately(path: PathBuf) -> io::Result<(UnixListener, SocketFile)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Renaming would accept a path that nobody could connect to.
    std::os::unix::net::SocketAddr::from_pathname(&path)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let private = PrivateDir(parent.join(format!(".{:x}-{number:x}", std::process::id())));
    fs::DirBuilder::new().mode(0o700).create(&private.0)?;
    let fresh = private.0.join("s");
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    let made = fs::symlink_metadata(&fresh)?;
    fs::rename(&fresh, &path)?;
    Ok((listener, SocketFile { path, device: made.dev(), inode: made.ino() }))
}

struct PrivateDir(PathBuf);

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // Left behind, it is empty or holds a dead socket: untidy, not wrong.
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes the socket file, if it is still the same one, when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file could not be removed");
        }
    }
}

#[async_trait]
impl Listener for UnixFrameListener {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        match self.listener.accept().await {
            Ok((stream, _)) => Ok(connection(stream, self.max_frame_bytes)),
            Err(error) => {
                tokio::time::sleep(ACCEPT_REST).await;
                let message = "a connection could not be accepted";
                Err(Error::new(ErrorKind::Unavailable, "unix.accept", message).with_source(error))
            }
        }
    }

    fn describe(&self) -> String {
        format!("unix:{}", self.file.path.display())
    }
}

/// Connects to a socket file.
#[derive(Debug, Clone)]
pub struct UnixFrameConnector {
    path: PathBuf,
    max_frame_bytes: usize,
}

impl UnixFrameConnector {
    /// Connects to a path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_frame_bytes: MAX_FRAME_BYTES }
    }

    /// The largest frame, in bytes. Default: [`MAX_FRAME_BYTES`].
    #[must_use]
    pub fn with_max_frame_bytes(mut self, max_frame_bytes: usize) -> Self {
        self.max_frame_bytes = max_frame_bytes;
        self
    }
}

#[async_trait]
impl Connector for UnixFrameConnector {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        match UnixStream::connect(&self.path).await {
            Ok(stream) => Ok(connection(stream, self.max_frame_bytes)),
            Err(error) => {
                let (kind, advice) = match error.kind() {
                    io::ErrorKind::InvalidInput => (ErrorKind::Config, "is the path too long?"),
                    io::ErrorKind::PermissionDenied => {
                        (ErrorKind::Config, "check the owner of the socket file")
                    }
                    _ => (ErrorKind::Unavailable, "is an orchestrator listening there?"),
                };
                let message = format!("cannot connect to {}; {advice}", self.path.display());
                Err(Error::new(kind, "unix.connect", message).with_source(error))
            }
        }
    }

    fn describe(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

fn connection(stream: UnixStream, max_frame_bytes: usize) -> Arc<dyn Connection> {
    let peer = match stream.peer_cred() {
        Ok(peer) => match peer.pid() {
            Some(pid) => format!("unix:pid {pid}, uid {}", peer.uid()),
            None => format!("unix:uid {}", peer.uid()),
        },
        Err(_) => "unix:unknown".to_owned(),
    };
    let (reader, writer) = stream.into_split();
    Arc::new(FrameConnection::new(reader, writer, max_frame_bytes, peer))
}
