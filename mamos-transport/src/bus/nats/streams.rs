//! The streams and consumers of durable topics.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, ConsumerErrorKind, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use mamos_core::id::{GroupName, TopicName};
use mamos_core::{Error, ErrorKind, Result};

use super::foreign;
use super::session::Session;
use super::subjects::Subjects;

/// The most messages of a group that are handed out and not acknowledged.
pub(super) const GROUP_UNACKNOWLEDGED: i64 = 16_384;
/// How long the parts of large messages are kept at most. They go with the last acknowledgement; this is
/// for those whose publisher or receiver died half-way.
const PARTS_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes what a group needs, unless it is there.
pub(super) async fn ensure(session: &Session, topic: &TopicName, group: &GroupName) -> Result<()> {
    let subjects = session.subjects(topic);
    let jetstream = context(session);
    let stream = Config {
        name: subjects.stream(),
        description: Some(format!("MAMOS: {topic}")),
        subjects: vec![subjects.durable()],
        // What all groups acknowledged goes away.
        retention: RetentionPolicy::Interest,
        // A full topic refuses; it never drops what was taken.
        discard: DiscardPolicy::New,
        max_messages: i64::from(session.settings.durable_messages),
        storage: StorageType::File,
        num_replicas: session.settings.replicas,
        ..Config::default()
    };
    let parts = Config {
        name: subjects.parts_stream(),
        description: Some(format!("MAMOS: parts of large messages of {topic}")),
        subjects: vec![subjects.durable_part("*", "*")],
        max_age: PARTS_AGE,
        max_messages: -1,
        retention: RetentionPolicy::Limits,
        ..stream.clone()
    };
    for config in [&parts, &stream] {
        let found = jetstream.get_or_create_stream(config).await.map_err(|error| stream_error(&error))?;
        if let Some(what) = foreign::in_stream(&found.cached_info().config, config) {
            return Err(foreign::refused(&format!("the stream {}", config.name), &what));
        }
    }
    let stream = jetstream.get_stream_no_info(&stream.name).await.map_err(|error| {
        let message = "the stream of a durable topic cannot be used; try again";
        Error::new(ErrorKind::Unavailable, "bus.subscribe", message).with_source(error.to_string())
    })?;
    let name = subjects.consumer(group);
    let consumer = pull::Config {
        durable_name: Some(name.clone()),
        description: Some(format!("MAMOS: {topic}, group {group}")),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        ack_wait: session.settings.redeliver_after,
        max_ack_pending: GROUP_UNACKNOWLEDGED,
        filter_subject: subjects.durable(),
        ..pull::Config::default()
    };
    let place = format!("the consumer {name} of the stream {}", subjects.stream());
    let found = stream.get_or_create_consumer(&name, consumer.clone()).await.map_err(|error| {
        if error.kind() == ConsumerErrorKind::InvalidConsumerType {
            return foreign::refused(&place, "it pushes its messages to a subject");
        }
        let message = "the consumer of a durable group cannot be made; see the server's log";
        Error::new(ErrorKind::Unavailable, "bus.subscribe", message).with_source(error.to_string())
    })?;
    match foreign::in_consumer(&found.cached_info().config, &consumer) {
        Some(what) => Err(foreign::refused(&place, &what)),
        None => Ok(()),
    }
}

/// Fetches the parts of a large message; `None` if they are not all there.
pub(super) async fn fetch(
    session: &Session,
    subjects: &Subjects,
    id: &str,
    count: usize,
) -> Result<Option<Vec<bytes::Bytes>>> {
    let unavailable = |error: String| {
        Error::new(ErrorKind::Unavailable, "bus.receive", "the parts of a large message cannot be read")
            .with_source(error)
    };
    let stream = context(session).get_stream_no_info(subjects.parts_stream()).await;
    let stream = stream.map_err(|error| unavailable(error.to_string()))?;
    let mut parts = Vec::new();
    for number in 0..count {
        let subject = subjects.durable_part(id, &number.to_string());
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(part) => parts.push(part.payload),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                LastRawMessageErrorKind::JetStream(inner)
                    if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
                {
                    return Ok(None);
                }
                _ => return Err(unavailable(error.to_string())),
            },
        }
    }
    Ok(Some(parts))
}

/// Removes the parts of a large message once no group needs its head any more.
pub(super) async fn remove_parts(session: &Session, subjects: &Subjects, head: u64, id: &str) {
    let jetstream = context(session);
    let Ok(stream) = jetstream.get_stream_no_info(subjects.stream()).await else { return };
    let is_gone = match stream.get_raw_message(head).await {
        Ok(_) => false,
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => true,
            LastRawMessageErrorKind::JetStream(inner) => inner.error_code() == ErrorCode::NO_MESSAGE_FOUND,
            _ => false,
        },
    };
    if !is_gone {
        return;
    }
    if let Ok(parts) = jetstream.get_stream_no_info(subjects.parts_stream()).await
        && let Err(error) = parts.purge().filter(subjects.durable_part(id, "*")).await
    {
        tracing::debug!(target: "mamos::bus", %error, "parts of a large message stay until they are too old");
    }
}

fn context(session: &Session) -> Context {
    let mut context = jetstream::new(session.client.clone());
    context.set_timeout(session.settings.publish_timeout);
    context
}

fn stream_error(error: &async_nats::jetstream::context::CreateStreamError) -> Error {
    let text = error.to_string();
    let is_missing = match error.kind() {
        CreateStreamErrorKind::JetStreamUnavailable => true,
        CreateStreamErrorKind::JetStream(inner) => {
            matches!(
                inner.error_code(),
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            )
        }
        _ => false,
    } || text.contains("no responders");
    if is_missing {
        let message = "durable delivery needs JetStream, which this server or account does not have; start \
                       nats-server with -js, or put `jetstream {}` into its configuration";
        return Error::new(ErrorKind::Config, "bus.subscribe", message).with_source(text);
    }
    if let CreateStreamErrorKind::JetStream(inner) = error.kind() {
        let message = "JetStream refuses the stream of a durable topic; see whether somebody else made one \
                       on its subjects, and whether its limits leave room";
        return Error::new(ErrorKind::Config, "bus.subscribe", message).with_source(inner.to_string());
    }
    let message = "JetStream did not answer; see whether this user may use $JS.API.>, and the server's log";
    Error::new(ErrorKind::Unavailable, "bus.subscribe", message).with_source(text)
}
