//! A connection over a WebSocket, whichever end it is.
//!
//! `mamos-transport` and `mamos-http` each have this file, for adapters do not depend on each other. A test
//! of `mamos-http` fails when the two differ.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Sink, Stream};
use mamos_core::transport::{Connection, Encoding, Frame};
use mamos_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as WebSocketError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame as Piece};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

/// Messages go out in pieces of this size. The buffers of both ends stay as large as the largest piece that
/// went through them, and an orchestrator may have ten thousand connections.
const PIECE_BYTES: usize = 8 * 1024;
/// How much is read at a time. Set aside for every connection from its beginning.
const READ_BYTES: usize = 2 * 1024;
/// How long closing waits, at each step, for a peer that is slow.
const LINGER: Duration = Duration::from_millis(100);

/// The bounds of a WebSocket that this connection is made over.
pub(super) fn bounds(max_frame_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        // A piece and answers to pings: more pings than are read are not answered.
        .max_write_buffer_size(2 * PIECE_BYTES)
        .max_message_size(Some(max_frame_bytes))
        .max_frame_size(Some(max_frame_bytes))
}

/// A frame is a message.
///
/// Reliable, as the stream below is. A `send` that is dropped leaves the stream whole: its frame is either
/// not sent, or finished by the next `send` or by `close`.
pub(super) struct WebSocketConnection<S> {
    /// Held for single polls only, so that sending and receiving do not wait for each other.
    socket: Mutex<Socket<S>>,
    closing: Notify,
    is_text: AtomicBool,
    /// Does the first frame that comes decide how frames are written down?
    is_undecided: AtomicBool,
    max_frame_bytes: usize,
    peer: String,
}

struct Socket<S> {
    /// `None` once it was let go.
    stream: Option<WebSocketStream<S>>,
    unsent: Option<Unsent>,
    is_closed: bool,
    is_farewell_said: bool,
}

/// What is left to send of a message.
struct Unsent {
    bytes: Bytes,
    next: Data,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketConnection<S> {
    /// A connection over a WebSocket with [`bounds`]. Without an encoding it writes as the other side does,
    /// and binary until that has sent something.
    pub(super) fn new(
        stream: WebSocketStream<S>,
        encoding: Option<Encoding>,
        max_frame_bytes: usize,
        peer: String,
    ) -> Self {
        let socket = Socket { stream: Some(stream), unsent: None, is_closed: false, is_farewell_said: false };
        Self {
            socket: Mutex::new(socket),
            closing: Notify::new(),
            is_text: AtomicBool::new(encoding == Some(Encoding::Text)),
            is_undecided: AtomicBool::new(encoding.is_none()),
            max_frame_bytes,
            peer,
        }
    }

    fn socket(&self) -> MutexGuard<'_, Socket<S>> {
        // A panic in a poll can only come from below, and leaves a stream that reports errors.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this side has closed the connection, or it has ended.
    async fn closed(&self) {
        let closing = self.closing.notified();
        if !self.socket().is_closed {
            closing.await;
        }
    }

    fn begin_close(&self) {
        self.socket().is_closed = true;
        self.closing.notify_waiters();
    }

    /// Lets go of the stream, once the other side has, or soon.
    async fn let_go(&self) {
        // A socket that is closed with bytes unread takes back what the peer has not read yet.
        let _ = timeout(LINGER, poll_fn(|context| self.socket().poll_drain(context))).await;
        let mut socket = self.socket();
        (socket.stream, socket.unsent) = (None, None);
    }

    fn frame(&self, encoding: Encoding, bytes: Bytes) -> Frame {
        if self.is_undecided.swap(false, Ordering::Relaxed) {
            self.is_text.store(encoding == Encoding::Text, Ordering::Relaxed);
        }
        match encoding {
            Encoding::Binary => Frame::binary(bytes),
            Encoding::Text => Frame::text(bytes),
        }
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for WebSocketConnection<S> {
    async fn send(&self, frame: Frame) -> Result<()> {
        let is_text = self.is_text.load(Ordering::Relaxed);
        let encoding = if is_text { Encoding::Text } else { Encoding::Binary };
        let (encoding, bytes) = frame.into_bytes(encoding, self.max_frame_bytes)?;
        let next = match encoding {
            Encoding::Binary => Data::Binary,
            Encoding::Text => Data::Text,
        };
        let mut message = Some(Unsent { bytes, next });
        tokio::select! {
            biased;
            () = self.closed() => Err(closed("the connection is closed")),
            sent = poll_fn(|context| self.socket().poll_send(context, &mut message)) => sent,
        }
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        let received = tokio::select! {
            biased;
            () = self.closed() => return Ok(None),
            received = poll_fn(|context| self.socket().poll_receive(context)) => received,
        };
        match received {
            Ok(Some((encoding, bytes))) => Ok(Some(self.frame(encoding, bytes))),
            Ok(None) => {
                self.begin_close();
                self.socket().stream = None;
                Ok(None)
            }
            Err(error) => {
                self.begin_close();
                self.let_go().await;
                Err(error)
            }
        }
    }

    async fn close(&self) {
        self.begin_close();
        // Errors mean that it is gone already, and a peer that reads nothing must not keep us.
        let _ = timeout(LINGER, poll_fn(|context| self.socket().poll_close(context))).await;
        self.let_go().await;
    }

    fn is_reliable(&self) -> bool {
        true
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }
}

impl<S> fmt::Debug for WebSocketConnection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebSocketConnection({})", self.peer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Sends what an earlier `send` that was dropped has left, then the message, which is taken as soon as
    /// it will be sent whatever happens to the caller.
    fn poll_send(&mut self, context: &mut Context<'_>, message: &mut Option<Unsent>) -> Poll<Result<()>> {
        loop {
            ready!(self.poll_pieces(context))?;
            match message.take() {
                Some(message) => self.unsent = Some(message),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Sends the pieces that are left of a message, to the last byte.
    fn poll_pieces(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(closed("the connection ended earlier")));
        };
        let mut stream = Pin::new(stream);
        loop {
            ready!(stream.as_mut().poll_flush(context)).map_err(not_sent)?;
            let Some(unsent) = &mut self.unsent else { return Poll::Ready(Ok(())) };
            let bytes = unsent.bytes.split_to(unsent.bytes.len().min(PIECE_BYTES));
            let is_last = unsent.bytes.is_empty();
            let piece = Piece::message(bytes, OpCode::Data(unsent.next), is_last);
            unsent.next = Data::Continue;
            if is_last {
                self.unsent = None;
            }
            stream.as_mut().start_send(Message::Frame(piece)).map_err(not_sent)?;
        }
    }

    /// Waits for a message. `None` after an orderly close.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<(Encoding, Bytes)>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(None)) };
        let mut stream = Pin::new(stream);
        loop {
            let message = match ready!(stream.as_mut().poll_next(context)) {
                Some(Ok(message)) => message,
                None => return Poll::Ready(Ok(None)),
                Some(Err(error)) => {
                    let (error, code) = not_received(error);
                    if let Some(code) = code {
                        let reason = error.message().to_owned().into();
                        // It hears why if it still can; its connection ends either way.
                        let _ = stream.as_mut().start_send(Message::Close(Some(CloseFrame { code, reason })));
                        let _ = stream.poll_flush(context);
                    }
                    return Poll::Ready(Err(error));
                }
            };
            match message {
                Message::Binary(bytes) => return Poll::Ready(Ok(Some((Encoding::Binary, bytes)))),
                Message::Text(text) => return Poll::Ready(Ok(Some((Encoding::Text, text.into())))),
                Message::Close(farewell) => {
                    // The answer, which is already waiting. Nobody has to hear it.
                    let _ = stream.poll_flush(context);
                    return Poll::Ready(end(farewell));
                }
                // Pings are answered with the next poll.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Sends what is left, and that no more will come.
    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.is_farewell_said {
            ready!(self.poll_pieces(context))?;
            self.is_farewell_said = true;
            if let Some(stream) = &mut self.stream {
                let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                Pin::new(stream).start_send(Message::Close(Some(farewell))).map_err(not_sent)?;
            }
        }
        self.poll_pieces(context)
    }

    /// Reads what still comes and forgets it, until the other side is gone.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(()) };
        let mut room = [0; READ_BYTES];
        loop {
            let mut room = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(stream.get_mut()).poll_read(context, &mut room));
            if read.is_err() || room.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

/// What the other side's last word means.
fn end<T>(farewell: Option<CloseFrame>) -> Result<Option<T>> {
    match farewell {
        None => Ok(None),
        Some(farewell)
            if matches!(farewell.code, CloseCode::Normal | CloseCode::Away | CloseCode::Status) =>
        {
            Ok(None)
        }
        Some(CloseFrame { code, reason }) => {
            let message = format!("the other side ended the connection with {}: {reason}", u16::from(code));
            Err(Error::new(ErrorKind::Closed, "websocket.receive", message))
        }
    }
}

/// The error, and the code that tells the other side, if it did something wrong.
fn not_received(error: WebSocketError) -> (Error, Option<CloseCode>) {
    let (kind, message, code) = match &error {
        WebSocketError::Capacity(_) => {
            (ErrorKind::LimitExceeded, "a frame is over the limit", Some(CloseCode::Size))
        }
        WebSocketError::Utf8(_) => {
            (ErrorKind::Corrupt, "a text frame is not UTF-8", Some(CloseCode::Invalid))
        }
        WebSocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            (ErrorKind::Unavailable, "the other side went away without a word", None)
        }
        WebSocketError::Io(_) => (ErrorKind::Unavailable, "the connection broke", None),
        _ => (
            ErrorKind::Corrupt,
            "the other side does not speak WebSocket as it must",
            Some(CloseCode::Protocol),
        ),
    };
    (Error::new(kind, "websocket.receive", message).with_source(error), code)
}

fn not_sent(error: WebSocketError) -> Error {
    match error {
        WebSocketError::ConnectionClosed
        | WebSocketError::AlreadyClosed
        | WebSocketError::Protocol(ProtocolError::SendAfterClosing) => {
            closed("the other side closed the connection")
        }
        error => {
            Error::new(ErrorKind::Unavailable, "websocket.send", "the connection broke").with_source(error)
        }
    }
}

fn closed(message: &str) -> Error {
    Error::new(ErrorKind::Closed, "websocket.send", message)
}
