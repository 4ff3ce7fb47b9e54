//! The server, and who tries to use it up.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mamos_core::ErrorKind;
use mamos_http::{Server, ServerBuilder, Tls};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::scene::{Client, LIMIT, LOOPBACK, Scene, Served, fetch};

/// Short enough for a test, long enough for a busy machine.
const SHORT: Duration = Duration::from_millis(300);

async fn serve(router: Router, settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Served {
    let server = settings(Server::builder(LOOPBACK)).bind().await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        server
            .run(router, async {
                let _ = stopped.await;
            })
            .await;
    });
    Served { address, stop, running }
}

/// Sends a byte at a time until the peer has had enough, and gives how long that took.
async fn dribble(stream: TcpStream, byte: u8) -> (Duration, Vec<u8>) {
    let began = Instant::now();
    let (mut reads, mut writes) = stream.into_split();
    let dribbling = tokio::spawn(async move {
        while writes.write_all(&[byte]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(LIMIT, reads.read_to_end(&mut answer)).await;
    dribbling.abort();
    assert!(ended.is_ok(), "it was never cut off");
    (began.elapsed(), answer)
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off() {
    let served = serve(Router::new(), |server| server.header_timeout(SHORT)).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    let (took, _) = dribble(stream, b'a').await;
    assert!(took >= SHORT && took < LIMIT / 2, "{took:?}");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_cut_off() {
    let router = Router::new().route("/", post(async |_: Bytes| "read"));
    let served = serve(router, |server| server.body_timeout(SHORT)).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\nab";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    assert!(read.is_ok(), "it was never cut off");
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn a_head_of_a_million_bytes_is_refused_and_the_connection_closed() {
    let served = serve(Router::new().route("/", get(async || "fine")), |server| server).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(1_000_000));
    // Fails if the server has closed the connection already.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("it is closed");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = "a: b\r\n".repeat(101);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_cut_off() {
    let (dropped, gone) = oneshot::channel::<()>();
    let held = Arc::new(Mutex::new(Some(dropped)));
    let endless = get(async move || {
        // Dropped with the body: nothing else holds it then.
        let held = held.lock().unwrap().take();
        let chunks = stream::repeat_with(move || {
            let _ = &held;
            Ok::<_, Infallible>(Bytes::from_static(&[0; 65536]))
        });
        Body::from_stream(chunks)
    });
    let served = serve(Router::new().route("/", endless), |server| server.write_timeout(SHORT)).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(tokio::time::timeout(LIMIT, gone).await.expect("it is dropped").is_err());
}

#[tokio::test]
async fn plain_text_is_for_this_machine_only_unless_allowed() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let error = Server::builder(everywhere).bind().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("plain text"), "{error}");
    assert!(Server::builder("[::ffff:127.0.0.1]:0".parse().unwrap()).bind().await.is_ok());
    assert!(Server::builder(everywhere).allow_plain_text().bind().await.is_ok());
    let taken = Server::builder(LOOPBACK).bind().await.unwrap();
    let error = Server::builder(taken.address()).bind().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// A certificate with its key, in files of that directory.
fn certify(directory: &std::path::Path) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    pair.cert.der().clone()
}

/// Shakes hands with a server that must show one of these certificates, and gives which.
async fn shake(served: &Served, trusted: &[CertificateDer<'static>]) -> CertificateDer<'static> {
    let mut roots = rustls::RootCertStore::empty();
    trusted.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(served.address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    session.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_renewed_certificate_needs_no_restart_and_a_broken_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let first = certify(directory.path());
    let tls = Tls::from_files(directory.path().join("cert.pem"), directory.path().join("key.pem")).unwrap();
    let server = Server::builder(LOOPBACK).tls(tls).bind().await.unwrap();
    let (address, tls) = (server.address(), Arc::clone(server.tls().unwrap()));
    let (stop, stopped) = oneshot::channel::<()>();
    let router = Router::new().route("/livez", get(async || "alive"));
    let running = tokio::spawn(server.run(router, async {
        let _ = stopped.await;
    }));
    let served = Served { address, stop, running };
    assert_eq!(shake(&served, std::slice::from_ref(&first)).await, first);
    let second = certify(directory.path());
    let both = [first.clone(), second.clone()];
    assert_eq!(shake(&served, &both).await, first, "nobody asked for the new one yet");
    tls.reload().unwrap();
    assert_eq!(shake(&served, &both).await, second);
    // The certificate of one, the key of another.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.path().join("key.pem"), other.signing_key.serialize_pem()).unwrap();
    assert_eq!(tls.reload().unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(shake(&served, &both).await, second);
}

#[tokio::test]
async fn older_tls_is_refused_and_a_handshake_that_does_not_come_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path());
    let tls = Tls::from_files(directory.path().join("cert.pem"), directory.path().join("key.pem")).unwrap();
    let served = serve(Router::new(), |server| server.tls(tls).handshake_timeout(SHORT)).await;
    // The hello of a client of TLS 1.2 (RFC 5246, 7.4.1.2): it names no newer version.
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x2f, 0xc0, 0x2b, 1, 0]);
    // secp256r1, and ECDSA and RSA-PSS with SHA-256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    // A fatal alert: protocol_version (RFC 8446, 6.2).
    assert_eq!(answer[..1], [21], "{answer:?}");
    assert_eq!(answer[5..], [2, 70], "{answer:?}");
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(LIMIT, silent.read_to_end(&mut answer)).await;
    assert!(closed.is_ok() && answer.is_empty());
}

#[tokio::test]
async fn a_shutdown_ends_streams_in_words_and_does_not_wait_for_them() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server.shutdown_timeout(LIMIT)).await;
    let mut events = Client::open(served.address, "/api/v1/events", "ann", None).await;
    let job = scene.enqueue("a").await;
    let path = format!("/api/v1/jobs/{job}/log/follow");
    let mut log = Client::open(served.address, &path, "ann", None).await;
    let mut request = format!("ws://{}/api/v1/events/ws", served.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", "Bearer ann".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    events.expect("job_enqueued").await;
    let began = Instant::now();
    served.stop.send(()).unwrap();
    for stream in [&mut events, &mut log] {
        assert_eq!(stream.expect("end").await.data["reason"], "shutdown");
        assert!(stream.next().await.is_none());
    }
    let mut said = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        said.push(message);
    }
    let end =
        said.iter().rev().find_map(|message| message.to_text().ok().filter(|text| text.contains("end")));
    assert!(end.is_some_and(|end| end.contains("shutdown")), "{said:?}");
    assert!(
        matches!(said.last(), Some(Message::Close(Some(frame))) if u16::from(frame.code) == 1001),
        "{said:?}"
    );
    drop((events, log));
    tokio::time::timeout(LIMIT, served.running).await.expect("it ends").unwrap();
    assert!(began.elapsed() < LIMIT / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_at_the_limit() {
    let router = Router::new().route("/", get(async || std::future::pending::<()>().await));
    let served = serve(router, |server| server.shutdown_timeout(SHORT)).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    // Under way: the server has read it once a second connection was answered.
    fetch(format!("http://{}/x", served.address)).await.unwrap();
    served.stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, served.running).await.expect("it ends").unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("it is cut");
    assert!(answer.is_empty());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let router = Router::new().route("/", get(async || "fine"));
    let served = serve(router, |server| server.max_connections(1)).await;
    let first = TcpStream::connect(served.address).await.unwrap();
    let mut second = TcpStream::connect(served.address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    let waits = tokio::time::timeout(SHORT, second.read_exact(&mut answer)).await;
    assert!(waits.is_err(), "it was served beside the first");
    drop(first);
    tokio::time::timeout(LIMIT, second.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}
