//! Core NATS, without JetStream.

use anyhow::Context;
use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::link::lane::{Receives, Sends};
use crate::link::unique_name;

pub(in crate::link) async fn open(url: &str) -> anyhow::Result<(Sender, Receiver)> {
    let (publisher, client) = (async_nats::connect(url).await?, async_nats::connect(url).await?);
    let subject = Subject::from(unique_name());
    let mut subscriber = client.subscribe(subject.clone()).await?;
    // Flushing does not wait for the server: only what comes back shows that it has the subscription.
    client.publish(subject.clone(), Bytes::new()).await?;
    subscriber.next().await.context("the subscription ended")?;
    Ok((Sender { publisher, subject }, Receiver { _client: client, subscriber }))
}

pub(in crate::link) struct Sender {
    publisher: Client,
    subject: Subject,
}

impl Sends for Sender {
    async fn send(&mut self, frames: &[Bytes]) -> anyhow::Result<()> {
        for frame in frames {
            self.publisher.publish(self.subject.clone(), frame.clone()).await?;
        }
        Ok(())
    }
}

pub(in crate::link) struct Receiver {
    _client: Client,
    subscriber: Subscriber,
}

impl Receives for Receiver {
    async fn receive(&mut self) -> anyhow::Result<Bytes> {
        Ok(self.subscriber.next().await.context("the subscription ended")?.payload)
    }
}
