//! Publishing: one script call for each run of messages of one topic, all on their way at once.

use bytes::Bytes;
use futures_util::future::join_all;
use mamos_core::bus::{MAX_MESSAGE_BYTES, Message};
use mamos_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::super::line::{TRANSIENT_BYTES, TRANSIENT_MESSAGES};
use super::{Shared, keys};

/// How much one call may hold: the server does nothing else meanwhile.
const CALL_MESSAGES: usize = 512;
const CALL_BYTES: usize = MAX_MESSAGE_BYTES;
/// How many calls are on their way at once.
const CALLS: usize = 8;

pub(super) async fn publish(shared: &Shared, messages: Vec<Message>) -> Result<()> {
    let calls = calls(&messages);
    let mut is_some_taken = false;
    // The first call alone: should the server have forgotten the script, it learns it there, and calls that
    // follow keep their order.
    let (first, rest) = calls.split_at(calls.len().min(1));
    for window in [first].into_iter().chain(rest.chunks(CALLS)) {
        let work = async {
            let connection = shared.commands.get(&shared.server).await?;
            // The client sends them in the order in which they are first polled.
            let answers = join_all(window.iter().map(|call| {
                let mut connection = connection.clone();
                async move { send(shared, &mut connection, call).await }
            }));
            Ok::<_, Error>(answers.await)
        };
        let answers = timeout(shared.settings.publish_timeout, work)
            .await
            .unwrap_or_else(|_| Err(shared.server.unavailable("bus.publish")))?;
        let mut is_full = false;
        for answer in answers {
            match answer {
                Ok(true) => is_some_taken = true,
                Ok(false) => is_full = true,
                Err(error) => return Err(shared.commands.failed(&shared.server, "bus.publish", error).await),
            }
        }
        if is_full {
            let (kind, what) = match is_some_taken {
                true => (ErrorKind::Unavailable, "a part of the batch was taken"),
                false => (ErrorKind::LimitExceeded, "none was taken"),
            };
            let message = format!("a durable topic is full; {what}, try again later");
            return Err(Error::new(kind, "bus.publish", message));
        }
    }
    Ok(())
}

async fn send(
    shared: &Shared,
    connection: &mut redis::aio::MultiplexedConnection,
    call: &[Message],
) -> redis::RedisResult<bool> {
    let Some(first) = call.first() else { return Ok(true) };
    let (prefix, topic) = (&shared.settings.prefix, &first.topic);
    let mut script = shared.scripts.publish.key(keys::members(prefix, topic));
    script.key(keys::stream(prefix, topic));
    script.arg(keys::channel(prefix, topic)).arg(keys::lists(prefix, topic));
    script.arg(shared.settings.durable_messages).arg(TRANSIENT_MESSAGES).arg(TRANSIENT_BYTES);
    for message in call {
        script.arg(payload(&message.payload));
    }
    script.invoke_async(connection).await
}

fn payload(bytes: &Bytes) -> &[u8] {
    bytes
}

/// Runs of one topic, each within the bounds of a call.
fn calls(messages: &[Message]) -> Vec<&[Message]> {
    let mut calls = Vec::new();
    for run in messages.chunk_by(|a, b| a.topic == b.topic) {
        let (mut start, mut bytes) = (0, 0);
        for (index, message) in run.iter().enumerate() {
            bytes += message.payload.len();
            if index > start && (index - start == CALL_MESSAGES || bytes > CALL_BYTES) {
                calls.push(&run[start..index]);
                (start, bytes) = (index, message.payload.len());
            }
        }
        calls.push(&run[start..]);
    }
    calls
}

#[cfg(test)]
mod tests {
    use mamos_core::id::TopicName;

    use super::*;

    #[test]
    fn calls_are_bounded_and_lose_nothing() {
        let message = |topic: &str, bytes: usize| Message {
            topic: TopicName::new(topic).unwrap(),
            payload: Bytes::from(vec![0; bytes]),
        };
        let mut messages = vec![message("a", 1); CALL_MESSAGES + 1];
        messages.push(message("b", 1));
        messages.extend(vec![message("b", CALL_BYTES / 2); 3]);
        let sizes: Vec<_> = calls(&messages).iter().map(|call| call.len()).collect();
        assert_eq!(sizes, [CALL_MESSAGES, 1, 2, 2]);
        assert!(calls(&[]).is_empty());
    }
}
