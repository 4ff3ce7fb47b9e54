//! Streams and consumers that have our name and that somebody else made, or changed.
//!
//! Only what a promise of the bus depends on is looked at: how many messages, bytes and replicas a topic has
//! is for whoever runs the server to change.

use async_nats::jetstream::consumer::{self, AckPolicy, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use mamos_core::{Error, ErrorKind};

/// What keeps this stream from being the one that was wanted.
pub(super) fn in_stream(found: &Config, wanted: &Config) -> Option<String> {
    if found.subjects != wanted.subjects {
        return Some(format!("its subjects are {:?} and not {:?}", found.subjects, wanted.subjects));
    }
    if found.retention != wanted.retention {
        return Some(format!("its retention is {:?} and not {:?}", found.retention, wanted.retention));
    }
    if found.discard != wanted.discard {
        return Some(format!(
            "it discards {:?} messages when it is full, and not {:?}",
            found.discard, wanted.discard
        ));
    }
    if found.storage != wanted.storage {
        return Some(format!("it is kept in {:?}, not in {:?}", found.storage, wanted.storage));
    }
    // Parts are kept for a while only, and for how long is for whoever runs the server to say.
    if wanted.retention == RetentionPolicy::Interest && !found.max_age.is_zero() {
        return Some(format!("it forgets messages after {:?}", found.max_age));
    }
    let is_copy = found.mirror.is_some() || found.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    let faults = [
        (found.no_ack, "it acknowledges nothing (no_ack)"),
        (found.sealed, "it is sealed"),
        (is_copy, "it is a copy of another stream"),
        (found.max_messages_per_subject > 0, "it limits the messages of a subject"),
        (found.max_message_size > 0, "it limits the size of messages"),
    ];
    faults.into_iter().find(|(is_so, _)| *is_so).map(|(_, what)| what.to_owned())
}

/// The same for a consumer.
pub(super) fn in_consumer(found: &consumer::Config, wanted: &pull::Config) -> Option<String> {
    if found.filter_subject != wanted.filter_subject {
        return Some(format!("it is for {:?} and not for {:?}", found.filter_subject, wanted.filter_subject));
    }
    let faults = [
        (found.deliver_subject.is_some(), "it pushes its messages to a subject"),
        (found.ack_policy != AckPolicy::Explicit, "it does not wait for acknowledgements"),
        (found.max_deliver > 0, "it gives up after some deliveries (max_deliver)"),
        (found.headers_only, "it delivers headers only"),
        (!found.inactive_threshold.is_zero(), "it goes when nobody uses it (inactive_threshold)"),
    ];
    faults.into_iter().find(|(is_so, _)| *is_so).map(|(_, what)| what.to_owned())
}

pub(super) fn refused(place: &str, what: &str) -> Error {
    let message = format!(
        "{place} was made or changed by somebody else: {what}; delete it if nobody needs it, or choose another \
         prefix"
    );
    Error::new(ErrorKind::Config, "bus.subscribe", message)
}
