//! A transport of one's own, over Tokio's channels. `docs/writing-a-transport.md` walks through it.

#![allow(unreachable_pub, reason = "in a crate of its own these would be reachable")]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener, MAX_FRAME_BYTES};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, mpsc, watch};

// The transport begins here.
type Parcel = (Encoding, Bytes);

/// The orchestrator's end.
#[derive(Debug)]
pub struct ChannelListener(Mutex<mpsc::Receiver<ChannelConnection>>);
/// The agent's end.
#[derive(Debug)]
pub struct ChannelConnector(mpsc::Sender<ChannelConnection>);

/// A listener and its connector.
pub fn pair() -> (ChannelListener, ChannelConnector) {
    let (sender, receiver) = mpsc::channel(16);
    (ChannelListener(Mutex::new(receiver)), ChannelConnector(sender))
}

#[derive(Debug)]
struct ChannelConnection {
    outgoing: mpsc::Sender<Parcel>,
    incoming: Mutex<mpsc::Receiver<Parcel>>,
    is_closed: Arc<watch::Sender<bool>>,
}

#[async_trait]
impl Listener for ChannelListener {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        let gone = || Error::new(ErrorKind::Closed, "channel.accept", "every connector was dropped");
        let connection = self.0.lock().await.recv().await.ok_or_else(gone)?;
        Ok(Arc::new(connection))
    }

    fn describe(&self) -> String {
        "channel".to_owned()
    }
}

#[async_trait]
impl Connector for ChannelConnector {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        let (up, up_there) = mpsc::channel(16);
        let (down, down_here) = mpsc::channel(16);
        let is_closed = Arc::new(watch::Sender::new(false));
        let end = |outgoing, incoming| ChannelConnection {
            outgoing,
            incoming: Mutex::new(incoming),
            is_closed: is_closed.clone(),
        };
        let gone = |_| Error::new(ErrorKind::Unavailable, "channel.connect", "the listener was dropped");
        self.0.send(end(down, up_there)).await.map_err(gone)?;
        Ok(Arc::new(end(up, down_here)))
    }

    fn describe(&self) -> String {
        "channel".to_owned()
    }
}

#[async_trait]
impl Connection for ChannelConnection {
    async fn send(&self, frame: Frame) -> Result<()> {
        let closed = || Error::new(ErrorKind::Closed, "channel.send", "the connection is closed");
        let parcel = frame.into_bytes(Encoding::Binary, MAX_FRAME_BYTES)?;
        let mut is_closed = self.is_closed.subscribe();
        tokio::select! {
            biased;
            _ = is_closed.wait_for(|is_closed| *is_closed) => Err(closed()),
            sent = self.outgoing.send(parcel) => sent.map_err(|_| closed()),
        }
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        let mut is_closed = self.is_closed.subscribe();
        let mut incoming = self.incoming.lock().await;
        let parcel = tokio::select! {
            biased;
            parcel = incoming.recv() => parcel,
            _ = is_closed.wait_for(|is_closed| *is_closed) => None,
        };
        Ok(parcel.map(|(encoding, bytes)| match encoding {
            Encoding::Binary => Frame::binary(bytes),
            Encoding::Text => Frame::text(bytes),
        }))
    }

    async fn close(&self) {
        self.is_closed.send_replace(true);
    }

    fn is_reliable(&self) -> bool {
        true
    }

    fn peer(&self) -> String {
        "channel".to_owned()
    }
}
// The transport ends here.

#[tokio::main(flavor = "current_thread")]
#[cfg_attr(test, allow(dead_code, reason = "the tests of the crate take only the transport from this file"))]
async fn main() -> Result<()> {
    let (listener, connector) = pair();
    let (agent, orchestrator) = (connector.connect().await?, listener.accept().await?);
    agent.send(Frame::text("{\"messages\":[\"bye\"]}")).await?;
    agent.close().await;
    while let Some(frame) = orchestrator.receive().await? {
        assert!(frame.into_from_agent().is_ok());
    }
    Ok(())
}
