//! Hints over Pub/Sub. Each listener has a connection of its own, and heals itself.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use mamos_core::Result;
use mamos_core::hint::{Heard, HintListener, Hints};
use redis::aio::PubSub;
use redis::{Client, RedisError};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Core;
use super::errors::Fault;
use super::link::{FIRST_PAUSE, LONGEST_PAUSE, Way};
use crate::hints::check;

/// How many hints wait for a slow listener before it hears of a gap instead.
const KEPT: usize = 1024;

/// How often a listener that hears nothing asks whether its connection is still there.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Hints between all who use one prefix of one Redis.
pub(super) struct RedisHints {
    pub(super) core: Arc<Core>,
    pub(super) client: Client,
    pub(super) connect_timeout: Duration,
}

impl std::fmt::Debug for RedisHints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client knows the password.
        f.debug_struct("RedisHints").field("place", &self.core.place).finish_non_exhaustive()
    }
}

fn channel(core: &Core) -> String {
    format!("{{{}}}:hints", core.link.prefix)
}

#[async_trait]
impl Hints for RedisHints {
    async fn tell(&self, hints: Vec<Bytes>) -> Result<()> {
        check(&hints)?;
        let channel = channel(&self.core);
        for hint in hints {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(&channel).arg(hint.as_ref());
            let told = self.core.link.send(Way::Other, &publish).await;
            told.map_err(|fault| fault.into_error("hints.tell", &self.core.place))?;
        }
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn HintListener>> {
        let source = Source {
            client: self.client.clone(),
            channel: channel(&self.core),
            connect_timeout: self.connect_timeout,
        };
        let subscribed = source.subscribe().await;
        let subscribed =
            subscribed.map_err(|error| Fault::Redis(error).into_error("hints.listen", &self.core.place))?;
        let (heard, listening) = mpsc::channel(KEPT);
        let hearing = tokio::spawn(hear(source, subscribed, heard)).abort_handle();
        Ok(Box::new(Listener { heard: listening, _hearing: AbortOnDrop(hearing) }))
    }

    fn describe(&self) -> String {
        format!("pub/sub of redis at {}", self.core.place)
    }
}

/// Where hints come from.
struct Source {
    client: Client,
    channel: String,
    connect_timeout: Duration,
}

impl Source {
    async fn subscribe(&self) -> std::result::Result<PubSub, RedisError> {
        let connecting = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(&self.channel).await?;
            Ok(connection)
        };
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

/// Passes on what comes, connects again when the connection is lost, and then says that something may have been
/// missed. Bounded: what a slow listener leaves is dropped, and it hears of a gap.
async fn hear(source: Source, mut connection: PubSub, heard: mpsc::Sender<Heard>) {
    let mut has_missed = false;
    loop {
        let (mut sink, mut messages) = connection.split();
        loop {
            if has_missed {
                match heard.try_send(Heard::Gap) {
                    Ok(()) => has_missed = false,
                    Err(mpsc::error::TrySendError::Full(_)) => {}
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                }
            }
            let message = tokio::select! {
                message = messages.next() => message,
                // A connection that died without a word shows it by not answering this.
                () = tokio::time::sleep(if has_missed { FIRST_PAUSE } else { PING_EVERY }) => {
                    let ping = sink.ping::<redis::Value>();
                    match tokio::time::timeout(source.connect_timeout, ping).await {
                        Ok(Ok(_)) => continue,
                        _ => None,
                    }
                }
            };
            let Some(message) = message else { break };
            if has_missed {
                // Hints after the gap would only be looked at twice.
                continue;
            }
            let hint = Heard::Hint(Bytes::copy_from_slice(message.get_payload_bytes()));
            match heard.try_send(hint) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => has_missed = true,
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
        tracing::warn!(target: "mamos::store", channel = source.channel, "the connection for hints was lost; connecting again");
        let mut pause = FIRST_PAUSE;
        connection = loop {
            tokio::time::sleep(pause).await;
            match source.subscribe().await {
                Ok(connection) => break connection,
                Err(_) if heard.is_closed() => return,
                Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        };
        has_missed = true;
    }
}

#[derive(Debug)]
struct Listener {
    heard: mpsc::Receiver<Heard>,
    _hearing: AbortOnDrop,
}

/// Nothing outlives the listener.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[async_trait]
impl HintListener for Listener {
    async fn next(&mut self) -> Heard {
        self.heard.recv().await.unwrap_or(Heard::Closed)
    }
}
