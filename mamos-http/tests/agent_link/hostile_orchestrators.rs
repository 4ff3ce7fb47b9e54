//! What a hostile or broken orchestrator can do to an agent: end the connection.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::transport::{Connection, Connector};
use mamos_core::{ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::scene::connector;

/// Connects to a bare socket that answers the upgrade with these headers.
async fn upgraded(answer: impl Fn(&str) -> String) -> (Result<Arc<dyn Connection>>, TcpStream) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = connector(socket.local_addr().unwrap()).max_frame_bytes(1000).build().unwrap();
    let hostile = async {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("Sec-WebSocket-Protocol: mamos.v1\r\n"), "{head}");
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let answer = answer(&derive_accept_key(key.as_bytes()));
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    };
    tokio::join!(connector.connect(), hostile)
}

fn accepted(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: mamos.v1\r\n\r\n"
    )
}

#[tokio::test]
async fn an_answer_that_is_not_to_the_question_is_refused() {
    let no_protocol = |key: &str| accepted(key).replace("Sec-WebSocket-Protocol: mamos.v1\r\n", "");
    let other_protocol = |key: &str| accepted(key).replace("mamos.v1", "chat");
    let other_key = |_: &str| accepted("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    for (connected, _stream) in
        [upgraded(no_protocol).await, upgraded(other_protocol).await, upgraded(other_key).await]
    {
        let error = connected.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_link() {
    for (bytes, kind) in [
        (&b"\x82\x82\x01\x02\x03\x04ab"[..], ErrorKind::Corrupt),
        (b"GET / HTTP/1.1\r\n\r\n", ErrorKind::Corrupt),
        (b"\x81\x02\xc3\x28", ErrorKind::Corrupt),
        (b"\x82\x7e\x03\xe9", ErrorKind::LimitExceeded),
        (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", ErrorKind::LimitExceeded),
        (b"\x88\x02\x03\xf3", ErrorKind::Closed),
    ] {
        let (connected, mut stream) = upgraded(accepted).await;
        let victim = connected.unwrap();
        stream.write_all(bytes).await.unwrap();
        let received = timeout(Duration::from_secs(10), victim.receive()).await.unwrap();
        let error = received.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(victim.receive().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn what_comes_with_the_answer_is_not_lost() {
    // The first piece of a text message, and later its last.
    let (connected, mut stream) = upgraded(|key| accepted(key) + "\u{1}\u{1}{").await;
    stream.write_all(b"\x80\x01}").await.unwrap();
    assert!(connected.unwrap().receive().await.unwrap().is_some());
}
