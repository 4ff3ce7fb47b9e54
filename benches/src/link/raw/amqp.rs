//! RabbitMQ: a queue that ends with its connection, and confirms as the bus waits for them.

use std::collections::VecDeque;

use anyhow::Context;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, PublisherConfirm};

use crate::link::lane::{MAX_WINDOW, Receives, Sends};
use crate::link::unique_name;

pub(in crate::link) async fn open(url: &str) -> anyhow::Result<(Sender, Receiver)> {
    let queue = unique_name();
    let consuming = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = consuming.create_channel().await?;
    let declare = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), declare, FieldTable::default()).await?;
    let consume = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consumer =
        channel.basic_consume(queue.as_str().into(), "".into(), consume, FieldTable::default()).await?;
    let publishing = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = publishing.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let sender = Sender { _connection: publishing, channel, queue, unconfirmed: VecDeque::new() };
    Ok((sender, Receiver { _connection: consuming, consumer }))
}

pub(in crate::link) struct Sender {
    _connection: Connection,
    channel: Channel,
    queue: String,
    unconfirmed: VecDeque<PublisherConfirm>,
}

impl Sends for Sender {
    async fn send(&mut self, frames: &[Bytes]) -> anyhow::Result<()> {
        // All at once: waiting until each is written would be slower.
        let published = frames.iter().map(|frame| {
            let (exchange, queue) = ("".into(), self.queue.as_str().into());
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            self.channel.basic_publish(exchange, queue, options, frame, properties)
        });
        self.unconfirmed.extend(try_join_all(published).await?);
        // The last ones are waited for while others are on their way.
        while self.unconfirmed.len() > MAX_WINDOW / 2
            && let Some(confirm) = self.unconfirmed.pop_front()
        {
            anyhow::ensure!(!confirm.await?.is_nack(), "the broker did not take a message");
        }
        Ok(())
    }
}

pub(in crate::link) struct Receiver {
    _connection: Connection,
    consumer: Consumer,
}

impl Receives for Receiver {
    async fn receive(&mut self) -> anyhow::Result<Bytes> {
        let delivered = self.consumer.next().await.context("the consumer ended")??;
        Ok(Bytes::from(delivered.data))
    }
}
