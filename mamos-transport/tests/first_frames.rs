//! Every built-in transport carries a frame there and back.

use std::sync::Arc;

use mamos_core::transport::{Connector, Encoding, Frame, Listener};
use mamos_transport::memory;
use mamos_transport::socket::{TcpFrameConnector, TcpFrameListener, UnixFrameConnector, UnixFrameListener};

async fn there_and_back(listener: Arc<dyn Listener>, connector: Arc<dyn Connector>) {
    let (ours, theirs) = tokio::join!(connector.connect(), listener.accept());
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    ours.send(Frame::binary(&b"ping"[..])).await.unwrap();
    theirs.send(theirs.receive().await.unwrap().unwrap()).await.unwrap();
    let answer = ours.receive().await.unwrap().unwrap().into_bytes(Encoding::Text, 10).unwrap();
    assert_eq!(answer, (Encoding::Binary, "ping".into()));
    ours.close().await;
    assert!(theirs.receive().await.unwrap().is_none());
}

#[tokio::test]
async fn memory_carries_a_frame_there_and_back() {
    let (listener, connector) = memory::pair();
    there_and_back(Arc::new(listener), Arc::new(connector)).await;
}

#[tokio::test]
async fn tcp_carries_a_frame_there_and_back() {
    let listener = TcpFrameListener::bind("127.0.0.1:0").await.unwrap();
    let connector = TcpFrameConnector::new(listener.local_addr().to_string());
    there_and_back(Arc::new(listener), Arc::new(connector)).await;
}

#[tokio::test]
async fn unix_carries_a_frame_there_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixFrameListener::bind(&path).await.unwrap();
    there_and_back(Arc::new(listener), Arc::new(UnixFrameConnector::new(&path))).await;
    assert!(!path.exists());
}
