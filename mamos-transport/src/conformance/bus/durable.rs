//! Promises about durable groups.

use mamos_core::ErrorKind;
use mamos_core::bus::{Bus, Delivery, Receipt, Subscribe};

use super::super::promise::{Verdict, ensure, soon};
use super::{fresh_topic, next, publish, rest, subscribe};

pub(super) async fn a_durable_group_gets_everything(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut subscription = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    let publishing = async {
        for start in (0..5000).step_by(100) {
            publish(&*bus, &topic, start..start + 100).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    let receiving = async {
        for expected in 0..5000 {
            let (number, received) = next(&mut *subscription).await?;
            ensure!(number == expected, "{expected} was expected, and {number} came");
            subscription.acknowledge(received.receipt).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    };
    tokio::try_join!(publishing, receiving)?;
    let more = rest(&mut *subscription).await?;
    ensure!(more.is_empty(), "something more came: {more:?}");
    Ok(())
}

pub(super) async fn unacknowledged_messages_come_again_to_another_of_the_group(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut one = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    publish(&*bus, &topic, 0..3).await?;
    for _ in 0..3 {
        next(&mut *one).await?;
    }
    let mut two = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    let waiting = async {
        let mut numbers = Vec::new();
        for _ in 0..3 {
            numbers.push(next(&mut *two).await?.0);
        }
        Ok(numbers)
    };
    let ending = async {
        tokio::task::yield_now().await;
        drop(one);
        Ok::<_, String>(())
    };
    let (mut numbers, ()) = tokio::try_join!(waiting, ending)?;
    numbers.sort_unstable();
    ensure!(numbers == [0, 1, 2], "0, 1 and 2 were not acknowledged, and {numbers:?} came again");
    Ok(())
}

pub(super) async fn unacknowledged_messages_come_again_to_the_next_one(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut one = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    publish(&*bus, &topic, 0..4).await?;
    let (_, first) = next(&mut *one).await?;
    next(&mut *one).await?;
    one.acknowledge(first.receipt).await.map_err(|e| e.to_string())?;
    drop(one);
    let mut two = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    let mut numbers = rest(&mut *two).await?;
    numbers.sort_unstable();
    ensure!(numbers == [1, 2, 3], "1, 2 and 3 were not acknowledged, and {numbers:?} came");
    Ok(())
}

pub(super) async fn acknowledged_messages_do_not_come_again(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut one = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    publish(&*bus, &topic, 0..10).await?;
    for _ in 0..10 {
        let (_, received) = next(&mut *one).await?;
        one.acknowledge(received.receipt).await.map_err(|e| e.to_string())?;
        // Twice is harmless.
        one.acknowledge(received.receipt).await.map_err(|e| e.to_string())?;
    }
    drop(one);
    let mut two = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    let numbers = rest(&mut *two).await?;
    ensure!(numbers.is_empty(), "all were acknowledged, and {numbers:?} came again");
    Ok(())
}

pub(super) async fn a_durable_group_keeps_messages_while_nobody_listens(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    drop(subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?);
    publish(&*bus, &topic, 0..5).await?;
    let mut next = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    let numbers = rest(&mut *next).await?;
    ensure!(numbers == [0, 1, 2, 3, 4], "of 0 to 4, published while nobody listened, came {numbers:?}");
    Ok(())
}

pub(super) async fn unknown_receipts_are_ignored(bus: Box<dyn Bus>) -> Verdict {
    let topic = fresh_topic()?;
    let mut durable = subscribe(&*bus, &topic, Some("g"), Delivery::Durable).await?;
    let mut transient = subscribe(&*bus, &topic, None, Delivery::Transient).await?;
    publish(&*bus, &topic, 0..2).await?;
    for subscription in [&mut durable, &mut transient] {
        let (_, received) = next(&mut **subscription).await?;
        for receipt in [Receipt(u64::MAX), received.receipt, received.receipt] {
            subscription.acknowledge(receipt).await.map_err(|e| format!("acknowledging {receipt:?}: {e}"))?;
        }
        let (number, _) = next(&mut **subscription).await?;
        ensure!(number == 1, "1 was expected, and {number} came");
    }
    Ok(())
}

pub(super) async fn durable_delivery_needs_a_group(bus: Box<dyn Bus>) -> Verdict {
    let subscribe = Subscribe { topic: fresh_topic()?, group: None, delivery: Delivery::Durable };
    let subscribed = soon("subscribe", bus.subscribe(subscribe)).await?;
    let kind = subscribed.as_ref().map_err(|e| e.kind());
    ensure!(matches!(kind, Err(ErrorKind::Invalid)), "the answer without a group was {subscribed:?}");
    Ok(())
}
