//! What buses and networks do by themselves: losing, doubling, overtaking, falling silent.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::transport::{Connector, Encoding, Frame, MAX_FRAME_BYTES};
use mamos_transport::bus::MemoryBus;
use mamos_transport::conformance::{Pair, transport};
use mamos_transport::link_over_bus::{LinkOverBusConnector, LinkOverBusListener, LinkSettings};

use super::meddler::{Meddler, is_down, is_up};
use super::{connected, linked, says, settings};

#[tokio::test(start_paused = true)]
async fn the_protocol_delivers_everything_over_a_bad_bus() {
    for seed in 0..10 {
        let (bus, settings) = (Arc::new(Meddler::bad(seed)), settings());
        let settings = LinkSettings { connect_timeout: Duration::from_secs(8), ..settings };
        let listener = LinkOverBusListener::bind(bus.clone(), settings.clone()).await.unwrap();
        let connector = LinkOverBusConnector::new(bus, settings).unwrap();
        let pair = Pair::new(listener, connector.clone());
        let checked = transport::check("a_link_delivers_everything_once_and_in_order", pair).await;
        checked.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        assert!(connector.counts().replayed > 0, "{:?}", connector.counts());
        assert_eq!(connector.counts().forged, 0, "{:?}", connector.counts());
    }
}

#[tokio::test]
async fn the_largest_frame_arrives_whole_in_messages_of_any_size() {
    for max_message_bytes in [64 * 1024, 1024 * 1024, LinkSettings::default().max_message_bytes] {
        let settings = LinkSettings { max_message_bytes, ..settings() };
        let linked = linked(Arc::new(MemoryBus::new()), settings).await;
        let bytes: Vec<u8> = (0..MAX_FRAME_BYTES).map(|at| (at % 251) as u8).collect();
        linked.agent.send(Frame::binary(bytes.clone())).await.unwrap();
        let frame = linked.orchestrator.receive().await.unwrap().unwrap();
        let (encoding, received) = frame.into_bytes(Encoding::Text, usize::MAX).unwrap();
        assert!(encoding == Encoding::Binary && received == bytes, "in messages of {max_message_bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_lives() {
    let linked = linked(Arc::new(MemoryBus::new()), settings()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    says(&linked.agent, &linked.orchestrator, "up").await;
    says(&linked.orchestrator, &linked.agent, "down").await;
}

/// The more impatient side gets its signs of life from a patient one.
#[tokio::test(start_paused = true)]
async fn sides_with_different_patience_live_together() {
    let bus = Arc::new(MemoryBus::new());
    let patient = LinkSettings { silence: Duration::from_secs(60), ..settings() };
    let hasty = LinkSettings { silence: Duration::from_millis(500), ..patient.clone() };
    for (one, two) in [(&patient, &hasty), (&hasty, &patient)] {
        let listener = LinkOverBusListener::bind(bus.clone(), one.clone()).await.unwrap();
        let connector = LinkOverBusConnector::new(bus.clone(), two.clone()).unwrap();
        let (agent, orchestrator) = connected(&connector, &listener).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        says(&agent, &orchestrator, "up").await;
        says(&orchestrator, &agent, "down").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_open_link_ends_in_time_on_both_sides() {
    for is_up_cut in [true, false] {
        let bus = Meddler::new();
        let linked = linked(Arc::new(bus.clone()), settings()).await;
        says(&linked.agent, &linked.orchestrator, "up").await;
        let (agent, orchestrator) = (&linked.agent, &linked.orchestrator);
        let (deaf, unheard) = if is_up_cut { (orchestrator, agent) } else { (agent, orchestrator) };
        bus.set(move |message| {
            let is_cut = if is_up_cut { is_up(&message) } else { is_down(&message) };
            if is_cut { vec![] } else { vec![message] }
        });
        let ended = tokio::time::timeout(Duration::from_millis(2100), deaf.receive()).await.expect("in time");
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("nothing was heard"), "{error}");
        assert!(deaf.send(Frame::text("{}")).await.is_err());
        // It hears well, and need not wait for a silence of its own.
        let told = tokio::time::timeout(Duration::from_millis(100), unheard.receive()).await.expect("told");
        assert!(told.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_survives_lost_first_messages() {
    for lost in 0..4 {
        let bus = Meddler::new();
        let mut left = lost;
        bus.set(move |message| {
            if left > 0 {
                left -= 1;
                return vec![];
            }
            vec![message]
        });
        let linked = linked(Arc::new(bus), settings()).await;
        says(&linked.orchestrator, &linked.agent, "down").await;
        says(&linked.agent, &linked.orchestrator, "up").await;
    }
}

/// The agent's first sealed message is lost: the orchestrator begins only once it has heard one.
#[tokio::test(start_paused = true)]
async fn connecting_survives_a_lost_confirmation() {
    let bus = Meddler::new();
    let mut left = 2;
    bus.set(move |message| {
        if is_up(&message) && left > 0 {
            left -= 1;
            return vec![];
        }
        vec![message]
    });
    let linked = linked(Arc::new(bus), settings()).await;
    says(&linked.orchestrator, &linked.agent, "down").await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_bus_is_unavailable() {
    let bus = MemoryBus::new();
    let linked = linked(Arc::new(bus.clone()), settings()).await;
    bus.close();
    assert_eq!(linked.agent.receive().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(linked.orchestrator.receive().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(linked.connector.connect().await.is_err());
}
