//! Durable groups: a stream at the server, with a consumer group for each.
//!
//! A subscription is a consumer that gives signs of life. What a consumer without signs had been given and
//! had not acknowledged goes to another of its group; one that ends in order wakes another at once.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::bus::{MAX_MESSAGE_BYTES, Receipt, Received, Subscription};
use mamos_core::id::{GroupName, TopicName};
use mamos_core::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadReply};
use redis::{RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::super::line::{Line, Waiting};
use super::connection::Pauses;
use super::{Shared, closed, keys};

/// How many messages may have come and wait to be received.
const PREFETCH: usize = 128;
/// What one read brings at most in bytes, as far as the last one tells.
const READ_BYTES: usize = 2 * MAX_MESSAGE_BYTES;
/// The most messages of one subscription that are not acknowledged; it gets no more beyond that.
const UNACKNOWLEDGED: usize = 8192;
/// How long one read waits at the server.
const READ_LASTS: Duration = Duration::from_secs(5);
/// How many messages are acknowledged with one call.
const ACKNOWLEDGE_AT_ONCE: usize = 256;
/// How many messages of a dead consumer are taken over with one call: they may be large.
const RECLAIM_AT_ONCE: usize = 16;
/// How long a subscription that ends tries to hand over.
const END_LASTS: Duration = Duration::from_secs(2);

pub(super) async fn subscribe(
    shared: &Arc<Shared>,
    topic: TopicName,
    group: GroupName,
) -> Result<Box<dyn Subscription>> {
    let prefix = &shared.settings.prefix;
    let state = Arc::new(State { line: Line::new(), held: Mutex::default() });
    let (done, acknowledged) = mpsc::unbounded_channel();
    let pump = Pump {
        done: done.downgrade(),
        reader: AtomicI64::new(0),
        stream: keys::stream(prefix, &topic),
        alive: keys::alive(prefix, &topic, &group),
        wake: keys::wake(prefix, &topic, &group),
        consumer: format!("{:032x}", fastrand::u128(..)),
        group,
        shared: Arc::clone(shared),
        state: Arc::clone(&state),
    };
    pump.give_sign().await?;
    let connection = pump.connect().await?;
    tokio::spawn(pump.run(connection, acknowledged));
    Ok(Box::new(DurableSubscription { topic, state, done }))
}

struct State {
    line: Line,
    held: Mutex<HeldMessages>,
}

/// What came and is not acknowledged: ids in the stream, by our numbers.
#[derive(Default)]
struct HeldMessages {
    last_number: u64,
    by_number: BTreeMap<u64, String>,
    ids: HashSet<String>,
}

impl State {
    fn held(&self) -> MutexGuard<'_, HeldMessages> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct DurableSubscription {
    topic: TopicName,
    state: Arc<State>,
    /// What was acknowledged; as many as are held at most. Its end ends the pump.
    done: mpsc::UnboundedSender<String>,
}

#[async_trait]
impl Subscription for DurableSubscription {
    async fn receive(&mut self) -> Result<Option<Received>> {
        let Some(next) = self.state.line.next().await? else { return Ok(None) };
        Ok(Some(Received {
            receipt: Receipt(next.number),
            topic: self.topic.clone(),
            payload: next.payload,
            is_redelivered: next.is_redelivered,
        }))
    }

    async fn acknowledge(&mut self, receipt: Receipt) -> Result<()> {
        let id = self.state.held().by_number.remove(&receipt.0);
        if let Some(id) = id {
            // The pump may have ended with the bus; then the message comes again.
            let _ = self.done.send(id);
        }
        Ok(())
    }
}

impl fmt::Debug for DurableSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisSubscription({}, Durable)", self.topic)
    }
}

struct Pump {
    shared: Arc<Shared>,
    state: Arc<State>,
    stream: String,
    alive: String,
    wake: String,
    group: GroupName,
    consumer: String,
    /// For entries that are acknowledged without being received; weak, because its end ends the pump.
    done: mpsc::WeakUnboundedSender<String>,
    /// The server's number of the connection on which reads wait.
    reader: AtomicI64,
}

impl Pump {
    async fn run(
        self,
        mut connection: MultiplexedConnection,
        mut acknowledged: mpsc::UnboundedReceiver<String>,
    ) {
        let mut closing = self.shared.closing.subscribe();
        let mut end = None;
        tokio::select! {
            error = self.read(&mut connection) => end = Some(error),
            () = self.stay_alive() => {}
            () = self.acknowledge_all(&mut acknowledged) => {}
            () = closed(&mut closing) => {}
        }
        self.state.line.end(end);
        drop(connection);
        let work = async {
            self.end_reads().await;
            let mut rest = Vec::new();
            while let Ok(id) = acknowledged.try_recv() {
                rest.push(id);
            }
            for ids in rest.chunks(ACKNOWLEDGE_AT_ONCE) {
                self.acknowledge(ids).await?;
            }
            self.leave().await
        };
        // Without the server, it notices by itself that this consumer is gone.
        let _ = timeout(END_LASTS, work).await;
    }

    /// Reads for as long as that may go well again.
    async fn read(&self, connection: &mut MultiplexedConnection) -> Error {
        let mut pauses = Pauses::default();
        let mut count = PREFETCH / 8;
        let mut must_reclaim = true;
        let mut reclaimed_at = Instant::now();
        // After a loss, what the server gave and did not arrive is asked for first.
        let mut from = "0";
        loop {
            while self.state.line.len() >= PREFETCH / 2 || self.state.held().by_number.len() >= UNACKNOWLEDGED
            {
                // An acknowledgement comes after something was received, so this is looked at often enough.
                let _ = timeout(Duration::from_millis(50), self.state.line.taken.notified()).await;
            }
            // Somebody may have died without a word.
            if reclaimed_at.elapsed() > self.shared.settings.redeliver_after / 2 {
                must_reclaim = true;
            }
            let result = if must_reclaim {
                reclaimed_at = Instant::now();
                self.reclaim(connection).await.map(|found| must_reclaim = found)
            } else if from == ">" {
                self.read_once(connection, &mut count).await.map(|woken| must_reclaim = woken)
            } else {
                from = ">";
                self.read_own(connection).await
            };
            let error = match result {
                Ok(()) => {
                    pauses = Pauses::default();
                    continue;
                }
                // Somebody removed the group or its stream.
                Err(error)
                    if error.to_string().contains("NOGROUP") || error.to_string().contains("no such key") =>
                {
                    tracing::warn!(target: "mamos::bus", stream = self.stream, "a durable group is gone; it is made again");
                    pauses.pause().await;
                    let _ = self.give_sign().await;
                    continue;
                }
                Err(error) => self.shared.server.error("bus.receive", error),
            };
            if error.kind() != ErrorKind::Unavailable {
                return error;
            }
            tracing::debug!(target: "mamos::bus", %error, "a connection to Redis is lost; connecting again");
            loop {
                pauses.pause().await;
                match self.connect().await {
                    Ok(new) => break *connection = new,
                    Err(error) if error.kind() == ErrorKind::Unavailable => {}
                    Err(error) => return error,
                }
            }
            if let Err(error) = self.give_sign().await {
                tracing::debug!(target: "mamos::bus", %error, "no sign of life could be given");
            }
            (must_reclaim, from) = (true, "0");
        }
    }

    /// Waits for new messages; true if another has left and its messages are to be taken over.
    async fn read_once(
        &self,
        connection: &mut MultiplexedConnection,
        count: &mut usize,
    ) -> RedisResult<bool> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(self.group.as_str()).arg(&self.consumer).arg("COUNT").arg(*count);
        let wait = READ_LASTS.min(self.shared.settings.redeliver_after / 2).max(Duration::from_millis(10));
        command.arg("BLOCK").arg(wait.as_millis() as u64);
        command.arg("STREAMS").arg(&self.stream).arg(&self.wake).arg(">").arg(">");
        let reply: StreamReadReply = within(READ_LASTS * 2, command.query_async(connection)).await?;
        let mut is_woken = false;
        let (mut bytes, mut messages) = (0, 0);
        for key in reply.keys {
            if key.key == self.wake {
                is_woken = true;
                let ids: Vec<_> = key.ids.into_iter().map(|entry| entry.id).collect();
                let mut done = redis::cmd("XACK");
                done.arg(&self.wake).arg(self.group.as_str()).arg(ids);
                within(READ_LASTS, done.query_async::<()>(connection)).await?;
                continue;
            }
            for entry in key.ids {
                messages += 1;
                bytes += self.take(entry, false);
            }
        }
        if let Some(average) = bytes.checked_div(messages) {
            *count = (READ_BYTES / average.max(1)).clamp(1, PREFETCH);
        }
        Ok(is_woken)
    }

    /// Reads what this consumer was given; what is in hand already is passed over.
    async fn read_own(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut after = "0".to_owned();
        loop {
            let mut command = redis::cmd("XREADGROUP");
            command
                .arg("GROUP")
                .arg(self.group.as_str())
                .arg(&self.consumer)
                .arg("COUNT")
                .arg(RECLAIM_AT_ONCE);
            command.arg("STREAMS").arg(&self.stream).arg(&after);
            let reply: StreamReadReply = within(READ_LASTS, command.query_async(connection)).await?;
            let entries = reply.keys.into_iter().flat_map(|key| key.ids).collect::<Vec<_>>();
            let Some(last) = entries.last() else { return Ok(()) };
            after.clone_from(&last.id);
            for entry in entries {
                self.take(entry, true);
            }
        }
    }

    /// Takes over messages of consumers that are gone; true if there may be more.
    async fn reclaim(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let mut script = self.shared.scripts.reclaim.key(&self.stream);
        script.key(&self.alive).arg(self.group.as_str()).arg(&self.consumer).arg(RECLAIM_AT_ONCE);
        let reply: redis::streams::StreamRangeReply =
            within(READ_LASTS, script.invoke_async(connection)).await?;
        let found = !reply.ids.is_empty();
        for entry in reply.ids {
            self.take(entry, true);
        }
        Ok(found)
    }

    /// Puts an entry of the stream in line; gives its bytes.
    fn take(&self, mut entry: StreamId, is_redelivered: bool) -> usize {
        let payload = match entry.map.remove("p") {
            Some(Value::BulkString(bytes)) if bytes.len() <= MAX_MESSAGE_BYTES => Some(Bytes::from(bytes)),
            _ => None,
        };
        let mut held = self.state.held();
        if !held.ids.insert(entry.id.clone()) {
            return 0;
        }
        held.last_number += 1;
        let number = held.last_number;
        held.by_number.insert(number, entry.id.clone());
        drop(held);
        let Some(payload) = payload else {
            tracing::warn!(target: "mamos::bus", stream = self.stream, id = entry.id,
                "an entry that the bus did not write is acknowledged away");
            if let Some(id) = self.state.held().by_number.remove(&number)
                && let Some(done) = self.done.upgrade()
            {
                // The pump itself reads what is sent there.
                let _ = done.send(id);
            }
            return 0;
        };
        let bytes = payload.len();
        self.state.line.push(Waiting { number, payload, is_redelivered });
        bytes
    }

    async fn acknowledge_all(&self, acknowledged: &mut mpsc::UnboundedReceiver<String>) {
        let mut ids = Vec::new();
        let mut pauses = Pauses::default();
        while acknowledged.recv_many(&mut ids, ACKNOWLEDGE_AT_ONCE).await > 0 {
            // What waits here is bounded by what is held.
            while let Err(error) = self.acknowledge(&ids).await {
                tracing::debug!(target: "mamos::bus", %error, "acknowledgements are sent again");
                pauses.pause().await;
            }
            pauses = Pauses::default();
            ids.clear();
        }
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<()> {
        let mut connection = self.shared.commands.get(&self.shared.server).await?;
        let mut script = self.shared.scripts.acknowledge.key(&self.stream);
        script.arg(self.group.as_str()).arg(ids);
        match script.invoke_async::<()>(&mut connection).await {
            Ok(()) => {
                let mut held = self.state.held();
                for id in ids {
                    held.ids.remove(id);
                }
                Ok(())
            }
            Err(error) if error.to_string().contains("no such key") => Ok(()),
            Err(error) => {
                Err(self.shared.commands.failed(&self.shared.server, "bus.acknowledge", error).await)
            }
        }
    }

    async fn stay_alive(&self) {
        let mut signs = interval((self.shared.settings.redeliver_after / 5).max(Duration::from_millis(50)));
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            signs.tick().await;
            if let Err(error) = self.give_sign().await {
                tracing::debug!(target: "mamos::bus", %error, "no sign of life could be given");
            }
        }
    }

    async fn give_sign(&self) -> Result<()> {
        let mut connection = self.shared.commands.get(&self.shared.server).await?;
        let mut script = self.shared.scripts.join_stream.key(&self.stream);
        script.key(&self.alive).key(&self.wake);
        script.arg(self.group.as_str()).arg(&self.consumer);
        script.arg(self.shared.settings.redeliver_after.as_millis() as u64);
        match script.invoke_async::<()>(&mut connection).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.shared.commands.failed(&self.shared.server, "bus.subscribe", error).await),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        let mut connection = self.shared.server.connect_waiting().await?;
        // Without the permission to ask, reads end when the server notices that the connection did.
        let id = within(READ_LASTS, redis::cmd("CLIENT").arg("ID").query_async(&mut connection)).await;
        self.reader.store(id.unwrap_or(0), Ordering::Relaxed);
        Ok(connection)
    }

    /// Makes sure that no read waits at the server any more: it would still be given messages after the
    /// others were told to look.
    async fn end_reads(&self) {
        let id = self.reader.load(Ordering::Relaxed);
        if id != 0
            && let Ok(mut connection) = self.shared.commands.get(&self.shared.server).await
        {
            let mut command = redis::cmd("CLIENT");
            command.arg("KILL").arg("ID").arg(id);
            // It may be gone already.
            let _ = command.query_async::<Value>(&mut connection).await;
        }
    }

    async fn leave(&self) -> Result<()> {
        let mut connection = self.shared.commands.get(&self.shared.server).await?;
        let mut script = self.shared.scripts.leave_stream.key(&self.alive);
        script.key(&self.wake).arg(&self.consumer);
        let left = script.invoke_async::<()>(&mut connection).await;
        left.map_err(|error| self.shared.server.error("bus.subscribe", error))
    }
}

/// An answer that does not come is a lost connection.
async fn within<T>(longest: Duration, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match timeout(longest, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
