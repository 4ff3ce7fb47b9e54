//! What somebody who may publish and listen everywhere cannot do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::bus::Message;
use mamos_core::transport::{Connector, Listener};
use mamos_core::{ErrorKind, auth::KeyPair};
use mamos_transport::link_over_bus::{LinkCounts, LinkOverBusConnector, LinkOverBusListener, LinkSettings};

use super::meddler::{Meddler, is_down, is_up, tampered};
use super::{Linked, connected, hears, linked, says, settings};

/// A link on which something was said, over a bus that was listened to.
async fn overheard() -> (Meddler, Linked) {
    let bus = Meddler::new();
    let linked = linked(Arc::new(bus.clone()), settings()).await;
    for number in 0..5 {
        says(&linked.agent, &linked.orchestrator, &format!("up {number}")).await;
        says(&linked.orchestrator, &linked.agent, &format!("down {number}")).await;
    }
    (bus, linked)
}

/// The link goes on as if nothing had been, and both sides counted what they dropped.
async fn goes_on(linked: &Linked) -> (LinkCounts, LinkCounts) {
    says(&linked.agent, &linked.orchestrator, "still up").await;
    says(&linked.orchestrator, &linked.agent, "still down").await;
    (linked.connector.counts(), linked.listener.counts())
}

#[tokio::test]
async fn nothing_that_is_said_can_be_read_on_the_way() {
    let (bus, _linked) = overheard().await;
    let said = bus.seen().into_iter().any(|message| message.payload.windows(3).any(|bytes| bytes == b"up "));
    assert!(!said);
}

#[tokio::test]
async fn forged_frames_are_dropped_and_counted() {
    let (bus, linked) = overheard().await;
    let sealed: Vec<_> = bus.seen().into_iter().filter(|m| is_up(m) || is_down(m)).collect();
    let mut forged = Vec::new();
    for message in &sealed {
        let topic = &message.topic;
        let texts = [&b""[..], b"x", &[0; 25], &[3; 100], b"{\"messages\": [\"bye\"]}"];
        forged.extend(
            texts.map(|text| Message { topic: topic.clone(), payload: Bytes::copy_from_slice(text) }),
        );
        // A number that is still to come, with what was said.
        let mut early = message.payload.to_vec();
        if early.len() > 9 {
            early[1] ^= 1;
        }
        forged.push(Message { topic: topic.clone(), payload: early.into() });
    }
    bus.inject(forged).await;
    let (agent, orchestrator) = goes_on(&linked).await;
    for counts in [agent, orchestrator] {
        assert!(counts.forged >= 10 && counts.unusable >= 15, "{counts:?}");
    }
}

#[tokio::test]
async fn replayed_frames_are_dropped_and_counted() {
    let (bus, linked) = overheard().await;
    let sealed: Vec<_> = bus.seen().into_iter().filter(|m| is_up(m) || is_down(m)).collect();
    for _ in 0..3 {
        bus.inject(sealed.clone()).await;
    }
    let (agent, orchestrator) = goes_on(&linked).await;
    assert!(agent.replayed >= 15 && orchestrator.replayed >= 15, "{agent:?} {orchestrator:?}");
}

#[tokio::test]
async fn frames_of_another_link_are_dropped_and_counted() {
    let (bus, first) = overheard().await;
    let of_first = bus.seen();
    let (agent, orchestrator) = connected(&first.connector, &first.listener).await;
    let of_second = bus.seen().split_off(of_first.len());
    let before = (first.connector.counts().forged, first.listener.counts().forged);
    for which in [is_up, is_down] {
        let topic = of_second.iter().find(|m| which(m)).unwrap().topic.clone();
        let moved = of_first.iter().filter(|m| which(m));
        bus.inject(moved.map(|m| Message { topic: topic.clone(), payload: m.payload.clone() }).collect())
            .await;
    }
    says(&agent, &orchestrator, "up").await;
    says(&orchestrator, &agent, "down").await;
    let (agent, orchestrator) = goes_on(&first).await;
    assert!(agent.forged >= before.0 + 5 && orchestrator.forged >= before.1 + 5);
}

#[tokio::test]
async fn reflected_frames_are_dropped_and_counted() {
    let (bus, linked) = overheard().await;
    let seen = bus.seen();
    let up = seen.iter().find(|m| is_up(m)).unwrap().topic.clone();
    let down = seen.iter().find(|m| is_down(m)).unwrap().topic.clone();
    let reflected = |message: &Message| {
        let topic = if is_up(message) { down.clone() } else { up.clone() };
        // With a number that did not come from there yet.
        let mut payload = message.payload.to_vec();
        payload[7] = 1;
        [payload.into(), message.payload.clone()].map(|payload| Message { topic: topic.clone(), payload })
    };
    bus.inject(seen.iter().filter(|m| is_up(m) || is_down(m)).flat_map(reflected).collect()).await;
    let (agent, orchestrator) = goes_on(&linked).await;
    assert!(agent.forged >= 5 && orchestrator.forged >= 5, "{agent:?} {orchestrator:?}");
}

/// A stranger that does nothing but change everything has a link cut, and nothing more.
#[tokio::test(start_paused = true)]
async fn tampered_frames_never_arrive() {
    let (bus, linked) = overheard().await;
    bus.set(|message| vec![tampered(message)]);
    linked.agent.send(mamos_core::transport::Frame::text("{}")).await.unwrap();
    let error = linked.orchestrator.receive().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(linked.listener.counts().forged > 0);
}

/// Somebody who takes the hellos and says hello itself has two links, not one.
#[tokio::test]
async fn a_man_in_the_middle_has_two_bindings() {
    let (near, far, settings) = (Arc::new(Meddler::new()), Arc::new(Meddler::new()), settings());
    let orchestrators = LinkOverBusListener::bind(far.clone(), settings.clone()).await.unwrap();
    let mans_ear = LinkOverBusListener::bind(near.clone(), settings.clone()).await.unwrap();
    let mans_mouth = LinkOverBusConnector::new(far, settings.clone()).unwrap();
    let agents = LinkOverBusConnector::new(near, settings).unwrap();
    let (agent, man_as_orchestrator) = connected(&agents, &mans_ear).await;
    let (man_as_agent, orchestrator) = connected(&mans_mouth, &orchestrators).await;
    assert_eq!(agent.binding(), man_as_orchestrator.binding());
    assert_eq!(man_as_agent.binding(), orchestrator.binding());
    assert!(agent.binding().is_some() && agent.binding() != orchestrator.binding());
}

#[tokio::test]
async fn an_agent_with_a_pin_takes_the_right_orchestrator_only() {
    let (bus, key) = (Arc::new(Meddler::new()), KeyPair::generate().unwrap());
    let unsigned = LinkSettings { connect_timeout: Duration::from_millis(300), ..settings() };
    let signed = unsigned.clone().with_signing_key(key);
    let other = KeyPair::generate().unwrap().public_key();
    let connector = LinkOverBusConnector::new(bus.clone(), unsigned.clone()).unwrap();

    let listener = LinkOverBusListener::bind(bus.clone(), signed).await.unwrap();
    let pin: mamos_core::auth::PublicKey = listener.public_key().unwrap().to_string().parse().unwrap();
    connected(&connector.clone().with_pinned_key(other).with_pinned_key(pin), &listener).await;
    let wrong = connector.clone().with_pinned_key(other).connect().await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Config, "{wrong}");
    assert!(wrong.message().contains("does not have the pinned key"), "{wrong}");
    drop(listener);

    let listener = LinkOverBusListener::bind(bus.clone(), unsigned).await.unwrap();
    assert!(listener.public_key().is_none());
    let unsigned = connector.clone().with_pinned_key(pin).connect().await.unwrap_err();
    assert_eq!(unsigned.kind(), ErrorKind::Config, "{unsigned}");
    assert!(connector.counts().unusable >= 2);
}

/// A stranger answers first, with anything: an agent with a pin waits for the right answer.
#[tokio::test]
async fn forged_answers_do_not_keep_an_agent_with_a_pin_away() {
    let (bus, settings, key) = (Meddler::new(), settings(), KeyPair::generate().unwrap());
    let hostile = Meddler::new();
    let listener = LinkOverBusListener::bind(Arc::new(bus.clone()), settings.clone().with_signing_key(key));
    let listener = listener.await.unwrap();
    // Answers of an orchestrator that is not the right one, made for real.
    let imposter = settings.clone().with_signing_key(KeyPair::generate().unwrap());
    let imposter = LinkOverBusListener::bind(Arc::new(hostile.clone()), imposter).await.unwrap();
    bus.set({
        let hostile = hostile.clone();
        move |message| {
            if is_down(&message) && message.payload[0] == b'B' {
                let topic = message.topic.clone();
                let forged = [&b""[..], b"B", b"C\x09", &[b'B'; 38], &[b'B'; 134]];
                let forged = forged
                    .map(|text| Message { topic: topic.clone(), payload: Bytes::copy_from_slice(text) });
                let theirs = hostile.seen().into_iter().filter(is_down);
                return forged
                    .into_iter()
                    .chain(theirs)
                    .chain([tampered(message.clone()), message])
                    .collect();
            }
            vec![message]
        }
    });
    let pin = listener.public_key().unwrap();
    let connector = LinkOverBusConnector::new(Arc::new(bus.clone()), settings).unwrap().with_pinned_key(pin);
    let connecting = async {
        let relay = async {
            loop {
                let hello = bus.seen().into_iter().find(|message| message.payload.first() == Some(&b'A'));
                if let Some(hello) = hello {
                    hostile.inject(vec![hello]).await;
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(connected(&connector, &listener), relay).0
    };
    let (agent, orchestrator) = connecting.await;
    assert_eq!(agent.binding(), orchestrator.binding());
    assert!(connector.counts().unusable >= 6, "{:?}", connector.counts());
    says(&orchestrator, &agent, "down").await;
    drop(imposter);
}

/// Replaying an old hello gives a link that nobody can use, which ends by itself.
#[tokio::test(start_paused = true)]
async fn replayed_hellos_and_answers_bring_about_nothing() {
    let (bus, linked) = overheard().await;
    let seen = bus.seen();
    linked.agent.close().await;
    assert_eq!(hears(&linked.orchestrator).await, None);
    drop(linked.orchestrator);
    bus.inject(seen).await;
    let accepted = tokio::time::timeout(Duration::from_secs(60), linked.listener.accept()).await;
    assert!(accepted.is_err(), "{accepted:?}");
    assert!(format!("{:?}", linked.listener).ends_with("0 links)"), "{:?}", linked.listener);
}
