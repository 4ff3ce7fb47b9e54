//! Hints, carried by `NOTIFY`. Told outside of the transactions they speak of: a transaction that notifies
//! takes a lock of the whole server at its commit, so that commits would no longer be grouped. Only what a host stores
//! in its own transaction is told with that one: nobody else would tell it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::Result;
use mamos_core::hint::{Heard, HintListener, Hints};
use sqlx::PgPool;
use sqlx::postgres::{PgConnection, PgListener};

use super::connect::Place;
use super::errors::{Fault, timed_out};
use crate::hints::check;

/// The pause before the first try to connect again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);

const NOTIFY: &str = "SELECT pg_notify($1, text) FROM unnest($2::text[]) AS text";

pub(super) struct PostgresHints {
    place: Arc<Place>,
    pool: PgPool,
    channel: Arc<str>,
}

impl PostgresHints {
    pub(super) fn new(place: Arc<Place>, pool: PgPool) -> Self {
        // A channel is a name of the whole database, and names have at most 63 bytes. What is cut off may make two
        // schemas share one; their hints are then heard by both, and cost a look.
        let mut channel = format!("mamos_{}", place.schema);
        while channel.len() > 63 {
            channel.pop();
        }
        Self { place, pool, channel: channel.into() }
    }

    /// Tells with the commit of the transaction that is open on the connection, or at once if none is.
    pub(super) async fn tell_in(
        &self,
        connection: &mut PgConnection,
        hints: Vec<Bytes>,
    ) -> Result<(), Fault> {
        if !hints.is_empty() {
            let texts: Vec<String> = hints.iter().map(|hint| encode(hint)).collect();
            sqlx::query(NOTIFY).bind(&*self.channel).bind(texts).execute(connection).await?;
        }
        Ok(())
    }

    async fn notify(&self, texts: Vec<String>) -> Result<(), Fault> {
        let told = sqlx::query(NOTIFY).bind(&*self.channel).bind(texts).execute(&self.pool);
        let told = tokio::time::timeout(self.place.timeout, told).await;
        told.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))?;
        Ok(())
    }
}

impl fmt::Debug for PostgresHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresHints").field("channel", &self.channel).finish_non_exhaustive()
    }
}

#[async_trait]
impl Hints for PostgresHints {
    async fn tell(&self, hints: Vec<Bytes>) -> Result<()> {
        check(&hints)?;
        if hints.is_empty() {
            return Ok(());
        }
        let texts = hints.iter().map(|hint| encode(hint)).collect();
        self.notify(texts).await.map_err(|fault| fault.at("hints.tell", &self.place.name))
    }

    async fn listen(&self) -> Result<Box<dyn HintListener>> {
        let mut listener = Listener {
            place: Arc::clone(&self.place),
            store: self.pool.clone(),
            channel: Arc::clone(&self.channel),
            connected: None,
            pause: FIRST_PAUSE,
        };
        let connected = listener.connect().await;
        listener.connected = Some(connected.map_err(|fault| fault.at("hints.listen", &self.place.name))?);
        Ok(Box::new(listener))
    }

    fn describe(&self) -> String {
        format!("postgres at {}, channel {}", self.place.name, self.channel)
    }
}

/// Listens on a connection of its own, which is made again when it breaks.
struct Listener {
    place: Arc<Place>,
    /// When this is closed, so is the store.
    store: PgPool,
    channel: Arc<str>,
    connected: Option<PgListener>,
    pause: Duration,
}

impl Listener {
    async fn connect(&self) -> Result<PgListener, Fault> {
        let connecting = async {
            let pool = self.place.listening();
            let mut listener = PgListener::connect_with(&pool).await?;
            // It would say nothing of the gap that it bridges.
            listener.eager_reconnect(false);
            listener.listen(&self.channel).await?;
            Ok(listener)
        };
        tokio::time::timeout(self.place.timeout, connecting).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("channel", &self.channel).finish_non_exhaustive()
    }
}

#[async_trait]
impl HintListener for Listener {
    async fn next(&mut self) -> Heard {
        loop {
            if self.store.is_closed() {
                return Heard::Closed;
            }
            let Some(listener) = &mut self.connected else {
                tokio::select! {
                    () = self.store.close_event() => return Heard::Closed,
                    () = tokio::time::sleep(self.pause) => {}
                }
                self.pause = (self.pause * 2).min(MAX_PAUSE);
                if let Ok(listener) = self.connect().await {
                    self.connected = Some(listener);
                    self.pause = FIRST_PAUSE;
                    return Heard::Gap;
                }
                continue;
            };
            let heard = tokio::select! {
                () = self.store.close_event() => return Heard::Closed,
                heard = listener.try_recv() => heard,
            };
            match heard {
                Ok(Some(notification)) => {
                    // Anyone in the database may notify; what is no hint is none of ours.
                    if let Some(hint) = decode(notification.payload()) {
                        return Heard::Hint(hint);
                    }
                }
                Ok(None) | Err(_) => self.connected = None,
            }
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 without padding.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            let index = (number >> (18 - 6 * digit)) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

fn decode(text: &str) -> Option<Bytes> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut number = 0_u32;
        for digit in chunk {
            let value = ALPHABET.iter().position(|known| known == digit)?;
            number = number << 6 | value as u32;
        }
        number <<= 6 * (4 - chunk.len());
        let length = match chunk.len() {
            1 => return None,
            length => length - 1,
        };
        bytes.extend_from_slice(&number.to_be_bytes()[1..=length]);
    }
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back_from_text() {
        for length in 0..40_u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(83)).collect();
            assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }
        assert_eq!(encode(b"hint!"), "aGludCE");
        assert!(decode("a").is_none() && decode("not text").is_none());
    }
}
