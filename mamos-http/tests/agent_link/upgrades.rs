//! What may be asked for, and the answers.

use mamos_core::protocol::{Envelope, ToAgent};
use mamos_core::transport::{Connector, Frame, Listener};
use mamos_http::AgentEndpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{ACCEPT, BINARY, FINAL, TEXT, UPGRADE, ask, masked, next};
use crate::scene::{Scene, connector, plain, plain_endpoint};

async fn is_refused(scene: &Scene, method: &str, headers: &str, status: &str, code: &str) {
    let (mut stream, head) = ask(scene.address, method, headers).await;
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {head}");
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    if !code.is_empty() {
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"].to_string(), status, "{problem}");
    }
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_told_what_to_ask_for() {
    let scene = plain(1000).await;
    is_refused(&scene, "GET", "", "426", "upgrade_required").await;
    for missing in [
        "Connection: Upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ] {
        is_refused(&scene, "GET", &UPGRADE.replace(missing, ""), "426", "upgrade_required").await;
    }
    is_refused(&scene, "GET", &UPGRADE.replace("13", "8"), "426", "upgrade_required").await;
    is_refused(&scene, "POST", UPGRADE, "405", "").await;
}

#[tokio::test]
async fn subprotocols_of_which_none_is_ours_are_refused() {
    let scene = plain(1000).await;
    for offered in ["mqtt", "mamos.v2", "mamos.v1.json.x, chat", ""] {
        let headers = format!("{UPGRADE}Sec-WebSocket-Protocol: {offered}\r\n");
        is_refused(&scene, "GET", &headers, "400", "unknown_subprotocol").await;
    }
}

#[tokio::test]
async fn the_first_subprotocol_that_is_ours_is_chosen() {
    let scene = plain(1000).await;
    for (offered, chosen) in [
        ("mamos.v1", "mamos.v1"),
        ("mamos.v1.json", "mamos.v1.json"),
        ("chat, mamos.v1.json, mamos.v1", "mamos.v1.json"),
        ("mamos.v1 ,mamos.v1.json", "mamos.v1"),
        ("chat\r\nSec-WebSocket-Protocol: mamos.v1", "mamos.v1"),
    ] {
        let headers = format!("{UPGRADE}Sec-WebSocket-Protocol: {offered}\r\n");
        let (_stream, head) = ask(scene.address, "GET", &headers).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains(ACCEPT), "{head}");
        assert!(head.contains(&format!("sec-websocket-protocol: {chosen}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn without_a_subprotocol_the_first_frame_of_the_agent_decides() {
    for (sent, answered) in [(TEXT, TEXT), (BINARY, BINARY)] {
        let scene = plain(1000).await;
        let (mut stream, head) = ask(scene.address, "GET", UPGRADE).await;
        assert!(!head.contains("sec-websocket-protocol"), "{head}");
        let theirs = scene.listener.accept().await.unwrap();
        let drain = || Frame::from(Envelope::unnumbered(vec![ToAgent::Drain]));
        theirs.send(drain()).await.unwrap();
        assert_eq!(next(&mut stream).await.0, FINAL | BINARY, "before the agent has said anything");
        for first in [sent, TEXT, BINARY] {
            stream.write_all(&masked(FINAL | first, b"{}")).await.unwrap();
            theirs.receive().await.unwrap().unwrap();
            theirs.send(drain()).await.unwrap();
            assert_eq!(next(&mut stream).await.0, FINAL | answered);
        }
    }
}

#[tokio::test]
async fn an_agent_that_finds_no_room_is_asked_to_come_again() {
    let scene = plain_endpoint(AgentEndpoint::new().with_max_waiting(2)).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(ask(scene.address, "GET", UPGRADE).await);
    }
    let (_stream, head) = ask(scene.address, "GET", UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 1\r\n"), "{head}");
    is_refused(&scene, "GET", UPGRADE, "503", "busy").await;
    scene.listener.accept().await.unwrap();
    assert!(ask(scene.address, "GET", UPGRADE).await.1.starts_with("HTTP/1.1 101"));
}

#[tokio::test]
async fn an_endpoint_whose_listener_is_gone_says_so() {
    let Scene { listener, address, guard } = plain(1000).await;
    drop(listener);
    let (_stream, head) = ask(address, "GET", UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 1\r\n"), "{head}");
    drop(guard);
}

#[tokio::test]
async fn an_agent_that_leaves_before_it_is_accepted_holds_up_nobody() {
    let scene = plain(1000).await;
    drop(ask(scene.address, "GET", UPGRADE).await);
    let ours = connector(scene.address).build().unwrap().connect().await.unwrap();
    ours.send(Frame::text("{}")).await.unwrap();
    // The one that left may or may not come out before.
    let mut received = None;
    while received.is_none() {
        let theirs = scene.listener.accept().await.unwrap();
        received = theirs.receive().await.unwrap_or_default();
    }
}
