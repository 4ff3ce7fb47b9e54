//! The connections, and running scripts over them.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, RedisError, ServerErrorKind, Value};

use super::errors::{Fault, corrupt};
use super::keys::Key;

/// How long to wait before the first attempt to connect again; each further pause is twice as long.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// No pause is longer: work goes on soon after the server came back.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A script, and the name by which Redis remembers it.
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    fn new(source: String) -> Self {
        let hash = redis::Script::new(&source).get_hash().to_owned();
        Self { source, hash }
    }
}

/// All scripts.
pub(super) struct Scripts {
    pub(super) enqueue: Script,
    pub(super) claim: Script,
    pub(super) commit: Script,
    pub(super) read: Script,
    pub(super) count: Script,
    pub(super) lanes: Script,
}

impl Scripts {
    fn new() -> Self {
        const LINE: &str = include_str!("scripts/line.lua");
        let with_lines = |source: &str| Script::new(format!("{LINE}\n{source}"));
        Self {
            enqueue: with_lines(include_str!("scripts/enqueue.lua")),
            claim: with_lines(include_str!("scripts/claim.lua")),
            commit: with_lines(include_str!("scripts/commit.lua")),
            read: Script::new(include_str!("scripts/read.lua").to_owned()),
            count: Script::new(include_str!("scripts/count.lua").to_owned()),
            lanes: Script::new(include_str!("scripts/lanes.lua").to_owned()),
        }
    }
}

/// Arguments of a script in one buffer: there may be many thousands.
#[derive(Default)]
pub(super) struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    pub(super) fn add(&mut self, argument: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(argument);
        self.ends.push(self.bytes.len());
        self
    }

    pub(super) fn add_all<A: AsRef<[u8]>>(&mut self, arguments: impl IntoIterator<Item = A>) -> &mut Self {
        for argument in arguments {
            self.add(argument.as_ref());
        }
        self
    }

    pub(super) fn add_number(&mut self, number: usize) -> &mut Self {
        let mut digits = [0; 20];
        let (mut at, mut rest) = (digits.len(), number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.add(&digits[at..])
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }
}

/// Which connection: each answers in order, so that what is large holds up its own kind only.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Enqueue,
    Report,
    Claim,
    Other,
    /// Nothing goes this way that changes anything.
    Read,
}

/// The way to Redis.
pub(super) struct Link {
    managers: [ConnectionManager; 5],
    pub(super) scripts: Scripts,
    pub(super) prefix: Arc<str>,
}

impl Link {
    pub(super) async fn connect(
        client: &Client,
        prefix: Arc<str>,
        response_timeout: Duration,
        connect_timeout: Duration,
    ) -> Result<Self, Fault> {
        let config = |retries| {
            ConnectionManagerConfig::new()
                .set_response_timeout(Some(response_timeout))
                .set_connection_timeout(Some(connect_timeout))
                .set_min_delay(FIRST_PAUSE)
                .set_max_delay(LONGEST_PAUSE)
                .set_number_of_retries(retries)
        };
        // The first says at once what is wrong; the others will not fail if it did not.
        let first = ConnectionManager::new_with_config(client.clone(), config(0)).await?;
        let lazy = || ConnectionManager::new_lazy_with_config(client.clone(), config(2));
        let managers = [lazy()?, lazy()?, lazy()?, lazy()?, first];
        Ok(Self { managers, scripts: Scripts::new(), prefix })
    }

    pub(super) fn name(&self, key: Key) -> Vec<u8> {
        key.name(&self.prefix)
    }

    /// Runs a script.
    pub(super) async fn eval(
        &self,
        way: Way,
        script: &Script,
        keys: &[Key],
        args: &Args,
    ) -> Result<Value, Fault> {
        let mut manager = self.managers[way as usize].clone();
        let command = |name: &str, script: &str| {
            let mut command = Cmd::with_capacity(
                3 + keys.len() + args.ends.len(),
                args.bytes.len() + script.len() + 64 * keys.len(),
            );
            command.arg(name).arg(script).arg(keys.len());
            for key in keys {
                command.arg(self.name(*key));
            }
            for argument in args.iter() {
                command.arg(argument);
            }
            command
        };
        let by_hash = command("EVALSHA", &script.hash);
        match sent(&mut manager, way, &by_hash).await {
            Err(error) if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) => {
                // A server that was started again, or whose scripts were flushed, knows none.
                Ok(checked(manager.send_packed_command(&command("EVAL", &script.source)).await?)?)
            }
            answer => Ok(answer?),
        }
    }

    /// Runs one command about one key.
    pub(super) async fn command(
        &self,
        way: Way,
        name: &str,
        key: Key,
        args: &[&[u8]],
    ) -> Result<Value, Fault> {
        let mut command = redis::cmd(name);
        command.arg(self.name(key));
        for argument in args {
            command.arg(*argument);
        }
        self.send(way, &command).await
    }

    pub(super) async fn send(&self, way: Way, command: &Cmd) -> Result<Value, Fault> {
        let mut manager = self.managers[way as usize].clone();
        Ok(sent(&mut manager, way, command).await?)
    }

    /// Fields of a hash; nothing for one that is not there.
    pub(super) async fn fields(&self, way: Way, key: Key, fields: &[&[u8]]) -> Result<Vec<Vec<u8>>, Fault> {
        /// How many at once, so that others get their turn.
        const CHUNK: usize = 1000;
        let mut found = Vec::with_capacity(fields.len());
        for chunk in fields.chunks(CHUNK) {
            found.extend(strings(self.command(way, "HMGET", key, chunk).await?)?);
        }
        Ok(found)
    }

    /// One field of a hash; nothing if it is not there.
    pub(super) async fn field(&self, key: Key, field: &[u8]) -> Result<Vec<u8>, Fault> {
        string(self.command(Way::Read, "HGET", key, &[field]).await?)
    }
}

/// Sends a command; one that changes nothing once more if the connection turns out to be gone, which is noticed only
/// then.
async fn sent(manager: &mut ConnectionManager, way: Way, command: &Cmd) -> Result<Value, RedisError> {
    match manager.send_packed_command(command).await.and_then(checked) {
        Err(error) if matches!(way, Way::Read) && error.is_io_error() && !error.is_timeout() => {
            manager.send_packed_command(command).await.and_then(checked)
        }
        answer => answer,
    }
}

fn checked(value: Value) -> Result<Value, RedisError> {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}

/// Bytes; none for nil.
pub(super) fn string(value: Value) -> Result<Vec<u8>, Fault> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::Nil => Ok(Vec::new()),
        other => Err(corrupt("answer", format!("not a string: {}", kind(&other)))),
    }
}

pub(super) fn strings(value: Value) -> Result<Vec<Vec<u8>>, Fault> {
    array(value)?.into_iter().map(string).collect()
}

pub(super) fn array(value: Value) -> Result<Vec<Value>, Fault> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        other => Err(corrupt("answer", format!("not an array: {}", kind(&other)))),
    }
}

pub(super) fn number(value: &Value) -> Result<i64, Fault> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(corrupt("answer", format!("not a number: {}", kind(other)))),
    }
}

/// Values may be anything, so that errors do not show them.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Int(_) => "a number",
        Value::BulkString(_) => "a string",
        Value::Array(_) => "an array",
        _ => "something else",
    }
}
