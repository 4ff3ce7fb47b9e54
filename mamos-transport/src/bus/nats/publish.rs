//! Publishing.
//!
//! A message goes to those who listen, and into the topic's stream if the topic has one. Whether it has is
//! asked with each batch, by a question that is also the round trip that shows that the server has taken
//! the messages: nothing listens to the stream's subject of a topic without durable groups, and the server
//! says so at once.

use std::ops::Range;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{HeaderMap, StatusCode, Subject, header};
use bytes::Bytes;
use mamos_core::bus::{MAX_MESSAGE_BYTES, Message};
use mamos_core::id::TopicName;
use mamos_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::parts::{self, HEADER_ROOM, Head};
use super::session::{Session, lost};
use super::subjects::{Subjects, digest};

/// How much may be on its way before the server has answered: enough to keep it busy, little enough to
/// bound what waits in the client.
const WINDOW_MESSAGES: usize = 1024;
const WINDOW_BYTES: usize = MAX_MESSAGE_BYTES;

/// What a question about a stream is answered with by a stream that exists: it refuses the message, which
/// is meant for one of another name. No stream of ours has this name.
const QUESTION_FOR: &str = "none";

pub(super) async fn publish(session: &Session, messages: Vec<Message>) -> Result<()> {
    session.check_open("bus.publish")?;
    // Bounds each window, not the batch: a long batch that makes progress is no outage.
    let mut is_some_taken = false;
    let mut rest = 0..0;
    while rest.end < messages.len() {
        rest = window(&messages, rest.end);
        let work = publish_window(session, &messages[rest.clone()]);
        match timeout(session.settings.publish_timeout, work).await {
            Ok(Ok(())) => is_some_taken = true,
            Ok(Err(error)) if is_some_taken && error.kind() == ErrorKind::LimitExceeded => {
                let message =
                    "a durable topic is full, and the beginning of the batch was taken; try again later";
                return Err(Error::new(ErrorKind::Unavailable, "bus.publish", message).with_source(error));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(session.unavailable("bus.publish")),
        }
    }
    Ok(())
}

/// As many of the messages from `start` on as may be on their way at once; at least one.
fn window(messages: &[Message], start: usize) -> Range<usize> {
    let mut bytes = 0;
    let mut end = start;
    for message in messages[start..].iter().take(WINDOW_MESSAGES) {
        bytes += message.payload.len();
        if end > start && bytes > WINDOW_BYTES {
            break;
        }
        end += 1;
    }
    start..end
}

/// One topic of a window.
struct Topic<'a> {
    name: &'a TopicName,
    subjects: Subjects,
    /// Cloned for each message: a count, not a copy.
    transient: Subject,
    durable: String,
}

async fn publish_window(session: &Session, messages: &[Message]) -> Result<()> {
    session.until_connected().await;
    let mut topics: Vec<Topic<'_>> = Vec::new();
    let mut numbered = Vec::with_capacity(messages.len());
    for message in messages {
        // Batches have few topics, and runs of one.
        let found = topics.iter().rposition(|topic| *topic.name == message.topic);
        numbered.push(found.unwrap_or_else(|| {
            let subjects = session.subjects(&message.topic);
            let (transient, durable) = (Subject::from(subjects.transient()), subjects.durable());
            topics.push(Topic { name: &message.topic, subjects, transient, durable });
            topics.len() - 1
        }));
    }
    let (known, unknown): (Vec<usize>, Vec<usize>) = {
        let durable = session.durable_topics();
        (0..topics.len()).partition(|number| durable.contains(topics[*number].name))
    };
    let of = |chosen: &[usize]| -> Vec<(usize, &Bytes)> {
        let all = numbered.iter().copied().zip(messages.iter().map(|message| &message.payload));
        all.filter(|(number, _)| chosen.contains(number)).collect()
    };
    // Streams first: they may be full, and then nobody should have got the messages.
    if !known.is_empty() {
        to_streams(session, &topics, &of(&known)).await?;
    }
    to_listeners(session, &topics, &of(&(0..topics.len()).collect::<Vec<_>>())).await?;
    if unknown.is_empty() {
        return Ok(());
    }
    let found = have_streams(session, &topics, &unknown).await?;
    if found.is_empty() {
        return Ok(());
    }
    session.durable_topics().extend(found.iter().map(|number| topics[*number].name.clone()));
    to_streams(session, &topics, &of(&found)).await
}

async fn to_listeners(session: &Session, topics: &[Topic<'_>], messages: &[(usize, &Bytes)]) -> Result<()> {
    let client = &session.client;
    let most = client.max_payload();
    for (number, payload) in messages {
        let topic = &topics[*number];
        if payload.len() <= most {
            client.publish(topic.transient.clone(), (*payload).clone()).await.map_err(lost)?;
            continue;
        }
        let id = part_id(session);
        let parts = parts::split(payload, most.saturating_sub(HEADER_ROOM));
        let head = Head { id, count: parts.len(), bytes: payload.len() };
        for (index, part) in parts.into_iter().enumerate() {
            let subject = topic.subjects.transient_part(&head.id, &index.to_string());
            client.publish(subject, part).await.map_err(lost)?;
        }
        let subject = topic.transient.clone();
        client.publish_with_headers(subject, head.headers(), Bytes::new()).await.map_err(lost)?;
    }
    Ok(())
}

/// Which of these topics have a stream.
async fn have_streams(session: &Session, topics: &[Topic<'_>], asked: &[usize]) -> Result<Vec<usize>> {
    let mut call = session.call();
    let mut question = HeaderMap::new();
    question.insert(header::NATS_EXPECTED_STREAM, QUESTION_FOR);
    for number in asked {
        let tag = u32::try_from(*number).unwrap_or(u32::MAX);
        let subject = topics[*number].durable.clone();
        let sent = session.client.publish_with_reply_and_headers(
            subject,
            call.reply(tag),
            question.clone(),
            Bytes::new(),
        );
        sent.await.map_err(lost)?;
    }
    let concerned: Vec<_> =
        topics.iter().flat_map(|topic| [topic.transient.as_str(), topic.durable.as_str()]).collect();
    let mut found = Vec::new();
    for _ in asked {
        let (tag, answer) = call.next(&concerned).await?;
        if answer.status != Some(StatusCode::NO_RESPONDERS) {
            found.push(tag as usize);
        }
    }
    call.check_violations(&concerned)?;
    Ok(found)
}

async fn to_streams(session: &Session, topics: &[Topic<'_>], messages: &[(usize, &Bytes)]) -> Result<()> {
    let most = session.client.max_payload();
    let mut is_some_taken = false;
    for run in messages.chunk_by(|(_, a), (_, b)| a.len() <= most && b.len() <= most) {
        let sent = match run {
            [(number, payload)] if payload.len() > most => {
                large_to_stream(session, &topics[*number], payload, most).await
            }
            small => small_to_streams(session, topics, small).await,
        };
        match sent {
            Ok(()) => is_some_taken = true,
            Err(error) if is_some_taken && error.kind() == ErrorKind::LimitExceeded => {
                let message =
                    "a durable topic is full, and the beginning of the batch was taken; try again later";
                return Err(Error::new(ErrorKind::Unavailable, "bus.publish", message).with_source(error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn small_to_streams(
    session: &Session,
    topics: &[Topic<'_>],
    messages: &[(usize, &Bytes)],
) -> Result<()> {
    let sends = messages.iter().map(|(number, payload)| Send {
        topic: &topics[*number],
        subject: topics[*number].durable.clone(),
        headers: None,
        payload: (*payload).clone(),
    });
    send_and_await(session, sends).await
}

/// The parts are in their stream before the head is in the topic's: who gets the head finds them.
async fn large_to_stream(session: &Session, topic: &Topic<'_>, payload: &Bytes, most: usize) -> Result<()> {
    let parts = parts::split(payload, most.saturating_sub(HEADER_ROOM));
    let head = Head { id: part_id(session), count: parts.len(), bytes: payload.len() };
    let sends = parts.into_iter().enumerate().map(|(index, part)| {
        let subject = topic.subjects.durable_part(&head.id, &index.to_string());
        Send { topic, subject, headers: None, payload: part }
    });
    send_and_await(session, sends).await?;
    let subject = topic.durable.clone();
    let head = Send { topic, subject, headers: Some(head.headers()), payload: Bytes::new() };
    send_and_await(session, std::iter::once(head)).await
}

struct Send<'a> {
    topic: &'a Topic<'a>,
    subject: String,
    headers: Option<HeaderMap>,
    payload: Bytes,
}

/// Sends all, then awaits the answers of the streams.
async fn send_and_await<'a>(session: &Session, sends: impl ExactSizeIterator<Item = Send<'a>>) -> Result<()> {
    let mut call = session.call();
    let mut sent = Vec::with_capacity(sends.len());
    let mut concerned: Vec<&str> = Vec::new();
    for (tag, send) in (0..).zip(sends) {
        let (reply, client) = (call.reply(tag), &session.client);
        match send.headers {
            None => client.publish_with_reply(send.subject, reply, send.payload).await.map_err(lost)?,
            Some(headers) => client
                .publish_with_reply_and_headers(send.subject, reply, headers, send.payload)
                .await
                .map_err(lost)?,
        }
        sent.push(send.topic);
        if concerned.last() != Some(&send.topic.durable.as_str()) {
            concerned.push(&send.topic.durable);
        }
    }
    let mut taken = 0;
    let mut failure = None;
    for _ in 0..sent.len() {
        let (tag, answer) = call.next(&concerned).await?;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            // Somebody removed the stream, and the groups with it; or the server restarts. Asked again next
            // time.
            if let Some(topic) = sent.get(tag as usize) {
                session.durable_topics().remove(topic.name);
            }
            let message = "the stream of a durable topic does not answer; try again";
            failure.get_or_insert(Error::new(ErrorKind::Unavailable, "bus.publish", message));
            continue;
        }
        match read(&answer.payload) {
            Ok(()) => taken += 1,
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        None => Ok(()),
        Some(error) if taken > 0 && error.kind() == ErrorKind::LimitExceeded => {
            let message = "a durable topic is full, and some of the batch was taken; try again later";
            Err(Error::new(ErrorKind::Unavailable, "bus.publish", message).with_source(error))
        }
        Some(error) => Err(error),
    }
}

/// What a stream says to a message.
fn read(answer: &[u8]) -> Result<()> {
    let refused = |kind, message: &str| Error::new(kind, "bus.publish", message);
    match serde_json::from_slice::<Response<PublishAck>>(answer) {
        Ok(Response::Ok(_)) => Ok(()),
        Ok(Response::Err { error }) => {
            let is_full =
                error.error_code() == ErrorCode::STREAM_STORE_FAILED && error.to_string().contains("maximum");
            Err(match is_full {
                true => refused(ErrorKind::LimitExceeded, "a durable topic is full; try again later"),
                false => refused(ErrorKind::Unavailable, "JetStream could not take a message; see its log"),
            }
            .with_source(error.to_string()))
        }
        Err(error) => {
            Err(refused(ErrorKind::Unavailable, "something other than JetStream answered on a durable topic")
                .with_source(error))
        }
    }
}

/// An id that no other large message has.
fn part_id(session: &Session) -> String {
    digest(&[&session.call().reply(0)])
}
