//! A peer that is a bare socket.

use std::net::SocketAddr;

use mamos_http::AGENT_LINK_PATH;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The headers of an upgrade.
pub(crate) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// The answer to that key, from RFC 6455, section 1.3.
pub(crate) const ACCEPT: &str = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Asks with these headers, and gives the head of the answer in small letters, except for values.
pub(crate) async fn ask(address: SocketAddr, method: &str, headers: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {AGENT_LINK_PATH} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

/// A piece of a message as an agent sends it, masked.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The first byte and the payload of what an orchestrator sends next, of less than 64 KiB.
pub(crate) async fn next(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.unwrap();
    let length = match stream.read_u8().await.unwrap() {
        126 => usize::from(stream.read_u16().await.unwrap()),
        length => usize::from(length),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    (first, payload)
}

pub(crate) const CONTINUE: u8 = 0x00;
pub(crate) const TEXT: u8 = 0x01;
pub(crate) const BINARY: u8 = 0x02;
pub(crate) const CLOSE: u8 = 0x08;
pub(crate) const PING: u8 = 0x09;
pub(crate) const PONG: u8 = 0x0a;
pub(crate) const FINAL: u8 = 0x80;
