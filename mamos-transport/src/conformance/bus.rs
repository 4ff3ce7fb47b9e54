//! What a bus promises, after [`mamos_core::bus`].

mod delivery;
mod durable;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mamos_core::bus::{Bus, Delivery, Message, Received, Subscribe, Subscription};
use mamos_core::id::{GroupName, TopicName};

use super::promise::{Broken, Check, judge, soon};

type FreshBus = Box<dyn Bus>;

#[doc(hidden)]
#[macro_export]
macro_rules! __bus_promises {
    (($($then:tt)+) $arguments:tt) => { $($then)+! { $arguments
        messages_arrive_in_the_order_of_publishing
        a_subscription_is_in_force_when_subscribe_returns
        without_a_group_everyone_gets_everything
        a_group_shares_its_messages
        two_groups_get_everything_each
        topics_are_apart
        many_topics_are_apart_at_once
        a_dropped_receive_of_a_bus_loses_nothing
        transient_messages_are_lost_when_nobody_listens
        a_slow_subscriber_holds_nobody_up
        the_largest_message_arrives
        an_oversize_message_is_refused_and_none_is_taken
        a_durable_group_gets_everything
        unacknowledged_messages_come_again_to_another_of_the_group
        unacknowledged_messages_come_again_to_the_next_one
        acknowledged_messages_do_not_come_again
        a_durable_group_keeps_messages_while_nobody_listens
        unknown_receipts_are_ignored
        durable_delivery_needs_a_group
        a_bus_has_a_name
    } };
}

macro_rules! list {
    (() $($promise:ident)+) => {
        /// The promises, by name.
        pub const PROMISES: &[&str] = &[$(stringify!($promise)),+];

        fn find(promise: &str) -> Option<(&'static str, Check<FreshBus>)> {
            match promise {
                $(stringify!($promise) => Some((stringify!($promise), |bus| Box::pin($promise(bus)))),)+
                _ => None,
            }
        }
    };
}
crate::__bus_promises! { (list) () }

use delivery::{
    a_bus_has_a_name, a_dropped_receive_of_a_bus_loses_nothing, a_group_shares_its_messages,
    a_slow_subscriber_holds_nobody_up, a_subscription_is_in_force_when_subscribe_returns,
    an_oversize_message_is_refused_and_none_is_taken, many_topics_are_apart_at_once,
    messages_arrive_in_the_order_of_publishing, the_largest_message_arrives, topics_are_apart,
    transient_messages_are_lost_when_nobody_listens, two_groups_get_everything_each,
    without_a_group_everyone_gets_everything,
};
use durable::{
    a_durable_group_gets_everything, a_durable_group_keeps_messages_while_nobody_listens,
    acknowledged_messages_do_not_come_again, durable_delivery_needs_a_group,
    unacknowledged_messages_come_again_to_another_of_the_group,
    unacknowledged_messages_come_again_to_the_next_one, unknown_receipts_are_ignored,
};

/// Checks one promise.
///
/// # Errors
///
/// [`Broken`] says what was seen instead, or that there is no such promise.
pub async fn check(promise: &str, fresh: FreshBus) -> Result<(), Broken> {
    match find(promise) {
        Some((promise, check)) => judge(promise, check, fresh).await,
        None => Err(Broken { promise: "the_promise_exists", why: format!("there is none called {promise}") }),
    }
}

/// Checks every promise, and gives those that are broken.
pub async fn broken_promises<F, Fut>(fresh: F) -> Vec<Broken>
where
    F: Fn() -> Fut,
    Fut: Future<Output = FreshBus>,
{
    let mut broken = Vec::new();
    for promise in PROMISES {
        broken.extend(check(promise, fresh().await).await.err());
    }
    broken
}

/// A topic that nothing else uses, in this process or another.
fn fresh_topic() -> Result<TopicName, String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    TopicName::new(format!("kit-{}-{number}-{}", std::process::id(), fastrand::u32(..)))
        .map_err(|e| e.to_string())
}

fn message(topic: &TopicName, payload: impl ToString) -> Message {
    Message { topic: topic.clone(), payload: Bytes::from(payload.to_string()) }
}

async fn publish(bus: &dyn Bus, topic: &TopicName, numbers: std::ops::Range<u32>) -> Result<(), String> {
    let messages = numbers.map(|number| message(topic, number)).collect();
    soon("publish", bus.publish(messages)).await?.map_err(|e| format!("publish: {e}"))
}

async fn subscribe(
    bus: &dyn Bus,
    topic: &TopicName,
    group: Option<&str>,
    delivery: Delivery,
) -> Result<Box<dyn Subscription>, String> {
    let group = group.map(GroupName::new).transpose().map_err(|e| e.to_string())?;
    let subscribe = Subscribe { topic: topic.clone(), group, delivery };
    soon("subscribe", bus.subscribe(subscribe)).await?.map_err(|e| format!("subscribe: {e}"))
}

/// The next message and its number.
async fn next(subscription: &mut dyn Subscription) -> Result<(u32, Received), String> {
    let received = soon("receive", subscription.receive()).await?.map_err(|e| format!("receive: {e}"))?;
    let received = received.ok_or("the bus closed")?;
    Ok((number(&received)?, received))
}

fn number(received: &Received) -> Result<u32, String> {
    let text = std::str::from_utf8(&received.payload).map_err(|e| e.to_string())?;
    text.parse().map_err(|_| format!("a message came that was never sent: {text}"))
}

/// The numbers of all that comes, until nothing more does.
async fn rest(subscription: &mut dyn Subscription) -> Result<Vec<u32>, String> {
    let mut numbers = Vec::new();
    while let Some(received) = super::promise::unless_silent(subscription.receive()).await {
        let received = received.map_err(|e| format!("receive: {e}"))?.ok_or("the bus closed")?;
        numbers.push(number(&received)?);
    }
    Ok(numbers)
}
