//! What a hostile or broken peer can do to a socket: end its own connection, and nothing else.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener};
use mamos_transport::socket::{FrameConnection, TcpFrameConnector, TcpFrameListener};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A listener, a well-behaved connection, and one whose peer is a bare socket.
struct Scene {
    good: (Arc<dyn Connection>, Arc<dyn Connection>),
    victim: Arc<dyn Connection>,
    hostile: TcpStream,
}

async fn scene() -> Scene {
    let listener = TcpFrameListener::bind("127.0.0.1:0").await.unwrap().with_max_frame_bytes(1000);
    let connector = TcpFrameConnector::new(listener.local_addr().to_string());
    let good = (connector.connect().await.unwrap(), listener.accept().await.unwrap());
    let hostile = TcpStream::connect(listener.local_addr()).await.unwrap();
    Scene { good, victim: listener.accept().await.unwrap(), hostile }
}

/// The bytes end the hostile connection with this kind of error, and the other one goes on.
async fn ends_with(bytes: &[u8], is_cut_after: bool, kind: ErrorKind) -> String {
    let mut scene = scene().await;
    scene.hostile.write_all(bytes).await.unwrap();
    if is_cut_after {
        scene.hostile.shutdown().await.unwrap();
    }
    let error = scene.victim.receive().await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(scene.victim.receive().await.map_or(true, |frame| frame.is_none()), "it stays ended");
    assert!(scene.victim.send(Frame::text("{}")).await.is_err());
    // The peer is told as well: its socket ends.
    let read = scene.hostile.read(&mut [0; 16]).await;
    assert!(read.map_or(true, |count| count == 0));
    scene.good.0.send(Frame::text("{}")).await.unwrap();
    assert!(scene.good.1.receive().await.unwrap().is_some());
    error.to_string()
}

#[tokio::test]
async fn garbage_ends_only_its_own_connection() {
    let why = ends_with(b"GET / HTTP/1.1\r\n\r\n", false, ErrorKind::Corrupt).await;
    assert!(why.contains("is the other side a MAMOS?"), "{why}");
}

#[tokio::test]
async fn a_huge_length_is_refused_before_its_bytes_come() {
    let why = ends_with(b"\0\xff\xff\xff\xff", false, ErrorKind::LimitExceeded).await;
    assert!(why.contains("4294967295 bytes is over the limit of 1000"), "{why}");
}

#[tokio::test]
async fn one_byte_over_the_limit_is_refused() {
    ends_with(b"\0\0\0\x03\xe9", false, ErrorKind::LimitExceeded).await;
}

#[tokio::test]
async fn a_cut_in_the_header_is_an_error() {
    ends_with(b"\x01\0\0", true, ErrorKind::Unavailable).await;
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_frame_is_an_error() {
    let why = ends_with(b"\x01\0\0\0\x05{\"a", true, ErrorKind::Unavailable).await;
    assert!(why.contains("in the middle of a frame"), "{why}");
}

#[tokio::test]
async fn text_that_is_not_utf8_is_an_error() {
    ends_with(b"\x01\0\0\0\x02\xc3\x28", false, ErrorKind::Corrupt).await;
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_still_comes_and_holds_up_nobody() {
    let mut scene = scene().await;
    let victim = scene.victim.clone();
    let waiting = tokio::spawn(async move { victim.receive().await.unwrap().unwrap() });
    for byte in b"\x01\0\0\0\x02{}" {
        assert!(!waiting.is_finished());
        scene.hostile.write_all(&[*byte]).await.unwrap();
        scene.hostile.flush().await.unwrap();
        scene.good.0.send(Frame::text("{}")).await.unwrap();
        assert!(scene.good.1.receive().await.unwrap().is_some());
    }
    let (encoding, bytes) = waiting.await.unwrap().into_bytes(Encoding::Binary, 10).unwrap();
    assert_eq!((encoding, &bytes[..]), (Encoding::Text, &b"{}"[..]));
}

/// A reader that gives what it has, and notes the largest room that it was offered.
struct Watched {
    bytes: Vec<u8>,
    largest: Arc<std::sync::atomic::AtomicUsize>,
}

impl tokio::io::AsyncRead for Watched {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.largest.fetch_max(buffer.remaining(), std::sync::atomic::Ordering::Relaxed);
        let count = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes.drain(..count).collect::<Vec<_>>());
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_announced_length_costs_nothing_until_its_bytes_come() {
    let largest = Arc::default();
    let announced = 1 << 30;
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(announced as u32).to_be_bytes());
    bytes.extend_from_slice(b"only this");
    let watched = Watched { bytes, largest: Arc::clone(&largest) };
    let connection = FrameConnection::new(watched, tokio::io::sink(), announced, "watched".to_owned());
    assert_eq!(connection.receive().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let largest = largest.load(std::sync::atomic::Ordering::Relaxed);
    assert!((9..1 << 20).contains(&largest), "room was made for {largest} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Random bytes in random pieces: frames within the limit, then one clear end. Never a panic or a hang.
    #[test]
    fn random_streams_end_clearly(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                Just(b"\0\0\0\0\x03abc".to_vec()),
                Just(b"\x01\0\0\0\x02{}".to_vec()),
            ],
            0..12,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (victim, mut hostile) = tokio::io::duplex(16);
            let (reader, writer) = tokio::io::split(victim);
            let connection = FrameConnection::new(reader, writer, 64, "random".to_owned());
            let writing = async {
                for piece in pieces {
                    // The victim may have left already.
                    if hostile.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                drop(hostile);
            };
            let reading = async {
                loop {
                    match connection.receive().await {
                        Ok(Some(frame)) => assert!(frame.into_bytes(Encoding::Binary, 64).is_ok()),
                        Ok(None) => break,
                        Err(error) => {
                            let kind = error.kind();
                            assert!(matches!(
                                kind,
                                ErrorKind::Corrupt | ErrorKind::LimitExceeded | ErrorKind::Unavailable
                            ), "{error}");
                            break;
                        }
                    }
                }
                connection.close().await;
            };
            tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(writing, reading) }).await.unwrap();
        });
    }
}
