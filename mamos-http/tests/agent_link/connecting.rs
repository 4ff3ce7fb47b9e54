//! What an agent is told when there is no link to be had, and what both ends agree on when there is.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use mamos_core::ErrorKind;
use mamos_core::protocol::{Envelope, ToAgent};
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener};
use mamos_http::AGENT_LINK_PATH;
use mamos_transport::WebSocketConnector;
use mamos_transport::websocket::DEFAULT_PATH;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::scene::{connector, plain, serve};

#[tokio::test]
async fn an_answer_that_is_no_link_says_what_it_means() {
    for (status, kind, why) in [
        (StatusCode::UNAUTHORIZED, ErrorKind::Unavailable, "lets nobody in"),
        (StatusCode::FORBIDDEN, ErrorKind::Unavailable, "lets nobody in"),
        (StatusCode::NOT_FOUND, ErrorKind::Unavailable, "no agents' link at this path"),
        (StatusCode::BAD_REQUEST, ErrorKind::Config, "a like version"),
        (StatusCode::TEMPORARY_REDIRECT, ErrorKind::Config, "another address"),
        (StatusCode::OK, ErrorKind::Config, "is it an orchestrator"),
        (StatusCode::TOO_MANY_REQUESTS, ErrorKind::Unavailable, "try again later"),
        (StatusCode::BAD_GATEWAY, ErrorKind::Unavailable, "try again later"),
    ] {
        let (address, _guard) =
            serve(Router::new().route(AGENT_LINK_PATH, get(move || async move { status }))).await;
        let error = connector(address).build().unwrap().connect().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.to_string().contains(why), "{status}: {error}");
        assert!(error.to_string().contains(&format!("ws://{address}{AGENT_LINK_PATH}")), "{error}");
    }
}

#[tokio::test]
async fn whoever_speaks_no_http_is_no_orchestrator() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = connector(socket.local_addr().unwrap()).build().unwrap();
    let stranger = async {
        let (mut stream, _) = socket.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        stream
    };
    let (connected, _stream) = tokio::join!(connector.connect(), stranger);
    let error = connected.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn a_connection_that_is_cut_during_the_upgrade_is_worth_another_try() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = connector(socket.local_addr().unwrap()).build().unwrap();
    let cut = async { drop(socket.accept().await.unwrap()) };
    let (connected, ()) = tokio::join!(connector.connect(), cut);
    let error = connected.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn an_address_without_a_path_finds_the_endpoint() {
    assert_eq!(DEFAULT_PATH, AGENT_LINK_PATH);
    let scene = plain(1000).await;
    let (ours, theirs) = scene.connected(&connector(scene.address).build().unwrap()).await;
    assert_eq!(ours.peer(), format!("ws:{}", scene.address));
    assert!(theirs.peer().starts_with("ws:127.0.0.1:"), "{}", theirs.peer());
    assert!(ours.is_reliable() && theirs.is_reliable());
}

#[test]
fn a_connector_does_not_print_the_query_of_its_address() {
    let connector = WebSocketConnector::builder("ws://localhost/link?key=secret").build().unwrap();
    assert_eq!(connector.describe(), "ws://localhost/link");
    assert_eq!(format!("{connector:?}"), "WebSocketConnector(ws://localhost/link)");
}

async fn encoding_of_next(connection: &dyn Connection) -> Encoding {
    let frame = connection.receive().await.unwrap().unwrap();
    frame.into_bytes(Encoding::Binary, usize::MAX).unwrap().0
}

fn drain() -> Frame {
    Envelope::unnumbered(vec![ToAgent::Drain]).into()
}

#[tokio::test]
async fn an_agent_that_asks_for_text_gets_text_from_the_first_frame() {
    let scene = plain(1000).await;
    for encoding in [Encoding::Text, Encoding::Binary] {
        let connector = connector(scene.address).encoding(encoding).build().unwrap();
        let (ours, theirs) = scene.connected(&connector).await;
        theirs.send(drain()).await.unwrap();
        assert_eq!(encoding_of_next(&*ours).await, encoding);
        // And keeps it, whatever it sends.
        ours.send(Frame::binary("x")).await.unwrap();
        theirs.receive().await.unwrap();
        theirs.send(drain()).await.unwrap();
        assert_eq!(encoding_of_next(&*ours).await, encoding);
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_of_the_other_side_ends_the_link_both_ways() {
    let scene = plain(1000).await;
    // The orchestrator's limit.
    let (ours, theirs) = scene.connected(&connector(scene.address).build().unwrap()).await;
    ours.send(Frame::binary(vec![0; 1001])).await.unwrap();
    assert_eq!(theirs.receive().await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    let told = ours.receive().await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Closed);
    assert!(told.to_string().contains("1009"), "{told}");
    // The agent's.
    let (ours, theirs) =
        scene.connected(&connector(scene.address).max_frame_bytes(10).build().unwrap()).await;
    theirs.send(Frame::binary(vec![0; 11])).await.unwrap();
    assert_eq!(ours.receive().await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    let told = theirs.receive().await.unwrap_err();
    assert!(told.kind() == ErrorKind::Closed && told.to_string().contains("1009"), "{told}");
}

#[tokio::test]
async fn an_endpoint_whose_route_is_gone_closes_its_listener() {
    let (listener, route) = mamos_http::AgentEndpoint::new().split::<()>();
    drop(route);
    assert_eq!(listener.accept().await.unwrap_err().kind(), ErrorKind::Closed);
}
