//! Optimistic transactions: read, decide here, and write with one script that first sees that all that was read
//! still stands.

use std::collections::BTreeMap;

use mamos_core::Error;
use mamos_core::clock::Timestamp;
use redis::Value;

use super::Core;
use super::changes::Job;
use super::codec::{PLAIN_ITEM, TIMED_ITEM, read_time};
use super::errors::{Fault, corrupt};
use super::keys::Key;
use super::link::{Args, Way, array, number, string};

/// How often an operation is planned anew because others changed what it had read.
const ATTEMPTS: u32 = 200;
/// How many arguments one command takes at most: Lua's stack holds some 8000 values.
const MOST_ARGS: usize = 4000;
/// How many sessions that ended can still be looked up; the oldest are forgotten first.
const MAX_PAST: usize = 10_000;

/// Something to do in a transaction.
pub(super) trait Operation: Send + Sync {
    type Answer: Send;
    /// Its name in errors, for example `store.claim`.
    const NAME: &'static str;

    /// Reads, and gives what to write and what to answer. Planned again if what was read does not stand any more.
    fn plan(&self, core: &Core) -> impl Future<Output = Result<(Tx, Self::Answer), Fault>> + Send;

    /// Adds to the answer what is next after the writes, if the plan [asked](Tx::ask_heads).
    fn conclude(&self, _answer: &mut Self::Answer, _heads: &Heads) {}
}

/// When something is due next.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Heads {
    pub(super) scheduled: Option<Timestamp>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) expiry: Option<Timestamp>,
}

/// A field, and what it must still be.
type Check = (Vec<u8>, Vec<u8>);
/// A field, what it must still be, and what it becomes.
type Replacement = (Vec<u8>, Vec<u8>, Vec<u8>);

/// What was read and what is to be written.
#[derive(Default)]
pub(super) struct Tx {
    /// Fields of hashes; nothing stands for none.
    checks: BTreeMap<Key, Vec<Check>>,
    present: BTreeMap<Key, Vec<Vec<u8>>>,
    sizes: BTreeMap<Key, usize>,
    replaced: BTreeMap<Key, Vec<Replacement>>,
    /// Commands with one argument for each thing.
    commands: BTreeMap<(Key, &'static str), Vec<Vec<u8>>>,
    /// Lines, by key and group.
    removed: BTreeMap<(Key, Vec<u8>), Vec<Vec<u8>>>,
    added: BTreeMap<(Key, Vec<u8>), Vec<Vec<u8>>>,
    /// Ranges of sorted sets that go as a whole.
    ranges: Vec<(Key, Vec<u8>, Vec<u8>)>,
    wants_heads: bool,
    /// Held jobs as they are after the writes, to be remembered.
    pub(super) remembered: Vec<Job>,
}

impl Tx {
    /// A field must still be what was read.
    pub(super) fn check(&mut self, key: Key, field: impl Into<Vec<u8>>, stored: impl Into<Vec<u8>>) {
        self.checks.entry(key).or_default().push((field.into(), stored.into()));
    }

    /// A field must be there.
    pub(super) fn check_present(&mut self, key: Key, field: &[u8]) {
        self.present.entry(key).or_default().push(field.to_vec());
    }

    /// A set must still have so many members.
    pub(super) fn check_size(&mut self, key: Key, size: usize) {
        self.sizes.insert(key, size);
    }

    /// Writes a field that must still be what was read. At most once for each field.
    pub(super) fn replace(
        &mut self,
        key: Key,
        field: impl Into<Vec<u8>>,
        stored: impl Into<Vec<u8>>,
        value: Vec<u8>,
    ) {
        self.replaced.entry(key).or_default().push((field.into(), stored.into(), value));
    }

    pub(super) fn put(&mut self, key: Key, field: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let args = self.commands.entry((key, "HSET")).or_default();
        args.push(field.into());
        args.push(value.into());
    }

    pub(super) fn remove(&mut self, key: Key, field: impl Into<Vec<u8>>) {
        self.commands.entry((key, "HDEL")).or_default().push(field.into());
    }

    pub(super) fn add_member(&mut self, key: Key, member: impl Into<Vec<u8>>) {
        match key.kind() {
            "set" => self.commands.entry((key, "SADD")).or_default().push(member.into()),
            "list" => self.commands.entry((key, "RPUSH")).or_default().push(member.into()),
            _ => {
                let args = self.commands.entry((key, "ZADD")).or_default();
                args.push(b"0".to_vec());
                args.push(member.into());
            }
        }
    }

    pub(super) fn remove_member(&mut self, key: Key, member: impl Into<Vec<u8>>) {
        let command = if key.kind() == "set" { "SREM" } else { "ZREM" };
        self.commands.entry((key, command)).or_default().push(member.into());
    }

    pub(super) fn remove_range(&mut self, key: Key, from: Vec<u8>, to: Vec<u8>) {
        self.ranges.push((key, from, to));
    }

    pub(super) fn enter(&mut self, key: Key, group: &[u8], item: &[u8]) {
        self.added.entry((key, group.to_vec())).or_default().push(item.to_vec());
    }

    pub(super) fn leave(&mut self, key: Key, group: &[u8], item: &[u8]) {
        self.removed.entry((key, group.to_vec())).or_default().push(item.to_vec());
    }

    /// Asks for what is due next after the writes.
    pub(super) fn ask_heads(&mut self) {
        self.wants_heads = true;
    }

    /// Is there nothing to see to, to write or to ask?
    fn is_idle(&self) -> bool {
        self.replaced.is_empty()
            && self.checks.is_empty()
            && self.commands.is_empty()
            && self.removed.is_empty()
            && self.added.is_empty()
            && self.ranges.is_empty()
            && !self.wants_heads
    }

    /// Writes it all. `None` if something had changed, and nothing was written.
    pub(super) async fn commit(self, core: &Core, way: Way) -> Result<Option<Heads>, Fault> {
        if self.is_idle() {
            // What was read one by one was true at some moment each, and nobody relies on more.
            return Ok(Some(Heads::default()));
        }
        let wants_heads = self.wants_heads;
        let (keys, args) = self.into_sections();
        let answer = core.link.eval(way, &core.link.scripts.commit, &keys, &args).await?;
        let mut answer = array(answer)?.into_iter();
        let is_done = answer.next().is_some_and(|done| number(&done).is_ok_and(|done| done == 1));
        if !is_done {
            return Ok(None);
        }
        if !wants_heads {
            return Ok(Some(Heads::default()));
        }
        let mut next = || read_head(answer.next().unwrap_or(Value::Nil));
        Ok(Some(Heads { scheduled: next()?, deadline: next()?, expiry: next()? }))
    }

    fn into_sections(self) -> (Vec<Key>, Args) {
        let mut sections = Sections::default();
        for (key, checks) in self.checks {
            sections.begin("C", key, 2 * checks.len());
            sections.args.add_all(checks.iter().map(|(field, _)| field));
            sections.args.add_all(checks.iter().map(|(_, stored)| stored));
        }
        for (key, fields) in self.present {
            sections.begin("E", key, fields.len());
            sections.args.add_all(&fields);
        }
        for (key, size) in self.sizes {
            sections.begin("N", key, 1).add_number(size);
        }
        for (key, replaced) in self.replaced {
            sections.begin("W", key, 3 * replaced.len());
            sections.args.add_all(replaced.iter().map(|(field, ..)| field));
            sections.args.add_all(replaced.iter().map(|(_, stored, _)| stored));
            sections.args.add_all(replaced.iter().map(|(.., value)| value));
        }
        for ((key, group), mut items) in self.removed {
            items.sort_unstable();
            sections.line("D", key, &group, &items);
        }
        for ((key, group), mut items) in self.added {
            items.sort_unstable();
            items.dedup();
            sections.line("A", key, &group, &items);
        }
        let mut has_past = false;
        for ((key, command), things) in self.commands {
            has_past |= key == Key::Past;
            for chunk in things.chunks(MOST_ARGS) {
                sections.begin("X", key, 1 + chunk.len()).add(command.as_bytes());
                sections.args.add_all(chunk);
            }
        }
        for (key, from, to) in self.ranges {
            sections.begin("X", key, 3).add(b"ZREMRANGEBYLEX").add(&from).add(&to);
        }
        if has_past {
            let sessions = sections.number(Key::Sessions);
            sections.begin("F", Key::Past, 2).add_number(MAX_PAST).add_number(sessions);
        }
        if self.wants_heads {
            for (key, width) in
                [(Key::Due, TIMED_ITEM), (Key::Deadlines, TIMED_ITEM), (Key::Expiry, PLAIN_ITEM)]
            {
                sections.begin("H", key, 1).add_number(width);
            }
        }
        (sections.keys, sections.args)
    }
}

/// The arguments of the script.
#[derive(Default)]
struct Sections {
    keys: Vec<Key>,
    args: Args,
}

impl Sections {
    /// The number under which the script knows a key.
    fn number(&mut self, key: Key) -> usize {
        let known = self.keys.iter().position(|other| *other == key);
        known.unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        }) + 1
    }

    fn begin(&mut self, operation: &str, key: Key, arguments: usize) -> &mut Args {
        let number = self.number(key);
        self.args.add(operation.as_bytes()).add_number(number).add_number(arguments)
    }

    fn line(&mut self, operation: &str, key: Key, group: &[u8], items: &[Vec<u8>]) {
        let Some(width) = items.first().map(Vec::len) else { return };
        self.begin(operation, key, 3).add(group).add_number(width).add(&items.concat());
    }
}

/// The time of a head of a line.
pub(super) fn read_head(value: Value) -> Result<Option<Timestamp>, Fault> {
    let bytes = string(value)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = bytes.try_into().map_err(|_| corrupt("answer", "a time is not 8 bytes long"))?;
    Ok(Some(read_time(bytes)))
}

impl Core {
    /// Does an operation, as often as it takes.
    pub(super) async fn run<O: Operation>(&self, operation: &O) -> Result<O::Answer, Error> {
        self.transact(operation, Way::Other).await.map_err(|fault| fault.into_error(O::NAME, &self.place))
    }

    pub(super) async fn transact<O: Operation>(&self, operation: &O, way: Way) -> Result<O::Answer, Fault> {
        for attempt in 0..ATTEMPTS {
            let (mut tx, mut answer) = operation.plan(self).await?;
            let remembered = std::mem::take(&mut tx.remembered);
            if let Some(heads) = tx.commit(self, way).await? {
                operation.conclude(&mut answer, &heads);
                self.remember(remembered);
                return Ok(answer);
            }
            if attempt > 8 {
                // Somebody who is faster wins each time; let them finish.
                tokio::time::sleep(std::time::Duration::from_millis(u64::from(attempt.min(50)))).await;
            }
        }
        Err(Fault::Busy)
    }
}
