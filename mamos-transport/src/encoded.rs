//! A wrapper that writes every frame down, so that a transport inside a process exercises the codec.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::auth::Binding;
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener, MAX_FRAME_BYTES};

/// How frames are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// As MessagePack.
    Binary,
    /// As JSON.
    Text,
    /// In turns.
    Alternating,
}

/// A listener, or a connector, whose connections send frames as bytes, of [`MAX_FRAME_BYTES`] at most.
#[derive(Debug, Clone)]
pub struct Encoded<P> {
    inner: P,
    writing: Writing,
}

impl<P> Encoded<P> {
    /// Wraps a listener or a connector.
    pub fn new(inner: P, writing: Writing) -> Self {
        Self { inner, writing }
    }
}

/// Wraps one end of a connection.
pub fn connection(inner: Arc<dyn Connection>, writing: Writing) -> Arc<dyn Connection> {
    let is_text_next = AtomicBool::new(writing == Writing::Text);
    Arc::new(EncodedConnection { inner, writing, is_text_next })
}

#[async_trait]
impl<L: Listener> Listener for Encoded<L> {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        Ok(connection(self.inner.accept().await?, self.writing))
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[async_trait]
impl<C: Connector> Connector for Encoded<C> {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        Ok(connection(self.inner.connect().await?, self.writing))
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[derive(Debug)]
struct EncodedConnection {
    inner: Arc<dyn Connection>,
    writing: Writing,
    is_text_next: AtomicBool,
}

#[async_trait]
impl Connection for EncodedConnection {
    async fn send(&self, frame: Frame) -> Result<()> {
        let is_text = match self.writing {
            Writing::Alternating => self.is_text_next.fetch_xor(true, Ordering::Relaxed),
            Writing::Binary | Writing::Text => self.is_text_next.load(Ordering::Relaxed),
        };
        let encoding = if is_text { Encoding::Text } else { Encoding::Binary };
        let frame = match frame.into_bytes(encoding, MAX_FRAME_BYTES)? {
            (Encoding::Binary, bytes) => Frame::binary(bytes),
            (Encoding::Text, bytes) => Frame::text(bytes),
        };
        self.inner.send(frame).await
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        self.inner.receive().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn is_reliable(&self) -> bool {
        self.inner.is_reliable()
    }

    fn binding(&self) -> Option<Binding> {
        self.inner.binding()
    }

    fn peer(&self) -> String {
        self.inner.peer()
    }
}
