//! The ways of MAMOS: the bus alone, and a link over it.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use mamos_core::bus::{Bus, Delivery, Message, Subscribe, Subscription};
use mamos_core::id::TopicName;
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener, MAX_FRAME_BYTES};
use mamos_transport::bus::open;
use mamos_transport::link_over_bus::{self, LinkCounts, LinkOverBusConnector, LinkOverBusListener};

use super::lane::{Receives, Sends};
use super::settings::{BusKind, LinkSettings};
use super::unique_name;

/// Two ends as in two programs, each with its own connection to the broker.
pub(super) async fn both(settings: &LinkSettings) -> anyhow::Result<[Arc<dyn Bus>; 2]> {
    let one = open(&settings.url).await?;
    let other = match settings.bus {
        BusKind::Memory => Arc::clone(&one),
        _ => open(&settings.url).await?,
    };
    Ok([one, other])
}

/// A topic that nobody else uses.
pub(super) async fn bus(settings: &LinkSettings) -> anyhow::Result<(BusSender, BusReceiver)> {
    let [here, there] = both(settings).await?;
    let topic = TopicName::new(unique_name())?;
    let subscribe = Subscribe { topic: topic.clone(), group: None, delivery: Delivery::Transient };
    let subscription = there.subscribe(subscribe).await?;
    Ok((BusSender { bus: here, topic }, BusReceiver { _bus: there, subscription }))
}

pub(super) struct BusSender {
    bus: Arc<dyn Bus>,
    topic: TopicName,
}

impl Sends for BusSender {
    async fn send(&mut self, frames: &[Bytes]) -> anyhow::Result<()> {
        let message = |payload: &Bytes| Message { topic: self.topic.clone(), payload: payload.clone() };
        Ok(self.bus.publish(frames.iter().map(message).collect()).await?)
    }
}

pub(super) struct BusReceiver {
    _bus: Arc<dyn Bus>,
    subscription: Box<dyn Subscription>,
}

impl Receives for BusReceiver {
    async fn receive(&mut self) -> anyhow::Result<Bytes> {
        Ok(self.subscription.receive().await?.context("the bus was closed")?.payload)
    }
}

/// A link with both its ends, made by these two.
pub(super) struct Link {
    pub(super) sender: LinkSender,
    pub(super) receiver: LinkReceiver,
    pub(super) listener: LinkOverBusListener,
    pub(super) connector: LinkOverBusConnector,
}

/// A link from an agent to an orchestrator.
pub(super) async fn link(settings: &LinkSettings) -> anyhow::Result<Link> {
    let (listener, connector) = link_ends(settings).await?;
    let (up, down) = tokio::try_join!(connector.connect(), listener.accept())?;
    Ok(Link { sender: LinkSender(up), receiver: LinkReceiver(down), listener, connector })
}

/// A listener and a connector that meet on a topic of their own.
pub(super) async fn link_ends(
    settings: &LinkSettings,
) -> anyhow::Result<(LinkOverBusListener, LinkOverBusConnector)> {
    let [here, there] = both(settings).await?;
    let of_link = link_over_bus::LinkSettings {
        hello_topic: TopicName::new(unique_name())?,
        ..link_over_bus::LinkSettings::default()
    };
    let listener = LinkOverBusListener::bind(there, of_link.clone()).await?;
    Ok((listener, LinkOverBusConnector::new(here, of_link)?))
}

pub(super) struct LinkSender(Arc<dyn Connection>);

impl Sends for LinkSender {
    async fn send(&mut self, frames: &[Bytes]) -> anyhow::Result<()> {
        for frame in frames {
            self.0.send(Frame::binary(frame.clone())).await?;
        }
        Ok(())
    }
}

pub(super) struct LinkReceiver(Arc<dyn Connection>);

impl Receives for LinkReceiver {
    async fn receive(&mut self) -> anyhow::Result<Bytes> {
        let frame = self.0.receive().await?.context("the link was closed")?;
        Ok(frame.into_bytes(Encoding::Binary, MAX_FRAME_BYTES)?.1)
    }
}

/// All that a link dropped, for whatever reason.
pub(super) fn dropped(counts: &LinkCounts) -> u64 {
    let LinkCounts { forged, replayed, incomplete, overflowed, unpublished, .. } = counts;
    forged + replayed + incomplete + overflowed + unpublished
}
