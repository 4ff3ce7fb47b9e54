//! What a hostile or broken agent can do to the endpoint: end its own connection, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::transport::{Connection, Encoding, Frame, Listener};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raw::{BINARY, CLOSE, CONTINUE, FINAL, PING, PONG, TEXT, UPGRADE, ask, masked, next};
use crate::scene::{Ends, Serving, connector, plain};

const LIMIT: usize = 1000;

/// A well-behaved connection, and one whose peer is a bare socket.
struct Stage {
    good: Ends,
    victim: Arc<dyn Connection>,
    hostile: TcpStream,
    _guard: (mamos_http::AgentListener, Serving),
}

async fn stage() -> Stage {
    let scene = plain(LIMIT).await;
    let good = scene.connected(&connector(scene.address).build().unwrap()).await;
    let (hostile, _) = ask(scene.address, "GET", UPGRADE).await;
    let victim = scene.listener.accept().await.unwrap();
    Stage { good, victim, hostile, _guard: (scene.listener, scene.guard) }
}

impl Stage {
    async fn the_others_go_on(&self) {
        self.good.0.send(Frame::text("{}")).await.unwrap();
        assert!(self.good.1.receive().await.unwrap().is_some());
    }

    async fn receives(&self) -> (Encoding, Vec<u8>) {
        let frame = self.victim.receive().await.unwrap().unwrap();
        let (encoding, bytes) = frame.into_bytes(Encoding::Binary, LIMIT).unwrap();
        (encoding, bytes.to_vec())
    }
}

/// The bytes end the hostile connection with this kind of error, tell it this code, and the other one goes on.
async fn ends_with(bytes: &[u8], kind: ErrorKind, code: u16) {
    let mut stage = stage().await;
    stage.hostile.write_all(bytes).await.unwrap();
    let received = timeout(Duration::from_secs(10), stage.victim.receive()).await.unwrap();
    let error = received.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(stage.victim.receive().await.unwrap().is_none(), "it stays ended");
    assert_eq!(stage.victim.send(Frame::text("{}")).await.unwrap_err().kind(), ErrorKind::Closed);
    let (first, payload) = next(&mut stage.hostile).await;
    assert_eq!((first, &payload[..2]), (FINAL | CLOSE, &code.to_be_bytes()[..]));
    assert_eq!(stage.hostile.read(&mut [0; 16]).await.unwrap_or(0), 0, "its socket ends");
    stage.the_others_go_on().await;
}

#[tokio::test]
async fn garbage_ends_only_its_own_connection() {
    ends_with(b"GET / HTTP/1.1\r\n\r\n", ErrorKind::Corrupt, 1002).await;
}

#[tokio::test]
async fn an_unmasked_frame_is_refused() {
    ends_with(b"\x82\x02{}", ErrorKind::Corrupt, 1002).await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_refused() {
    ends_with(&masked(FINAL | TEXT, b"\xc3\x28"), ErrorKind::Corrupt, 1007).await;
}

#[tokio::test]
async fn a_huge_length_is_refused_before_its_bytes_come() {
    ends_with(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04", ErrorKind::LimitExceeded, 1009)
        .await;
}

#[tokio::test]
async fn one_byte_over_the_limit_is_refused() {
    ends_with(&masked(FINAL | BINARY, &[0; LIMIT + 1]), ErrorKind::LimitExceeded, 1009).await;
}

#[tokio::test]
async fn a_flood_of_pieces_is_refused_once_it_is_over_the_limit() {
    let mut flood = masked(BINARY, &[0; 10]);
    for _ in 0..LIMIT / 10 {
        flood.extend(masked(CONTINUE, &[0; 10]));
    }
    ends_with(&flood, ErrorKind::LimitExceeded, 1009).await;
}

#[tokio::test]
async fn what_rfc_6455_forbids_is_refused() {
    for forbidden in [
        masked(FINAL | CONTINUE, b"x"),
        masked(FINAL | 0x40 | BINARY, b"x"),
        masked(FINAL | 0x03, b"x"),
        masked(FINAL | 0x0b, b"x"),
        masked(PING, b"x"),
        masked(FINAL | PING, &[0; 126]),
        masked(FINAL | CLOSE, b"x"),
        [masked(BINARY, b"x"), masked(FINAL | BINARY, b"x")].concat(),
    ] {
        ends_with(&forbidden, ErrorKind::Corrupt, 1002).await;
    }
}

#[tokio::test]
async fn a_cut_is_an_error_wherever_it_is() {
    let whole = masked(FINAL | BINARY, b"abc");
    for length in 0..whole.len() {
        let mut stage = stage().await;
        stage.hostile.write_all(&whole[..length]).await.unwrap();
        stage.hostile.shutdown().await.unwrap();
        assert_eq!(
            stage.victim.receive().await.unwrap_err().kind(),
            ErrorKind::Unavailable,
            "after {length}"
        );
        assert_eq!(stage.victim.send(Frame::text("{}")).await.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test]
async fn a_close_frame_is_answered_and_is_an_orderly_end() {
    for farewell in [&b""[..], b"\x03\xe8", b"\x03\xe9going"] {
        let mut stage = stage().await;
        stage.hostile.write_all(&masked(FINAL | BINARY, b"last")).await.unwrap();
        stage.hostile.write_all(&masked(FINAL | CLOSE, farewell)).await.unwrap();
        assert_eq!(stage.receives().await, (Encoding::Binary, b"last".to_vec()));
        assert!(stage.victim.receive().await.unwrap().is_none());
        assert_eq!(next(&mut stage.hostile).await, (FINAL | CLOSE, farewell.to_vec()));
        assert_eq!(stage.hostile.read(&mut [0; 16]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn pings_are_answered_in_the_middle_of_a_message_too() {
    let mut stage = stage().await;
    let bytes =
        [masked(TEXT, b"{"), masked(FINAL | PING, b"there?"), masked(FINAL | CONTINUE, b"}")].concat();
    stage.hostile.write_all(&bytes).await.unwrap();
    assert_eq!(stage.receives().await, (Encoding::Text, b"{}".to_vec()));
    assert_eq!(next(&mut stage.hostile).await, (FINAL | PONG, b"there?".to_vec()));
}

#[tokio::test]
async fn pings_whose_answers_nobody_reads_cost_no_memory_and_stop_nothing() {
    let mut stage = stage().await;
    let pings = masked(FINAL | PING, &[7; 125]).repeat(1000);
    let flooding = async {
        // Answered in full they would fill every buffer of the system, and 13 MB of ours.
        for _ in 0..200 {
            stage.hostile.write_all(&pings).await.unwrap();
        }
        stage.hostile.write_all(&masked(FINAL | BINARY, b"after")).await.unwrap();
    };
    let (received, ()) = tokio::join!(stage.victim.receive(), flooding);
    assert!(received.unwrap().is_some());
    let mut answers = 0;
    let mut stage = stage;
    stage.victim.close().await;
    drop(stage.victim);
    let mut room = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stage.hostile.read(&mut room).await {
        answers += count;
    }
    assert!(answers < 200 * pings.len() / 2, "{answers} bytes of answers were kept");
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_still_comes_and_holds_up_nobody() {
    let mut stage = stage().await;
    let victim = stage.victim.clone();
    let waiting = tokio::spawn(async move { victim.receive().await.unwrap().unwrap() });
    for byte in masked(FINAL | TEXT, b"{}") {
        assert!(!waiting.is_finished());
        stage.hostile.write_all(&[byte]).await.unwrap();
        stage.the_others_go_on().await;
    }
    let (encoding, bytes) = waiting.await.unwrap().into_bytes(Encoding::Binary, 10).unwrap();
    assert_eq!((encoding, &bytes[..]), (Encoding::Text, &b"{}"[..]));
}

#[tokio::test]
async fn an_agent_that_says_nothing_holds_up_nobody_and_can_be_closed() {
    let stage = stage().await;
    let victim = stage.victim.clone();
    let waiting = tokio::spawn(async move { victim.receive().await });
    stage.the_others_go_on().await;
    assert!(!waiting.is_finished());
    timeout(Duration::from_secs(5), stage.victim.close()).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is_none());
    stage.the_others_go_on().await;
}

#[tokio::test]
async fn an_agent_that_reads_nothing_stops_the_sender_until_it_is_closed() {
    let scene = plain(1 << 20).await;
    let (_hostile, _) = ask(scene.address, "GET", UPGRADE).await;
    let victim = scene.listener.accept().await.unwrap();
    let mut taken = 0;
    let blocked = loop {
        let sending = victim.clone();
        let mut sending = tokio::spawn(async move { sending.send(Frame::binary(vec![0; 1 << 20])).await });
        match timeout(Duration::from_millis(500), &mut sending).await {
            Ok(sent) => sent.unwrap().unwrap(),
            Err(_) => break sending,
        }
        taken += 1;
        assert!(taken < 48, "{taken} MiB were taken while nobody read");
    };
    timeout(Duration::from_secs(5), victim.close()).await.unwrap();
    assert_eq!(blocked.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn what_is_no_http_at_all_does_not_reach_the_listener() {
    let scene = plain(LIMIT).await;
    let mut hostile = TcpStream::connect(scene.address).await.unwrap();
    hostile.write_all(&[0x16, 3, 1, 0, 0xff, 0, 0, 0, 13, 10, 13, 10]).await.unwrap();
    let mut answer = Vec::new();
    let _ = hostile.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 101"));
    scene.connected(&connector(scene.address).build().unwrap()).await;
}

/// What may come after an upgrade.
fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(first, payload)| masked(first, &payload)),
        Just(masked(FINAL | BINARY, b"abc")),
        Just(masked(TEXT, b"{")),
        Just(masked(FINAL | CONTINUE, b"}")),
        Just(masked(FINAL | PING, b"?")),
    ];
    proptest::collection::vec(piece, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Random pieces: frames within the limit, then one clear end. Never a panic or a hang.
    #[test]
    fn random_streams_end_clearly(pieces in pieces()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scene = plain(LIMIT).await;
            let (mut hostile, _) = ask(scene.address, "GET", UPGRADE).await;
            let victim = scene.listener.accept().await.unwrap();
            let writing = async {
                for piece in pieces {
                    // The victim may have left already.
                    if hostile.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                let _ = hostile.shutdown().await;
            };
            let reading = async {
                loop {
                    match victim.receive().await {
                        Ok(Some(frame)) => assert!(frame.into_bytes(Encoding::Binary, LIMIT).is_ok()),
                        Ok(None) => break,
                        Err(error) => {
                            assert!(matches!(
                                error.kind(),
                                ErrorKind::Corrupt | ErrorKind::LimitExceeded | ErrorKind::Unavailable
                                    | ErrorKind::Closed
                            ), "{error}");
                            break;
                        }
                    }
                }
                victim.close().await;
            };
            timeout(Duration::from_secs(10), async { tokio::join!(writing, reading) }).await.unwrap();
        });
    }
}
