//! Subscriptions: a queue, a consumer, and a task that sets them up again after a loss.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery as Delivered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use mamos_core::bus::{Delivery, Receipt, Received, Subscribe, Subscription};
use mamos_core::id::TopicName;
use mamos_core::{Error, Result};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::connector::{Connector, Live};
use super::failure::{is_not_found, needs_a_person, refused, said, unavailable};
use super::names;
use super::publisher::make_exchange;
use super::settings::{Checked, DurableQueues};

const OPERATION: &str = "bus.subscribe";
/// What the task has ready for the one who receives. Small: the broker's prefetch is the real buffer.
const READY: usize = 32;
/// How many transient messages are acknowledged with one frame: enough to make it cheap, and few enough that
/// the broker's prefetch never runs dry meanwhile.
const ACKNOWLEDGED_AT_ONCE: usize = 32;
/// A shared transient queue that nobody consumes is one whose first member died while it joined.
const FORGET_UNUSED: Duration = Duration::from_secs(60);
/// Joining a transient group fails when its last member leaves at that moment, each time anew.
const ATTEMPTS: usize = 5;
/// The pause between attempts to set up a subscription again on a connection that lives.
const PAUSE: Duration = Duration::from_millis(500);
/// RabbitMQ 4 drops messages of quorum queues after 20 deliveries unless told otherwise; "never" is written
/// in different ways by version, this is not.
const DELIVERY_LIMIT: u64 = 1_000_000_000;

/// A queue that is consumed, on one channel.
struct Consuming {
    channel: lapin::Channel,
}

enum Arrived {
    Message { consuming: Arc<Consuming>, tag: u64, payload: Bytes, is_redelivered: bool },
    Failed(Error),
}

/// What is needed to set up a subscription, again and again.
struct Setup {
    subscribe: Subscribe,
    checked: Arc<Checked>,
    connector: Arc<Connector>,
}

/// Messages of a topic, from RabbitMQ.
pub(super) struct AmqpSubscription {
    topic: TopicName,
    delivery: Delivery,
    arrived: mpsc::Receiver<Arrived>,
    /// Where the messages come from that can be acknowledged.
    consuming: Option<Arc<Consuming>>,
    /// Receipts and their delivery tags, on that channel and on no other: tags mean nothing elsewhere.
    handed_out: HashMap<u64, u64>,
    last_receipt: u64,
    task: AbortHandle,
}

impl AmqpSubscription {
    /// Subscribes; it is in force when this returns.
    pub(super) async fn open(
        subscribe: Subscribe,
        checked: Arc<Checked>,
        connector: Arc<Connector>,
    ) -> Result<Self> {
        let until = Instant::now() + checked.settings.timeout;
        let setup = Setup { subscribe, checked, connector };
        let (consuming, consumer) = loop {
            let live = setup.connector.ready(OPERATION, until).await?;
            match timeout_at(until, setup.establish(&live)).await {
                Ok(Ok(established)) => break established,
                // The connection was lost meanwhile, perhaps: there is time for another.
                Ok(Err(error)) if !needs_a_person(&error) && !live.is_connected() => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(setup.connector.trouble(OPERATION)),
            }
        };
        let (sender, arrived) = mpsc::channel(READY);
        let (topic, delivery) = (setup.subscribe.topic.clone(), setup.subscribe.delivery);
        let running = async move {
            tokio::select! {
                () = setup.connector.closed() => {}
                () = setup.run(consuming, consumer, sender) => {}
            }
        };
        let task = tokio::spawn(running).abort_handle();
        let handed_out = HashMap::new();
        Ok(Self { topic, delivery, arrived, consuming: None, handed_out, last_receipt: 0, task })
    }
}

#[async_trait]
impl Subscription for AmqpSubscription {
    async fn receive(&mut self) -> Result<Option<Received>> {
        let (consuming, tag, payload, is_redelivered) = match self.arrived.recv().await {
            None => return Ok(None),
            Some(Arrived::Failed(error)) => return Err(error),
            Some(Arrived::Message { consuming, tag, payload, is_redelivered }) => {
                (consuming, tag, payload, is_redelivered)
            }
        };
        self.last_receipt += 1;
        let receipt = Receipt(self.last_receipt);
        if self.delivery == Delivery::Durable {
            if !self.consuming.as_ref().is_some_and(|known| Arc::ptr_eq(known, &consuming)) {
                // The old channel is over, and the broker delivers again what it had handed out.
                self.handed_out.clear();
                self.consuming = Some(consuming);
            }
            self.handed_out.insert(receipt.0, tag);
        }
        Ok(Some(Received { receipt, topic: self.topic.clone(), payload, is_redelivered }))
    }

    async fn acknowledge(&mut self, receipt: Receipt) -> Result<()> {
        let Some(consuming) = self.consuming.as_ref().filter(|known| known.channel.status().connected())
        else {
            // Nothing was handed out, or its channel is over: then it comes again, whatever is said here.
            return Ok(());
        };
        let Some(tag) = self.handed_out.remove(&receipt.0) else { return Ok(()) };
        consuming.channel.basic_ack(tag, BasicAckOptions::default()).await.map_err(|error| {
            let message = "the connection was lost; the message may be delivered again";
            unavailable("bus.acknowledge", message).with_source(error)
        })
    }
}

impl Drop for AmqpSubscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for AmqpSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmqpSubscription({}, {:?})", self.topic, self.delivery)
    }
}

impl Setup {
    /// Passes on what comes, and sets up everything again after a loss, until the bus is closed.
    async fn run(&self, consuming: Arc<Consuming>, consumer: lapin::Consumer, sender: mpsc::Sender<Arrived>) {
        let mut established = Some((consuming, consumer));
        loop {
            if let Some((consuming, consumer)) = established.take() {
                let why = self.pass_on(consuming, consumer, &sender).await;
                tracing::debug!(target: "mamos::bus", topic = %self.subscribe.topic, why, "a subscription was lost");
            }
            let Some(live) = self.connector.next_live().await else { return };
            match timeout_at(Instant::now() + self.checked.settings.timeout, self.establish(&live)).await {
                Ok(Ok(again)) => established = Some(again),
                Ok(Err(error)) => {
                    tracing::warn!(target: "mamos::bus", topic = %self.subscribe.topic, %error, "cannot subscribe again yet");
                    if needs_a_person(&error) && sender.send(Arrived::Failed(error)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => {
                    tracing::warn!(target: "mamos::bus", topic = %self.subscribe.topic, "the broker does not answer");
                }
            }
        }
    }

    /// Passes on what comes until nothing more can, and says why.
    async fn pass_on(
        &self,
        consuming: Arc<Consuming>,
        mut consumer: lapin::Consumer,
        sender: &mpsc::Sender<Arrived>,
    ) -> String {
        let is_transient = self.subscribe.delivery == Delivery::Transient;
        let mut batch = Vec::new();
        loop {
            let mut end = None;
            match consumer.next().await {
                Some(Ok(delivered)) => batch.push(delivered),
                Some(Err(error)) => return said(&error),
                None => return "the broker ended it".to_owned(),
            }
            while batch.len() < ACKNOWLEDGED_AT_ONCE
                && let Some(next) = consumer.next().now_or_never()
            {
                match next {
                    Some(Ok(delivered)) => batch.push(delivered),
                    // Not to be taken a second time: nothing would come after it.
                    Some(Err(error)) => end = Some(said(&error)),
                    None => end = end.or_else(|| Some("the broker ended it".to_owned())),
                }
                if end.is_some() {
                    break;
                }
            }
            // At most once: acknowledged before it is handed out.
            if is_transient && let Some(last) = batch.last() {
                let options = BasicAckOptions { multiple: true };
                if let Err(error) = consuming.channel.basic_ack(last.delivery_tag, options).await {
                    end = Some(said(&error));
                }
            }
            for delivered in batch.drain(..) {
                if !self.is_ours(&delivered, &consuming, is_transient).await {
                    continue;
                }
                let message = Arrived::Message {
                    consuming: Arc::clone(&consuming),
                    tag: delivered.delivery_tag,
                    payload: Bytes::from(delivered.data),
                    is_redelivered: delivered.redelivered,
                };
                if sender.send(message).await.is_err() {
                    return "nobody receives any more".to_owned();
                }
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Is this a message of the topic that may be handed out? If not, it is dropped.
    async fn is_ours(&self, delivered: &Delivered, consuming: &Consuming, is_transient: bool) -> bool {
        let (exchange, topic) = (delivered.exchange.as_str(), delivered.routing_key.as_str());
        let size = delivered.data.len();
        let is_foreign = exchange != self.checked.settings.exchange
            || topic != self.subscribe.topic.as_str()
            || size > mamos_core::bus::MAX_MESSAGE_BYTES;
        if is_foreign {
            tracing::warn!(
                target: "mamos::bus", exchange, topic, size, expected = %self.subscribe.topic,
                "dropped a message that no bus wrote; find out who writes into this queue"
            );
            if !is_transient {
                // If this fails, the channel is over and the message comes again.
                let _ = consuming.channel.basic_ack(delivered.delivery_tag, BasicAckOptions::default()).await;
            }
            return false;
        }
        // A member of a transient group that is gone may have had it: at most once.
        !(is_transient && delivered.redelivered)
    }

    async fn establish(&self, live: &Arc<Live>) -> Result<(Arc<Consuming>, lapin::Consumer)> {
        let mut attempt = 1;
        loop {
            make_exchange(OPERATION, live, &self.checked.settings.exchange).await?;
            let queue = names::queue(&self.checked.settings.exchange, &self.subscribe);
            match self.consume(live, &queue).await {
                Ok(established) => return Ok(established),
                Err(error) if is_not_found(&error) && attempt < ATTEMPTS => {
                    live.has_exchange.store(false, Ordering::Release);
                    attempt += 1;
                }
                Err(error) => return Err(refused(OPERATION, &format!("the queue {queue:?}"), &error)),
            }
        }
    }

    async fn consume(
        &self,
        live: &Arc<Live>,
        queue: &str,
    ) -> lapin::Result<(Arc<Consuming>, lapin::Consumer)> {
        let settings = &self.checked.settings;
        let is_alone = self.subscribe.group.is_none();
        let channel = live.connection.create_channel().await?;
        let prefetch = match self.subscribe.delivery {
            Delivery::Transient => settings.prefetch,
            Delivery::Durable => settings.unacknowledged,
        };
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let is_durable = self.subscribe.delivery == Delivery::Durable;
        let options = QueueDeclareOptions {
            durable: is_durable,
            exclusive: is_alone,
            auto_delete: !is_durable,
            ..Default::default()
        };
        channel.queue_declare(queue.into(), options, self.arguments()).await?;
        let options = BasicConsumeOptions { exclusive: is_alone, ..Default::default() };
        let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        // Last: a queue that is consumed is not deleted when another member leaves, and its bindings with it.
        let (exchange, topic) = (settings.exchange.as_str().into(), self.subscribe.topic.as_str().into());
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.into(), exchange, topic, options, arguments).await?;
        Ok((Arc::new(Consuming { channel }), consumer))
    }

    fn arguments(&self) -> FieldTable {
        let settings = &self.checked.settings;
        let mut arguments = FieldTable::default();
        let number = |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
        let text = |text: &str| AMQPValue::LongString(text.into());
        let expires = match self.subscribe.delivery {
            Delivery::Transient => {
                arguments.insert("x-max-length".into(), number(settings.transient_messages.into()));
                arguments.insert("x-max-length-bytes".into(), number(settings.transient_bytes));
                arguments.insert("x-overflow".into(), text("drop-head"));
                self.subscribe.group.as_ref().map(|_| FORGET_UNUSED)
            }
            Delivery::Durable => {
                arguments.insert("x-max-length-bytes".into(), number(settings.durable_bytes));
                arguments.insert("x-overflow".into(), text("reject-publish"));
                if settings.durable_queues == DurableQueues::Quorum {
                    arguments.insert("x-queue-type".into(), text("quorum"));
                    arguments.insert("x-delivery-limit".into(), number(DELIVERY_LIMIT));
                } else {
                    arguments.insert("x-queue-type".into(), text("classic"));
                }
                settings.forget_groups_after
            }
        };
        if let Some(expires) = expires {
            arguments.insert("x-expires".into(), number(expires.as_millis().try_into().unwrap_or(u64::MAX)));
        }
        arguments
    }
}
