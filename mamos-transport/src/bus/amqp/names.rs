//! How topics and groups are called at the broker.
//!
//! The routing key is the topic. Queues are called `EXCHANGE~KIND~TOPIC~GROUP`: `~` is in no name of ours, so
//! that no two are mixed up, and the topic stands unchanged, so that permissions can be given by it.

use mamos_core::bus::{Delivery, Subscribe};
use sha2::{Digest, Sha256};

/// What AMQP allows.
const MAX_QUEUE_NAME_BYTES: usize = 255;
/// So much that a queue's name has room for a topic of 128 bytes and the digest of a group.
pub(super) const MAX_EXCHANGE_BYTES: usize = 40;

/// The queue that a group shares, or a new one for a subscription without a group.
pub(super) fn queue(exchange: &str, subscribe: &Subscribe) -> String {
    let topic = &subscribe.topic;
    let Some(group) = &subscribe.group else {
        // Never the same twice: after a loss the broker may not have noticed yet that the old one is over.
        return format!("{exchange}~alone~{topic}~{:032x}", fastrand::u128(..));
    };
    let kind = match subscribe.delivery {
        Delivery::Transient => "transient",
        Delivery::Durable => "durable",
    };
    let name = format!("{exchange}~{kind}~{topic}~{group}");
    if name.len() <= MAX_QUEUE_NAME_BYTES {
        return name;
    }
    let digest: String = Sha256::digest(group.as_str()).iter().map(|byte| format!("{byte:02x}")).collect();
    // `#` is in no group's name either.
    format!("{exchange}~{kind}~{topic}~#{digest}")
}

/// Can the exchange be called that?
pub(super) fn is_exchange(name: &str) -> bool {
    (1..=MAX_EXCHANGE_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        // The broker keeps these for itself.
        && !name.starts_with("amq.")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use mamos_core::id::{GroupName, TopicName};

    use super::*;

    fn named(topic: &str, group: &str, delivery: Delivery) -> String {
        let topic = TopicName::new(topic).unwrap();
        let group = Some(GroupName::new(group).unwrap());
        queue("mamos", &Subscribe { topic, group, delivery })
    }

    #[test]
    fn no_two_queues_share_a_name() {
        let long = "g".repeat(128);
        let longer = format!("{}h", "g".repeat(127));
        let topics = ["a", "a.b", "a.b.c", "a:b", &"t".repeat(128)];
        let groups = ["a", "b", "b.c", "b-c", &long, &longer];
        let mut seen = HashSet::new();
        for delivery in [Delivery::Transient, Delivery::Durable] {
            for topic in topics {
                for group in groups {
                    let name = named(topic, group, delivery);
                    assert!(name.len() <= MAX_QUEUE_NAME_BYTES, "{name}");
                    assert!(seen.insert(name.clone()), "{name} twice");
                }
            }
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let topic = TopicName::new("t".repeat(128)).unwrap();
        let group = Some(GroupName::new("g".repeat(128)).unwrap());
        let exchange = "e".repeat(MAX_EXCHANGE_BYTES);
        for (group, delivery) in [(group.clone(), Delivery::Transient), (group, Delivery::Durable)] {
            let name = queue(&exchange, &Subscribe { topic: topic.clone(), group, delivery });
            assert!(name.len() <= MAX_QUEUE_NAME_BYTES && name.contains(topic.as_str()), "{name}");
        }
        let alone = Subscribe { topic, group: None, delivery: Delivery::Transient };
        assert!(queue(&exchange, &alone).len() <= MAX_QUEUE_NAME_BYTES);
    }

    #[test]
    fn an_exchange_has_a_plain_name() {
        assert!(is_exchange("mamos") && is_exchange("mamos-2.test_1"));
        for wrong in ["", "amq.topic", "a~b", "a b", "#", &"x".repeat(MAX_EXCHANGE_BYTES + 1)] {
            assert!(!is_exchange(wrong), "{wrong}");
        }
    }
}
