//! Transient groups: a short list at the server for each, from which its members take.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::bus::{MAX_MESSAGE_BYTES, Receipt, Received, Subscription};
use mamos_core::id::{GroupName, TopicName};
use mamos_core::{Error, ErrorKind, Result};
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::super::line::Line;
use super::connection::Pauses;
use super::{Shared, closed, keys};

/// A member that gave no sign for this long is dead, and messages are no longer kept for it.
const LIFE: Duration = Duration::from_secs(15);
/// How long one read waits at the server.
const READ_LASTS: Duration = Duration::from_secs(5);
/// What one read takes at most: few, so that a slow member leaves the rest to the others.
const READ_MESSAGES: usize = 32;

pub(super) async fn subscribe(
    shared: &Arc<Shared>,
    topic: TopicName,
    group: GroupName,
) -> Result<Box<dyn Subscription>> {
    let prefix = &shared.settings.prefix;
    let line = Arc::new(Line::new());
    let pump = Pump {
        members: keys::members(prefix, &topic),
        list: format!("{}{group}", keys::lists(prefix, &topic)),
        member: format!("{:032x}", fastrand::u128(..)),
        group,
        shared: Arc::clone(shared),
        line: Arc::clone(&line),
    };
    pump.give_sign().await?;
    let connection = shared.server.connect_waiting().await?;
    let (alive, ended) = oneshot::channel();
    tokio::spawn(pump.run(connection, ended));
    Ok(Box::new(GroupSubscription { topic, line, _alive: alive }))
}

struct GroupSubscription {
    topic: TopicName,
    line: Arc<Line>,
    /// Its end ends the pump.
    _alive: oneshot::Sender<()>,
}

#[async_trait]
impl Subscription for GroupSubscription {
    async fn receive(&mut self) -> Result<Option<Received>> {
        let Some(next) = self.line.next().await? else { return Ok(None) };
        Ok(Some(Received {
            receipt: Receipt(next.number),
            topic: self.topic.clone(),
            payload: next.payload,
            is_redelivered: false,
        }))
    }

    async fn acknowledge(&mut self, _receipt: Receipt) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for GroupSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisSubscription({}, Transient)", self.topic)
    }
}

struct Pump {
    shared: Arc<Shared>,
    line: Arc<Line>,
    members: String,
    list: String,
    group: GroupName,
    member: String,
}

impl Pump {
    async fn run(self, mut connection: MultiplexedConnection, mut ended: oneshot::Receiver<()>) {
        let mut closing = self.shared.closing.subscribe();
        let mut end = None;
        tokio::select! {
            error = self.read(&mut connection) => end = Some(error),
            () = self.stay_alive() => {}
            _ = &mut ended => {}
            () = closed(&mut closing) => {}
        }
        self.line.end(end);
        self.leave().await;
    }

    /// Reads for as long as that may go well again.
    async fn read(&self, connection: &mut MultiplexedConnection) -> Error {
        let mut pauses = Pauses::default();
        loop {
            while self.line.len() >= READ_MESSAGES {
                self.line.taken.notified().await;
            }
            let error = match self.read_once(connection).await {
                Ok(found) => {
                    pauses = Pauses::default();
                    let payloads = found.map(|(_, payloads)| payloads).unwrap_or_default();
                    for payload in payloads {
                        if payload.len() > MAX_MESSAGE_BYTES {
                            tracing::warn!(target: "mamos::bus", list = self.list,
                                "a message that no bus wrote is dropped: it is too large; find out who writes there");
                            continue;
                        }
                        self.line.push_transient(Bytes::from(payload));
                    }
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
                match self.shared.server.connect_waiting().await {
                    Ok(new) => break *connection = new,
                    Err(error) if error.kind() == ErrorKind::Unavailable => {}
                    Err(error) => return error,
                }
            }
            // The server may have forgotten this member with everything else.
            if let Err(error) = self.give_sign().await {
                tracing::debug!(target: "mamos::bus", %error, "no sign of life could be given");
            }
        }
    }

    async fn read_once(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<(String, Vec<Vec<u8>>)>> {
        let mut command = redis::cmd("BLMPOP");
        command.arg(READ_LASTS.as_secs()).arg(1).arg(&self.list).arg("LEFT").arg("COUNT").arg(READ_MESSAGES);
        let answer = tokio::time::timeout(READ_LASTS * 2, command.query_async(connection)).await;
        // A server that says nothing for twice the time is gone.
        answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    async fn stay_alive(&self) {
        let mut signs = interval(LIFE / 5);
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
        let mut script = self.shared.scripts.join_list.key(&self.members);
        script.key(&self.list).arg(self.group.as_str()).arg(&self.member).arg(LIFE.as_millis() as u64);
        match script.invoke_async::<()>(&mut connection).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.shared.commands.failed(&self.shared.server, "bus.subscribe", error).await),
        }
    }

    async fn leave(&self) {
        let work = async {
            let mut connection = self.shared.commands.get(&self.shared.server).await?;
            let mut script = self.shared.scripts.leave_list.key(&self.members);
            script.key(&self.list).arg(self.group.as_str()).arg(&self.member);
            let left = script.invoke_async::<()>(&mut connection).await;
            left.map_err(|error| self.shared.server.error("bus.subscribe", error))
        };
        // Without the server, it forgets this member by itself.
        let _ = tokio::time::timeout(READ_LASTS, work).await;
    }
}
