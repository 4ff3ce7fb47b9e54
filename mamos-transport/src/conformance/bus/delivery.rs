//! Promises about who gets which message.

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::bus::{Bus, Delivery, MAX_MESSAGE_BYTES, Message};

use super::super::promise::{Verdict, ensure, poll_once, soon};
use super::{fresh_topic, message, next, number, publish, rest, subscribe};

pub(super) async fn messages_arrive_in_the_order_of_publishing(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut alone = subscribe(&*bus, &topic, None, Delivery::Transient).await?;
    let mut durable = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    for start in [0, 100, 200] {
        publish(&*bus, &topic, start..start + 100).await?;
    }
    for (kind, subscription) in [("transient", &mut alone), ("durable", &mut durable)] {
        for expected in 0..300 {
            let (number, received) = next(&mut **subscription).await?;
            ensure!(number == expected, "{kind}: {expected} was expected, and {number} came");
            ensure!(received.topic == topic, "{kind}: the message says that its topic is {}", received.topic);
        }
    }
    Ok(())
}

pub(super) async fn a_subscription_is_in_force_when_subscribe_returns(bus: Box<dyn Bus>) -> Verdict {
    for round in 0..50 {
        let topic = fresh_topic()?;
        let mut subscription = subscribe(&*bus, &topic, None, Delivery::Transient).await?;
        publish(&*bus, &topic, round..round + 1).await?;
        let (number, _) = next(&mut *subscription).await?;
        ensure!(number == round, "{round} was expected, and {number} came");
    }
    Ok(())
}

pub(super) async fn without_a_group_everyone_gets_everything(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(subscribe(&*bus, &topic, None, Delivery::Transient).await?);
    }
    publish(&*bus, &topic, 0..50).await?;
    for subscription in &mut subscriptions {
        let numbers = rest(&mut **subscription).await?;
        ensure!(numbers == (0..50).collect::<Vec<_>>(), "one of three got {numbers:?} of 0 to 49");
    }
    Ok(())
}

pub(super) async fn a_group_shares_its_messages(bus: Box<dyn Bus>) -> Verdict {
    for delivery in [Delivery::Transient, Delivery::Durable] {
        let topic = fresh_topic()?;
        let mut one = subscribe(&*bus, &topic, Some("g"), delivery).await?;
        let mut two = subscribe(&*bus, &topic, Some("g"), delivery).await?;
        publish(&*bus, &topic, 0..50).await?;
        let (ones, twos) = tokio::try_join!(rest(&mut *one), rest(&mut *two))?;
        let mut all: Vec<_> = ones.iter().chain(&twos).copied().collect();
        all.sort_unstable();
        ensure!(all == (0..50).collect::<Vec<_>>(), "{delivery:?}: one got {ones:?}, the other {twos:?}");
    }
    Ok(())
}

pub(super) async fn two_groups_get_everything_each(bus: Box<dyn Bus>) -> Verdict {
    for delivery in [Delivery::Transient, Delivery::Durable] {
        let topic = fresh_topic()?;
        let mut one = subscribe(&*bus, &topic, Some("one"), delivery).await?;
        let mut two = subscribe(&*bus, &topic, Some("two"), delivery).await?;
        publish(&*bus, &topic, 0..20).await?;
        let (ones, twos) = tokio::try_join!(rest(&mut *one), rest(&mut *two))?;
        let all: Vec<_> = (0..20).collect();
        ensure!(ones == all && twos == all, "{delivery:?}: one group got {ones:?}, the other {twos:?}");
    }
    Ok(())
}

pub(super) async fn topics_are_apart(bus: Box<dyn Bus>) -> Verdict {
    let (one, two) = (fresh_topic()?, fresh_topic()?);
    let mut ones = subscribe(&*bus, &one, None, Delivery::Transient).await?;
    let mut twos = subscribe(&*bus, &two, Some("g"), Delivery::Durable).await?;
    bus.publish(vec![message(&one, 1), message(&two, 2), message(&one, 3)])
        .await
        .map_err(|e| e.to_string())?;
    let (ones, twos) = tokio::try_join!(rest(&mut *ones), rest(&mut *twos))?;
    ensure!(ones == [1, 3] && twos == [2], "one topic got {ones:?} of 1 and 3, the other {twos:?} of 2");
    Ok(())
}

pub(super) async fn many_topics_are_apart_at_once(bus: Box<dyn Bus>) -> Verdict {
    let mut topics = Vec::new();
    for _ in 0..100 {
        let topic = fresh_topic()?;
        let subscription = subscribe(&*bus, &topic, None, Delivery::Transient).await?;
        topics.push((topic, subscription));
    }
    let messages = topics.iter().zip(0..).map(|((topic, _), number)| message(topic, number)).collect();
    soon("publish", bus.publish(messages)).await?.map_err(|e| format!("publish: {e}"))?;
    for ((topic, subscription), expected) in topics.iter_mut().zip(0..) {
        let (number, received) = next(&mut **subscription).await?;
        ensure!(number == expected && received.topic == *topic, "topic {expected} of 100 got {number}");
    }
    Ok(())
}

pub(super) async fn a_dropped_receive_of_a_bus_loses_nothing(bus: Box<dyn Bus>) -> Verdict {
    for (group, delivery) in [(None, Delivery::Transient), (Some("g"), Delivery::Durable)] {
        let topic = fresh_topic()?;
        let mut subscription = subscribe(&*bus, &topic, group, delivery).await?;
        let mut expected = 0;
        for start in (0..200).step_by(5) {
            // Nothing is there yet, or something that the drop must not take along.
            let mut early = Vec::new();
            for round in 0..6 {
                if let Some(received) = poll_once(subscription.receive()).await {
                    early.push(number(&received.map_err(|e| e.to_string())?.ok_or("the bus closed")?)?);
                }
                if round == 2 {
                    publish(&*bus, &topic, start..start + 5).await?;
                }
                tokio::task::yield_now().await;
            }
            while early.len() < 5 {
                early.push(next(&mut *subscription).await?.0);
            }
            for number in early {
                ensure!(number == expected, "{delivery:?}: {expected} was expected, and {number} came");
                expected += 1;
            }
        }
    }
    Ok(())
}

pub(super) async fn transient_messages_are_lost_when_nobody_listens(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    publish(&*bus, &topic, 0..5).await?;
    let mut late = subscribe(&*bus, &topic, None, Delivery::Transient).await?;
    let mut late_group = subscribe(&*bus, &topic, Some("g"), Delivery::Transient).await?;
    publish(&*bus, &topic, 5..6).await?;
    let (alone, group) = tokio::try_join!(rest(&mut *late), rest(&mut *late_group))?;
    ensure!(alone == [5] && group == [5], "from before subscribing came {alone:?}, to a group {group:?}");
    Ok(())
}

pub(super) async fn a_slow_subscriber_holds_nobody_up(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut slow = subscribe(&*bus, &topic, None, Delivery::Transient).await?;
    for start in (0..200_000).step_by(1000) {
        publish(&*bus, &topic, start..start + 1000).await?;
    }
    let numbers = rest(&mut *slow).await?;
    ensure!(numbers.is_sorted_by(|a, b| a < b), "they came out of order, or twice");
    ensure!(
        numbers.last() == Some(&199_999),
        "the last one to come was {:?}, not the newest",
        numbers.last()
    );
    Ok(())
}

pub(super) async fn the_largest_message_arrives(bus: Box<dyn Bus>) -> Verdict {
    for (group, delivery) in [(None, Delivery::Transient), (Some("g"), Delivery::Durable)] {
        let topic = fresh_topic()?;
        let mut subscription = subscribe(&*bus, &topic, group, delivery).await?;
        // 251 is prime: no two parts of a message look the same, wherever it is cut.
        let payload: Bytes = (0..MAX_MESSAGE_BYTES).map(|at| (at % 251) as u8).collect();
        let large = Message { topic: topic.clone(), payload: payload.clone() };
        soon("publish", bus.publish(vec![large])).await?.map_err(|e| format!("publish: {e}"))?;
        let received = soon("receive", subscription.receive()).await?.map_err(|e| format!("receive: {e}"))?;
        let received = received.ok_or("the bus closed")?;
        let size = received.payload.len();
        ensure!(received.payload == payload, "{delivery:?}: {size} bytes came, and not those that were sent");
        subscription.acknowledge(received.receipt).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

pub(super) async fn an_oversize_message_is_refused_and_none_is_taken(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut subscription = subscribe(&*bus, &topic, None, Delivery::Transient).await?;
    let large = Message { topic: topic.clone(), payload: Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]) };
    let published = soon("publish", bus.publish(vec![message(&topic, 1), large, message(&topic, 2)])).await?;
    let kind = published.as_ref().map_err(|e| e.kind());
    ensure!(kind == Err(ErrorKind::LimitExceeded), "the answer to one byte too many was {published:?}");
    publish(&*bus, &topic, 3..4).await?;
    let numbers = rest(&mut *subscription).await?;
    ensure!(numbers == [3], "of a refused batch came {numbers:?}");
    Ok(())
}

pub(super) async fn a_bus_has_a_name(bus: Box<dyn Bus>) -> Verdict {
    ensure!(!bus.describe().is_empty(), "it has no description");
    Ok(())
}
