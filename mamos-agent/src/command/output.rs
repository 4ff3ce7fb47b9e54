//! What a command prints: passed on as it comes, cut at its cap.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mamos_core::agent::{LogStream, Reporter};
use mamos_core::protocol::MAX_LOG_PIECE_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinSet;

/// How much of the end of standard error a failure repeats.
const TAIL_BYTES: usize = 1024;

/// Both outputs of one command. Dropping it stops the reading.
#[derive(Debug)]
pub(super) struct Output {
    counts: Arc<Counts>,
    reporter: Reporter,
    pumps: JoinSet<()>,
}

#[derive(Debug)]
struct Counts {
    cap: u64,
    kept: AtomicU64,
    dropped: AtomicU64,
    /// How many pumps wait for the link rather than for the command.
    sending: AtomicU32,
    tail: Mutex<Vec<u8>>,
}

impl Output {
    pub(super) fn new(cap: u64, reporter: Reporter) -> Self {
        let counts = Counts {
            cap,
            kept: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            sending: AtomicU32::new(0),
            tail: Mutex::default(),
        };
        Self { counts: Arc::new(counts), reporter, pumps: JoinSet::new() }
    }

    /// Passes on all that comes out of a pipe.
    pub(super) fn pump(&mut self, stream: LogStream, pipe: Option<impl AsyncRead + Send + Unpin + 'static>) {
        if let Some(pipe) = pipe {
            self.pumps.spawn(pump(pipe, stream, self.counts.clone(), self.reporter.clone()));
        }
    }

    /// Waits until both pipes are closed by all who have them. Safe to drop and call again.
    pub(super) async fn closed(&mut self) {
        while self.pumps.join_next().await.is_some() {}
    }

    /// Waits until both pipes are closed, or until nothing comes for a while though the link is free.
    pub(super) async fn closed_or_quiet(&mut self, quiet: Duration) {
        loop {
            let before = self.counts.total();
            if tokio::time::timeout(quiet, self.closed()).await.is_ok() {
                return;
            }
            let is_sending = self.counts.sending.load(Ordering::SeqCst) > 0;
            if !is_sending && self.counts.total() == before {
                return;
            }
        }
    }

    /// Stops reading, and marks the cut if there was one.
    pub(super) async fn finish(mut self) -> Printed {
        self.pumps.shutdown().await;
        let counts = &self.counts;
        let (kept, dropped) = (counts.kept.load(Ordering::SeqCst), counts.dropped.load(Ordering::SeqCst));
        if dropped > 0 {
            let mark = format!("[output cut after {kept} bytes; {dropped} bytes dropped]");
            self.reporter.log(LogStream::Note, Bytes::from(mark)).await;
        }
        let tail = counts.tail.lock().unwrap_or_else(PoisonError::into_inner);
        Printed { kept, dropped, tail: String::from_utf8_lossy(&tail).trim().to_owned() }
    }
}

/// How much a command printed, and the end of its standard error.
#[derive(Debug)]
pub(super) struct Printed {
    pub(super) kept: u64,
    pub(super) dropped: u64,
    pub(super) tail: String,
}

impl Counts {
    fn total(&self) -> u64 {
        self.kept.load(Ordering::SeqCst).wrapping_add(self.dropped.load(Ordering::SeqCst))
    }

    /// How many of `len` bytes are within the cap, which both outputs share.
    fn take(&self, len: usize) -> usize {
        let within = |kept: u64| (len as u64).min(self.cap.saturating_sub(kept));
        let before = self
            .kept
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |kept| Some(kept + within(kept)))
            .unwrap_or_default();
        let taken = within(before);
        self.dropped.fetch_add(len as u64 - taken, Ordering::SeqCst);
        taken as usize
    }

    fn remember(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let excess = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..excess);
    }
}

async fn pump(mut pipe: impl AsyncRead + Unpin, stream: LogStream, counts: Arc<Counts>, reporter: Reporter) {
    let mut buffer = BytesMut::new();
    loop {
        // A pipe hands out what it has, so nothing waits here for a line or a full buffer.
        buffer.reserve(MAX_LOG_PIECE_BYTES);
        let mut limited = (&mut pipe).take(MAX_LOG_PIECE_BYTES as u64);
        match limited.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a pipe of a command broke");
                return;
            }
        }
        let mut piece = buffer.split().freeze();
        if stream == LogStream::Stderr {
            counts.remember(&piece);
        }
        // After the cap we read on, so that the command does not wait for us for ever.
        piece.truncate(counts.take(piece.len()));
        if !piece.is_empty() {
            counts.sending.fetch_add(1, Ordering::SeqCst);
            reporter.log(stream, piece).await;
            counts.sending.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
