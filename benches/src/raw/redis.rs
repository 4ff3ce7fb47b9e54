//! Baselines with streams, with the same library: what the server costs.
//!
//! One stream with one consumer group, and nothing else: no fencing, no sessions, no retries, no history.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client};
use tokio::task::JoinSet;

use crate::measures::enqueue::{CALLERS, take_one};
use crate::measures::latency::nanos;
use crate::measures::{BULK, payload};
use crate::settings::Settings;

/// How many jobs one call reads and one pipeline finishes.
const BATCH: usize = 500;
/// How many consumers drain the stream, a connection each.
const CONSUMERS: u64 = 4;
/// How many keys one command removes.
const REMOVED: usize = 1000;

const GROUP: &str = "group";

/// A prefix of a round's own.
pub(crate) struct Prefix {
    url: String,
    name: String,
}

impl Prefix {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self::at(settings.url.as_deref())
    }

    /// On the given server or the one on this machine.
    pub(crate) fn at(url: Option<&str>) -> Self {
        let url = url.unwrap_or("redis://127.0.0.1:6379").to_owned();
        Self { url, name: format!("mamos-bench-{:016x}", fastrand::u64(..)) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = Client::open(self.url.as_str()).context("the URL of redis is wrong; see --url")?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        connection.context("redis does not answer; start one, or name another with --url")
    }

    /// Removes all keys under the prefix.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{{{}}}:*", self.name)).arg("COUNT").arg(REMOVED);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
            for keys in keys.chunks(REMOVED) {
                redis::cmd("UNLINK").arg(keys).query_async::<()>(&mut connection).await?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }
}

/// A stream of a round's own.
struct Stream {
    prefix: Prefix,
    key: String,
    connection: MultiplexedConnection,
}

impl Stream {
    async fn make(settings: &Settings) -> anyhow::Result<Self> {
        let prefix = Prefix::new(settings);
        let key = format!("{{{}}}:stream", prefix.name);
        let mut connection = prefix.connect().await?;
        connection.xgroup_create_mkstream::<_, _, _, ()>(&key, GROUP, "0").await?;
        Ok(Self { prefix, key, connection })
    }

    async fn add_all(&mut self, count: u64, payload_bytes: usize) -> anyhow::Result<Duration> {
        let payload = payload(payload_bytes);
        let begun = Instant::now();
        for first in (0..count).step_by(BULK) {
            let mut pipeline = redis::pipe();
            for _ in first..(first + BULK as u64).min(count) {
                pipeline.xadd(&self.key, "*", &[("p", payload.as_ref())]).ignore();
            }
            pipeline.query_async::<()>(&mut self.connection).await?;
        }
        Ok(begun.elapsed())
    }
}

/// Reads up to that many, and gives how many, with the bytes of their payloads.
async fn take(
    connection: &mut MultiplexedConnection,
    key: &str,
    options: &StreamReadOptions,
) -> anyhow::Result<(Vec<String>, usize)> {
    let reply: Option<StreamReadReply> = connection.xread_options(&[key], &[">"], options).await?;
    let (mut ids, mut bytes) = (Vec::new(), 0);
    for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
        bytes += entry.get::<Vec<u8>>("p").map_or(0, |payload| payload.len());
        ids.push(entry.id);
    }
    Ok((ids, bytes))
}

async fn finish(connection: &mut MultiplexedConnection, key: &str, ids: &[String]) -> anyhow::Result<()> {
    let mut pipeline = redis::pipe();
    pipeline.xack(key, GROUP, ids).ignore().xdel(key, ids).ignore();
    Ok(pipeline.query_async::<()>(connection).await?)
}

/// Adds one at a time, over one connection.
pub(crate) async fn enqueue(settings: &Settings, count: u64) -> anyhow::Result<Duration> {
    let stream = Stream::make(settings).await?;
    let left = Arc::new(AtomicU64::new(count));
    let mut callers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CALLERS {
        let (left, key, mut connection) = (Arc::clone(&left), stream.key.clone(), stream.connection.clone());
        let payload = payload(settings.payload_bytes);
        callers.spawn(async move {
            while take_one(&left) {
                connection.xadd::<_, _, _, _, ()>(&key, "*", &[("p", payload.as_ref())]).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let took = begun.elapsed();
    stream.prefix.remove().await?;
    Ok(took)
}

/// Adds many at a time.
pub(crate) async fn bulk(settings: &Settings, count: u64) -> anyhow::Result<Duration> {
    let mut stream = Stream::make(settings).await?;
    let took = stream.add_all(count, settings.payload_bytes).await?;
    stream.prefix.remove().await?;
    Ok(took)
}

/// Reads and finishes everything.
pub(crate) async fn drain(settings: &Settings, count: u64) -> anyhow::Result<Duration> {
    let mut stream = Stream::make(settings).await?;
    stream.add_all(count, settings.payload_bytes).await?;
    let mut consumers: JoinSet<anyhow::Result<(u64, usize)>> = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..CONSUMERS {
        connections.push(stream.prefix.connect().await?);
    }
    let begun = Instant::now();
    for (number, mut connection) in connections.into_iter().enumerate() {
        let key = stream.key.clone();
        consumers.spawn(async move {
            let options = StreamReadOptions::default().group(GROUP, number).count(BATCH);
            let (mut done, mut bytes) = (0, 0);
            loop {
                let (ids, read) = take(&mut connection, &key, &options).await?;
                if ids.is_empty() {
                    return Ok((done, bytes));
                }
                finish(&mut connection, &key, &ids).await?;
                done += ids.len() as u64;
                bytes += read;
            }
        });
    }
    let (mut done, mut bytes) = (0, 0);
    while let Some(consumer) = consumers.join_next().await {
        let (finished, read) = consumer??;
        done += finished;
        bytes += read;
    }
    let took = begun.elapsed();
    anyhow::ensure!(done == count && bytes > 0, "the baseline finished {done} of {count} jobs");
    stream.prefix.remove().await?;
    Ok(took)
}

/// Adds one to a stream that a reader waits for, one at a time after a pause.
pub(crate) async fn latency(
    settings: &Settings,
    samples: u64,
    pause: Duration,
) -> anyhow::Result<Histogram<u64>> {
    let mut stream = Stream::make(settings).await?;
    let payload = payload(settings.payload_bytes);
    let mut reader = stream.prefix.connect().await?;
    let mut histogram = Histogram::new(3)?;
    for _ in 0..samples {
        let key = stream.key.clone();
        let mut waiting = reader.clone();
        let arrived = tokio::spawn(async move {
            let options = StreamReadOptions::default().group(GROUP, 0).count(1).block(10_000);
            let taken = take(&mut waiting, &key, &options).await;
            (taken, Instant::now())
        });
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        stream.connection.xadd::<_, _, _, _, ()>(&stream.key, "*", &[("p", payload.as_ref())]).await?;
        let (taken, at) = arrived.await?;
        let (ids, _) = taken?;
        anyhow::ensure!(ids.len() == 1, "the baseline read {} jobs instead of one", ids.len());
        histogram.record(nanos(at - begun))?;
        finish(&mut reader, &stream.key, &ids).await?;
    }
    stream.prefix.remove().await?;
    Ok(histogram)
}
