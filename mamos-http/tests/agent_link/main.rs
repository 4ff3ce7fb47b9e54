//! The agents' WebSocket, both ends: what it promises, whom it trusts, and what it bears.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod certificates;
mod connecting;
mod hostile;
mod hostile_orchestrators;
mod raw;
mod refusals;
mod scene;
mod together;
mod trust;
mod upgrades;

use mamos_core::transport::{Encoding, MAX_FRAME_BYTES};
use mamos_transport::conformance::Pair;
use mamos_transport::transport_conformance;

use certificates::Identity;
use scene::{Scene, connector, plain, tls};

async fn plain_binary() -> Pair {
    let Scene { listener, address, guard } = plain(MAX_FRAME_BYTES).await;
    let connector = connector(address).build().unwrap();
    Pair::new(listener, connector).with_max_frame_bytes(MAX_FRAME_BYTES).keeping(guard)
}

async fn plain_text() -> Pair {
    let Scene { listener, address, guard } = plain(3_000_000).await;
    let connector = connector(address).encoding(Encoding::Text).max_frame_bytes(3_000_000).build().unwrap();
    Pair::new(listener, connector).with_max_frame_bytes(3_000_000).keeping(guard)
}

async fn encrypted(encoding: Encoding) -> Pair {
    let identity = Identity::self_signed();
    let Scene { listener, address, guard } = tls(identity.server(), MAX_FRAME_BYTES).await;
    let connector = scene::encrypted(address).pinned_fingerprint(identity.fingerprint()).encoding(encoding);
    Pair::new(listener, connector.build().unwrap()).with_max_frame_bytes(MAX_FRAME_BYTES).keeping(guard)
}

async fn encrypted_binary() -> Pair {
    encrypted(Encoding::Binary).await
}

async fn encrypted_text() -> Pair {
    encrypted(Encoding::Text).await
}

mod kit_plain_binary {
    super::transport_conformance!(super::plain_binary);
}
mod kit_plain_text {
    super::transport_conformance!(super::plain_text);
}
mod kit_encrypted_binary {
    super::transport_conformance!(super::encrypted_binary);
}
mod kit_encrypted_text {
    super::transport_conformance!(super::encrypted_text);
}

#[test]
fn both_ends_have_the_same_connection() {
    let here = include_str!("../../src/link/connection.rs");
    let there = include_str!("../../../mamos-transport/src/websocket/connection.rs");
    assert!(here == there, "link/connection.rs and websocket/connection.rs differ; change both");
}
