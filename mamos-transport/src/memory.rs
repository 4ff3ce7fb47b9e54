//! The transport inside a process: frames are handed over as they are, and never encoded.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mamos_core::transport::{Connection, Connector, Frame, Listener};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::{Notify, mpsc};

/// How many frames may wait in one direction of a connection before `send` waits.
///
/// A frame is a batch, so a few are enough to keep both sides busy.
pub const DEFAULT_CAPACITY: usize = 64;
/// How many connections may wait to be accepted before `connect` waits.
const BACKLOG: usize = 1024;

/// A listener and the connector that reaches it, with room for [`DEFAULT_CAPACITY`] frames.
///
/// Clone the connector for every agent. When the last one is dropped, no connection will come any more
/// and [`Listener::accept`] says so; when the listener is dropped, [`Connector::connect`] is
/// [`ErrorKind::Unavailable`], and connections that were accepted live on.
///
/// ```
/// use mamos_core::transport::{Connection, Connector, Frame, Listener};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> mamos_core::Result<()> {
/// let (listener, connector) = mamos_transport::memory::pair();
/// let agent = connector.connect().await?;
/// let orchestrator = listener.accept().await?;
/// agent.send(Frame::text("{}")).await?;
/// assert!(orchestrator.receive().await?.is_some());
/// # Ok(()) }
/// ```
pub fn pair() -> (MemoryListener, MemoryConnector) {
    pair_with_capacity(DEFAULT_CAPACITY)
}

/// The same, with room for `capacity` frames in each direction of a connection; at least 1.
pub fn pair_with_capacity(capacity: usize) -> (MemoryListener, MemoryConnector) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let connector = MemoryConnector {
        backlog: sender,
        capacity: capacity.max(1),
        connected: Arc::new(AtomicU64::new(0)),
    };
    (MemoryListener { backlog: tokio::sync::Mutex::new(receiver) }, connector)
}

/// Two ends of one connection, without a listener.
pub fn connected(capacity: usize) -> (Arc<dyn Connection>, Arc<dyn Connection>) {
    let (a, b) = ends(capacity.max(1), 1);
    (Arc::new(a), Arc::new(b))
}

/// The orchestrator's end.
#[derive(Debug)]
pub struct MemoryListener {
    backlog: tokio::sync::Mutex<mpsc::Receiver<MemoryConnection>>,
}

/// The agents' end. Clones reach the same listener.
#[derive(Debug, Clone)]
pub struct MemoryConnector {
    backlog: mpsc::Sender<MemoryConnection>,
    capacity: usize,
    connected: Arc<AtomicU64>,
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        match self.backlog.lock().await.recv().await {
            Some(connection) => Ok(Arc::new(connection)),
            None => Err(Error::new(ErrorKind::Closed, "memory.accept", "every connector was dropped")),
        }
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

#[async_trait]
impl Connector for MemoryConnector {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        let gone = |_| Error::new(ErrorKind::Unavailable, "memory.connect", "the listener was dropped");
        let place = self.backlog.reserve().await.map_err(gone)?;
        let number = self.connected.fetch_add(1, Ordering::Relaxed) + 1;
        let (ours, theirs) = ends(self.capacity, number);
        place.send(theirs);
        Ok(Arc::new(ours))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

fn ends(capacity: usize, number: u64) -> (MemoryConnection, MemoryConnection) {
    let (there, back) = (Arc::new(Pipe::new(capacity)), Arc::new(Pipe::new(capacity)));
    let ours = MemoryConnection { outgoing: there.clone(), incoming: back.clone(), number };
    (ours, MemoryConnection { outgoing: back, incoming: there, number })
}

/// One end of a connection. Dropping it closes it.
struct MemoryConnection {
    outgoing: Arc<Pipe>,
    incoming: Arc<Pipe>,
    number: u64,
}

#[async_trait]
impl Connection for MemoryConnection {
    async fn send(&self, frame: Frame) -> Result<()> {
        self.outgoing.put(frame).await
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        Ok(self.incoming.take().await)
    }

    async fn close(&self) {
        self.end();
    }

    fn is_reliable(&self) -> bool {
        true
    }

    fn peer(&self) -> String {
        format!("memory:{}", self.number)
    }
}

impl MemoryConnection {
    fn end(&self) {
        self.outgoing.end();
        // What the other side sent will not be asked for any more.
        self.incoming.end();
        lock(&self.incoming.state).frames.clear();
    }
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for MemoryConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryConnection({})", self.number)
    }
}

/// One direction of a connection.
struct Pipe {
    state: Mutex<PipeState>,
    capacity: usize,
    readable: Notify,
    writable: Notify,
}

#[derive(Default)]
struct PipeState {
    frames: VecDeque<Frame>,
    is_ended: bool,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), capacity, readable: Notify::new(), writable: Notify::new() }
    }

    async fn put(&self, frame: Frame) -> Result<()> {
        loop {
            {
                let mut state = lock(&self.state);
                if state.is_ended {
                    drop(state);
                    // Wakes whoever else waits: the end gave one wake-up only.
                    self.writable.notify_one();
                    return Err(Error::new(ErrorKind::Closed, "memory.send", "the connection is closed"));
                }
                if state.frames.len() < self.capacity {
                    state.frames.push_back(frame);
                    drop(state);
                    self.readable.notify_one();
                    return Ok(());
                }
            }
            self.writable.notified().await;
        }
    }

    async fn take(&self) -> Option<Frame> {
        loop {
            {
                let mut state = lock(&self.state);
                if let Some(frame) = state.frames.pop_front() {
                    drop(state);
                    self.writable.notify_one();
                    return Some(frame);
                }
                if state.is_ended {
                    drop(state);
                    self.readable.notify_one();
                    return None;
                }
            }
            self.readable.notified().await;
        }
    }

    fn end(&self) {
        lock(&self.state).is_ended = true;
        self.readable.notify_one();
        self.writable.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state is consistent between statements, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
