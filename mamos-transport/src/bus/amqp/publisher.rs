//! Publishing, with confirms.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::protocol::BasicProperties;
use lapin::types::FieldTable;
use lapin::{Confirmation, ExchangeKind};
use mamos_core::bus::{MAX_MESSAGE_BYTES, Message};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::connector::{Connector, Live};
use super::failure::{is_denied, is_not_found, refused, said, unavailable};
use super::settings::Checked;

const OPERATION: &str = "bus.publish";
/// The most bytes that are on the way and not confirmed, of all callers together.
const MAX_ON_THE_WAY: usize = 64 * 1024 * 1024;
/// The most that goes in one piece: a fraction of the above, so that several callers get on.
const MAX_PIECE_BYTES: usize = MAX_ON_THE_WAY / 4;
/// The most messages of a piece: what the broker confirms in some 100 ms.
const MAX_PIECE_MESSAGES: usize = 4096;
/// What a message costs beside its payload, in our memory; rounded up.
const OVERHEAD: usize = 1024;
/// Written to disk where the queue is durable, and ignored where it is not.
const PERSISTENT: u8 = 2;

type Pending = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// Publishes over one channel, in order.
pub(super) struct Publisher {
    connector: Connector,
    checked: Arc<Checked>,
    channel: tokio::sync::Mutex<Option<Arc<Publishing>>>,
    room: Arc<Semaphore>,
}

struct Publishing {
    live: Arc<Live>,
    channel: lapin::Channel,
    /// Held while messages are given to lapin: it counts a message and queues it in two steps, and confirms
    /// would be mixed up if two threads were between them.
    order: Mutex<()>,
    /// Waits for confirms that no caller waits for any more; ends with the channel.
    abandoned: Mutex<JoinSet<()>>,
    runtime: tokio::runtime::Handle,
}

impl Publisher {
    pub(super) fn new(connector: Connector, checked: Arc<Checked>) -> Self {
        let room = Arc::new(Semaphore::new(MAX_ON_THE_WAY));
        Self { connector, checked, channel: tokio::sync::Mutex::default(), room }
    }

    /// Ends the connection, once nobody is publishing any more.
    pub(super) fn close(&self) {
        self.connector.close();
        if let Ok(mut channel) = self.channel.try_lock() {
            *channel = None;
        }
    }

    pub(super) async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        if let Some(large) = messages.iter().find(|message| message.payload.len() > MAX_MESSAGE_BYTES) {
            let size = large.payload.len();
            let message = format!("a message of {size} bytes is over the limit of {MAX_MESSAGE_BYTES}");
            return Err(Error::new(ErrorKind::LimitExceeded, OPERATION, message));
        }
        let mut messages = VecDeque::from(messages);
        while !messages.is_empty() {
            let (piece, cost) = take_piece(&mut messages);
            self.publish_piece(piece, cost).await?;
        }
        Ok(())
    }

    async fn publish_piece(&self, piece: Vec<Message>, cost: usize) -> Result<()> {
        let blocked_until = Instant::now() + self.checked.settings.timeout;
        let until = blocked_until + Duration::from_secs((cost >> 20) as u64);
        // Fits in 32 bits: a piece is far smaller.
        let room = timeout_at(until, Arc::clone(&self.room).acquire_many_owned(cost as u32)).await;
        let Ok(Ok(room)) = room else { return Err(self.connector.trouble(OPERATION)) };
        let publishing = self.channel(blocked_until).await?;
        let topics: Vec<_> = piece.iter().map(|message| message.topic.clone()).collect();
        let mut on_the_way = publishing.send(&self.checked.settings.exchange, piece, room);
        let confirmed = async {
            // In the order of publishing, which is nearly that of the confirms: waiting for one at a time
            // costs less than watching all.
            while let Some(pending) = on_the_way.pending.front_mut() {
                let confirmed = pending.await;
                on_the_way.pending.pop_front();
                match confirmed {
                    Ok(Confirmation::Nack(_)) => return Err(not_taken()),
                    Ok(_) => {}
                    Err(error) => {
                        if is_not_found(&error) {
                            publishing.live.has_exchange.store(false, Ordering::Release);
                        }
                        let its_own = |topic: &str| topics.iter().any(|own| own.as_str() == topic);
                        return Err(lost(&error, its_own, &self.checked.settings.exchange));
                    }
                }
            }
            Ok(())
        };
        let gave_up = async {
            // Being blocked is known to last; slowness of large messages may be just that.
            let blocked = async {
                self.connector.blocked().await;
                tokio::time::sleep_until(blocked_until).await;
            };
            let _ = timeout_at(until, blocked).await;
        };
        tokio::select! {
            biased;
            confirmed = confirmed => confirmed,
            () = gave_up => {
                self.give_up_on(&publishing).await;
                Err(self.connector.trouble(OPERATION))
            }
        }
    }

    /// Takes a new channel for what comes next, unless the broker blocks all: a confirm that never comes, of one
    /// queue that hangs, must not hold room for ever.
    async fn give_up_on(&self, publishing: &Arc<Publishing>) {
        let mut slot = self.channel.lock().await;
        let is_current = slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, publishing));
        if is_current && !publishing.live.connection.status().blocked() {
            *slot = None;
        }
    }

    /// The channel, a new one if the old one is over.
    async fn channel(&self, until: Instant) -> Result<Arc<Publishing>> {
        let opening = async {
            let live = self.connector.ready(OPERATION, until).await?;
            let mut slot = self.channel.lock().await;
            if let Some(publishing) = &*slot
                && Arc::ptr_eq(&publishing.live, &live)
                && publishing.channel.status().connected()
            {
                return Ok(Arc::clone(publishing));
            }
            *slot = None;
            make_exchange(OPERATION, &live, &self.checked.settings.exchange).await?;
            let failed = |error| refused(OPERATION, "a channel for publishing", &error);
            let channel = live.connection.create_channel().await.map_err(failed)?;
            channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
            let publishing = Arc::new(Publishing {
                live,
                channel,
                order: Mutex::default(),
                abandoned: Mutex::default(),
                runtime: tokio::runtime::Handle::current(),
            });
            *slot = Some(Arc::clone(&publishing));
            Ok(publishing)
        };
        // The wait for a connection ends by itself, a little earlier.
        match timeout_at(until + Duration::from_millis(10), opening).await {
            Ok(opened) => opened,
            Err(_) => Err(self.connector.trouble(OPERATION)),
        }
    }
}

impl Publishing {
    /// Gives all to lapin at once.
    fn send(self: &Arc<Self>, exchange: &str, piece: Vec<Message>, room: OwnedSemaphorePermit) -> OnTheWay {
        let mut pending = VecDeque::with_capacity(piece.len());
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for message in piece {
            let channel = self.channel.clone();
            let exchange = exchange.into();
            let mut sending: Pending = Box::pin(async move {
                let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
                let topic = message.topic.as_str().into();
                let options = BasicPublishOptions::default();
                channel.basic_publish(exchange, topic, options, &message.payload, properties).await?.await
            });
            // The first poll queues it, and cannot finish unless it fails; who waits polls again.
            match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => pending.push_back(sending),
                Poll::Ready(done) => {
                    let failed = done.is_err();
                    pending.push_back(Box::pin(std::future::ready(done)));
                    if failed {
                        break;
                    }
                }
            }
        }
        drop(order);
        OnTheWay { pending, publishing: Arc::clone(self), room: Some(room) }
    }
}

/// Messages that are not confirmed yet. Whoever stops waiting leaves them to the channel: lapin would keep
/// what is dropped unconfirmed for as long as the channel lives, and their room is not free yet.
struct OnTheWay {
    pending: VecDeque<Pending>,
    publishing: Arc<Publishing>,
    room: Option<OwnedSemaphorePermit>,
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        if self.pending.is_empty() || !self.publishing.channel.status().connected() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let room = self.room.take();
        let mut abandoned = self.publishing.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        while abandoned.try_join_next().is_some() {}
        let waiting = async move {
            for pending in pending {
                let _ = pending.await;
            }
            drop(room);
        };
        abandoned.spawn_on(waiting, &self.publishing.runtime);
    }
}

/// Makes the exchange, or makes sure that it is there for a user who may not make it.
pub(super) async fn make_exchange(operation: &'static str, live: &Live, exchange: &str) -> Result<()> {
    if live.has_exchange.load(Ordering::Acquire) {
        return Ok(());
    }
    let what = format!("the exchange {exchange:?}");
    let declare = async |passive| {
        // A refusal ends the channel, so each attempt has its own.
        let channel = live.connection.create_channel().await?;
        let options = ExchangeDeclareOptions { passive, durable: true, ..Default::default() };
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default()).await
    };
    let declared = match declare(false).await {
        Err(error) if is_denied(&error) => match declare(true).await {
            Err(error) if is_not_found(&error) => {
                let message = format!(
                    "{what} is not there, and this user may not make it; start a program that may, or make it \
                     with rabbitmqadmin declare exchange name={exchange} type=topic durable=true"
                );
                return Err(Error::new(ErrorKind::Denied, operation, message).with_source(error));
            }
            declared => declared,
        },
        declared => declared,
    };
    declared.map_err(|error| refused(operation, &what, &error))?;
    live.has_exchange.store(true, Ordering::Release);
    Ok(())
}

fn take_piece(messages: &mut VecDeque<Message>) -> (Vec<Message>, usize) {
    let (mut count, mut cost) = (0, 0);
    for message in messages.iter().take(MAX_PIECE_MESSAGES) {
        let more = cost + message.payload.len() + OVERHEAD;
        if count > 0 && more > MAX_PIECE_BYTES {
            break;
        }
        (count, cost) = (count + 1, more);
    }
    (messages.drain(..count).collect(), cost)
}

fn not_taken() -> Error {
    unavailable(
        OPERATION,
        "the broker did not take a message: a durable group of its topic is full, or it cannot store; let the \
         group catch up, or delete its queue if it is not used any more",
    )
}

/// The error of messages whose confirms will not come. A refusal ends the channel for all who publish at that
/// moment: only those whose topic it names, if it names one, are refused themselves.
fn lost(error: &lapin::Error, is_own: impl Fn(&str) -> bool, exchange: &str) -> Error {
    let said = said(error);
    let topic = said.split_once("access to topic '").and_then(|(_, rest)| rest.split('\'').next());
    if is_denied(error) && topic.is_some_and(|topic| !is_own(topic)) {
        return unavailable(OPERATION, "another message was refused and ended the channel; try again")
            .with_source(error.clone());
    }
    let error = error.clone();
    refused(OPERATION, &format!("publishing to {exchange:?} failed, and some may have been taken"), &error)
}
