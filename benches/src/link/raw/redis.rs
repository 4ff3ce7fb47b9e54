//! Redis Pub/Sub.

use anyhow::Context;
use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};

use crate::link::lane::{Receives, Sends};
use crate::link::unique_name;

pub(in crate::link) async fn open(url: &str) -> anyhow::Result<(Sender, Receiver)> {
    let client = redis::Client::open(url)?;
    let channel = unique_name();
    let publisher = client.get_multiplexed_async_connection().await?;
    let mut subscriber = client.get_async_pubsub().await?;
    subscriber.subscribe(&channel).await?;
    Ok((Sender { publisher, channel }, Receiver(subscriber)))
}

pub(in crate::link) struct Sender {
    publisher: MultiplexedConnection,
    channel: String,
}

impl Sends for Sender {
    async fn send(&mut self, frames: &[Bytes]) -> anyhow::Result<()> {
        let mut pipeline = redis::pipe();
        for frame in frames {
            pipeline.cmd("PUBLISH").arg(&self.channel).arg(&frame[..]).ignore();
        }
        Ok(pipeline.query_async::<()>(&mut self.publisher).await?)
    }
}

pub(in crate::link) struct Receiver(PubSub);

impl Receives for Receiver {
    async fn receive(&mut self) -> anyhow::Result<Bytes> {
        let message = self.0.on_message().next().await.context("the subscription ended")?;
        Ok(Bytes::copy_from_slice(message.get_payload_bytes()))
    }
}
