//! Transports that break a promise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::BytesMut;
use mamos_core::Result;
use mamos_core::auth::Binding;
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener, MAX_FRAME_BYTES};

use crate::conformance::Pair;
use crate::memory;

/// What a transport does wrong. It says that it is reliable all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenTransport {
    /// Changes the last byte of every seventh frame.
    CorruptsAByte,
    /// Loses every thousandth frame.
    LosesSilently,
    /// Sends every hundredth frame twice.
    Duplicates,
    /// Sends every hundredth frame after the next one.
    Reorders,
    /// Takes whatever is sent, however slow the other side is.
    BuffersWithoutBound,
    /// Takes a frame off the queue and waits before it gives it.
    LosesWhenReceiveIsDropped,
    /// Does nothing when it is closed.
    IgnoresClose,
    /// Cuts frames off after 64 KiB.
    TruncatesLargeFrames,
    /// Sends text as binary.
    ForgetsTheEncoding,
    /// Has a limit and does not mind it.
    TakesAnySize,
    /// Waits before it hands over a connection that it has accepted.
    LosesWhenAcceptIsDropped,
    /// Says at one end only that it is reliable.
    DisagreesWithItself,
}

impl BrokenTransport {
    /// A listener and a connector that do it wrong.
    pub fn pair(self) -> Pair {
        let capacity = match self {
            Self::BuffersWithoutBound => usize::MAX,
            _ => memory::DEFAULT_CAPACITY,
        };
        let (listener, connector) = memory::pair_with_capacity(capacity);
        let pair =
            Pair::new(Breaking { inner: listener, how: self }, Breaking { inner: connector, how: self });
        match self {
            Self::TakesAnySize => pair.with_max_frame_bytes(100_000),
            _ => pair,
        }
    }
}

#[derive(Debug)]
struct Breaking<P> {
    inner: P,
    how: BrokenTransport,
}

#[async_trait]
impl<L: Listener> Listener for Breaking<L> {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        let inner = self.inner.accept().await?;
        if self.how == BrokenTransport::LosesWhenAcceptIsDropped {
            tokio::task::yield_now().await;
        }
        let is_reliable = self.how != BrokenTransport::DisagreesWithItself;
        Ok(Arc::new(BreakingConnection::new(inner, self.how, is_reliable)))
    }

    fn describe(&self) -> String {
        "broken".to_owned()
    }
}

#[async_trait]
impl<C: Connector> Connector for Breaking<C> {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        Ok(Arc::new(BreakingConnection::new(self.inner.connect().await?, self.how, true)))
    }

    fn describe(&self) -> String {
        "broken".to_owned()
    }
}

#[derive(Debug)]
struct BreakingConnection {
    inner: Arc<dyn Connection>,
    how: BrokenTransport,
    is_reliable: bool,
    sent: AtomicU64,
    held_back: Mutex<Option<Frame>>,
}

impl BreakingConnection {
    fn new(inner: Arc<dyn Connection>, how: BrokenTransport, is_reliable: bool) -> Self {
        Self { inner, how, is_reliable, sent: AtomicU64::new(0), held_back: Mutex::new(None) }
    }

    fn hold_back(&self, frame: Option<Frame>) -> Option<Frame> {
        std::mem::replace(&mut *self.held_back.lock().unwrap_or_else(PoisonError::into_inner), frame)
    }
}

#[async_trait]
impl Connection for BreakingConnection {
    async fn send(&self, frame: Frame) -> Result<()> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let (encoding, bytes) = frame.into_bytes(Encoding::Binary, MAX_FRAME_BYTES)?;
        let made = |bytes| match encoding {
            Encoding::Binary => Frame::binary(bytes),
            Encoding::Text => Frame::text(bytes),
        };
        match self.how {
            BrokenTransport::CorruptsAByte if number.is_multiple_of(7) && !bytes.is_empty() => {
                let mut bytes = BytesMut::from(bytes);
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                self.inner.send(made(bytes.freeze())).await
            }
            BrokenTransport::LosesSilently if number.is_multiple_of(1000) => Ok(()),
            BrokenTransport::Duplicates if number.is_multiple_of(100) => {
                self.inner.send(made(bytes.clone())).await?;
                self.inner.send(made(bytes)).await
            }
            BrokenTransport::Reorders if number.is_multiple_of(100) => {
                self.hold_back(Some(made(bytes)));
                Ok(())
            }
            BrokenTransport::Reorders => {
                self.inner.send(made(bytes)).await?;
                match self.hold_back(None) {
                    Some(late) => self.inner.send(late).await,
                    None => Ok(()),
                }
            }
            BrokenTransport::TruncatesLargeFrames => {
                let kept = bytes.len().min(64 * 1024);
                self.inner.send(made(bytes.slice(..kept))).await
            }
            BrokenTransport::ForgetsTheEncoding => self.inner.send(Frame::binary(bytes)).await,
            _ => self.inner.send(made(bytes)).await,
        }
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        let frame = self.inner.receive().await?;
        if self.how == BrokenTransport::LosesWhenReceiveIsDropped {
            tokio::task::yield_now().await;
        }
        Ok(frame)
    }

    async fn close(&self) {
        if self.how != BrokenTransport::IgnoresClose {
            self.inner.close().await;
        }
    }

    fn is_reliable(&self) -> bool {
        self.is_reliable
    }

    fn binding(&self) -> Option<Binding> {
        self.inner.binding()
    }

    fn peer(&self) -> String {
        self.inner.peer()
    }
}
