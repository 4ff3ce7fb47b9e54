//! A connection over any stream of bytes.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::buf::Chain;
use bytes::{Buf, Bytes, BytesMut};
use mamos_core::transport::{Connection, Encoding, Frame};
use mamos_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::framing::{self, Front};

/// How much room is made for reading at a time: memory grows with what arrives, not with what is announced.
const READ_BYTES: usize = 64 * 1024;
/// How long closing waits, at each step, for a peer that is slow.
const LINGER: Duration = Duration::from_millis(100);

type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Length-prefixed frames over a stream of bytes: a socket, a pipe, an encrypted stream.
///
/// Reliable, as the stream is. A `send` that is dropped leaves the stream whole: its frame is either not
/// sent, or finished by the next `send` or by `close`.
pub struct FrameConnection {
    reader: Mutex<Reader>,
    writer: Mutex<Writer>,
    is_closed: AtomicBool,
    closing: Notify,
    max_frame_bytes: usize,
    peer: String,
}

struct Reader {
    stream: ReadHalf,
    buffer: BytesMut,
}

struct Writer {
    stream: WriteHalf,
    unsent: Chain<Bytes, Bytes>,
    is_broken: bool,
}

impl FrameConnection {
    /// A connection that reads from one half of a stream and writes to the other.
    ///
    /// No frame may have more than `max_frame_bytes`, in either direction. `peer` says for people who is
    /// at the other end.
    pub fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        max_frame_bytes: usize,
        peer: String,
    ) -> Self {
        Self {
            reader: Mutex::new(Reader::over(reader)),
            writer: Mutex::new(Writer::over(writer)),
            is_closed: AtomicBool::new(false),
            closing: Notify::new(),
            max_frame_bytes,
            peer,
        }
    }

    /// Waits until this side has closed the connection.
    async fn closed(&self) {
        let closing = self.closing.notified();
        if !self.is_closed.load(Ordering::Acquire) {
            closing.await;
        }
    }

    fn begin_close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
    }

    /// Lets go of the stream. With `in_peace`, what was sent is given time to arrive first.
    async fn let_go(&self, in_peace: bool) {
        {
            // Whoever holds the writer gives it back soon, for the connection is closed.
            let mut writer = self.writer.lock().await;
            if in_peace {
                // Errors mean that it is gone already, and a peer that reads nothing must not keep us.
                let _ = timeout(LINGER, writer.flush()).await;
            }
            let _ = timeout(LINGER, writer.stream.shutdown()).await;
            *writer = Writer::over(tokio::io::sink());
            writer.is_broken = true;
        }
        let mut reader = self.reader.lock().await;
        if in_peace {
            // A socket that is closed with bytes unread takes back what the peer has not read yet.
            let _ = timeout(LINGER, tokio::io::copy(&mut reader.stream, &mut tokio::io::sink())).await;
        }
        *reader = Reader::over(tokio::io::empty());
    }
}

#[async_trait]
impl Connection for FrameConnection {
    async fn send(&self, frame: Frame) -> Result<()> {
        let (encoding, bytes) = frame.into_bytes(Encoding::Binary, self.max_frame_bytes)?;
        let header = framing::header(encoding, bytes.len())?;
        tokio::select! {
            biased;
            () = self.closed() => Err(Error::new(ErrorKind::Closed, "socket.send", "this side closed the connection")),
            sent = async { self.writer.lock().await.write(header, bytes).await } => sent,
        }
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        let received = tokio::select! {
            biased;
            () = self.closed() => return Ok(None),
            received = async { self.reader.lock().await.read(self.max_frame_bytes).await } => received,
        };
        if received.is_err() {
            self.begin_close();
            self.let_go(false).await;
        }
        received
    }

    async fn close(&self) {
        self.begin_close();
        self.let_go(true).await;
    }

    fn is_reliable(&self) -> bool {
        true
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }
}

impl fmt::Debug for FrameConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameConnection({})", self.peer)
    }
}

impl Reader {
    fn over(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: BytesMut::new() }
    }

    /// Reads the next frame. What has arrived of it stays in the buffer when this is dropped.
    async fn read(&mut self, max_frame_bytes: usize) -> Result<Option<Frame>> {
        loop {
            let missing = match framing::take(&mut self.buffer, max_frame_bytes)? {
                Front::Frame(frame) => return Ok(Some(frame)),
                Front::Missing(missing) => missing,
            };
            self.buffer.reserve(missing.clamp(READ_BYTES / 16, READ_BYTES));
            let count =
                self.stream.read_buf(&mut self.buffer).await.map_err(|e| broken("socket.receive", e))?;
            if count == 0 && self.buffer.is_empty() {
                return Ok(None);
            }
            if count == 0 {
                let message = "the connection was cut in the middle of a frame";
                return Err(Error::new(ErrorKind::Unavailable, "socket.receive", message));
            }
        }
    }
}

impl Writer {
    fn over(stream: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), unsent: Bytes::new().chain(Bytes::new()), is_broken: false }
    }

    async fn write(&mut self, header: Bytes, bytes: Bytes) -> Result<()> {
        if self.is_broken {
            return Err(Error::new(ErrorKind::Closed, "socket.send", "the connection broke earlier"));
        }
        // What an earlier `send` that was dropped has left.
        self.flush().await?;
        self.unsent = header.chain(bytes);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        while self.unsent.has_remaining() {
            let written = match self.stream.write_buf(&mut self.unsent).await {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                self.is_broken = true;
                self.unsent = Bytes::new().chain(Bytes::new());
                return Err(broken("socket.send", error));
            }
        }
        // Lets go of the payload, which may be large.
        self.unsent = Bytes::new().chain(Bytes::new());
        Ok(())
    }
}

fn broken(operation: &'static str, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the connection broke").with_source(error)
}
