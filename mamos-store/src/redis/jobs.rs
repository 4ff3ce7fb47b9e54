//! What people do to jobs: cancel, redrive, approve, prune; and pausing queues.

use std::collections::HashMap;

use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, QueueName};
use mamos_core::job::state::JobEvent;
use mamos_core::job::{CancelRequest, Counters};
use mamos_core::store::{CancelVerdict, ChangeVerdict};
use uuid::Uuid;

use super::changes::Changes;
use super::codec::{PLAIN_ITEM, Run, TIMED_ITEM, order_item, time};
use super::errors::{Fault, corrupt};
use super::keys::Key;
use super::link::{Way, strings};
use super::tx::{Operation, Tx};
use super::{Core, lists, logs};

/// See [`mamos_core::store::JobStore::cancel`].
pub(super) struct Cancel {
    pub(super) jobs: Vec<JobId>,
    pub(super) request: CancelRequest,
    pub(super) now: Timestamp,
}

impl Operation for Cancel {
    type Answer = Vec<CancelVerdict>;
    const NAME: &'static str = "store.cancel";

    async fn plan(&self, core: &Core) -> Result<(Tx, Self::Answer), Fault> {
        let mut changes = Changes::read(core, &self.jobs).await?;
        let mut verdicts = Vec::with_capacity(self.jobs.len());
        for id in &self.jobs {
            let Some(index) = changes.find(*id) else {
                verdicts.push(CancelVerdict::Missing);
                continue;
            };
            let state = changes.run(index).state;
            if state.is_held() {
                let run = changes.change(index);
                run.request_cancel(&self.request);
                verdicts.push(CancelVerdict::Requested { run: run.of(*id), session: run.session });
                continue;
            }
            verdicts.push(match state.after(JobEvent::Cancel) {
                Err(_) => CancelVerdict::AlreadyEnded(state),
                Ok(cancelled) => {
                    let run = changes.change(index);
                    run.request_cancel(&self.request);
                    run.state = cancelled;
                    run.finished_at = Some(self.now);
                    CancelVerdict::Cancelled
                }
            });
        }
        let mut tx = Tx::default();
        changes.write(&mut tx)?;
        Ok((tx, verdicts))
    }
}

/// See [`mamos_core::store::JobStore::redrive`].
pub(super) struct Redrive {
    pub(super) jobs: Vec<JobId>,
    pub(super) now: Timestamp,
}

impl Operation for Redrive {
    type Answer = Vec<ChangeVerdict>;
    const NAME: &'static str = "store.redrive";

    async fn plan(&self, core: &Core) -> Result<(Tx, Self::Answer), Fault> {
        let mut tx = Tx::default();
        let mut changes = Changes::read(core, &self.jobs).await?;
        // Who has each key, with what earlier jobs of the batch took.
        let mut holders: HashMap<String, Option<JobId>> = HashMap::new();
        let mut verdicts = Vec::with_capacity(self.jobs.len());
        for id in &self.jobs {
            let Some(index) = changes.find(*id) else {
                verdicts.push(ChangeVerdict::Missing);
                continue;
            };
            let state = changes.run(index).state;
            let Ok(ready) = state.after(JobEvent::Redrive) else {
                verdicts.push(ChangeVerdict::Refused(state));
                continue;
            };
            if let Some(key) = changes.unique_key(index).map(str::to_owned) {
                if !holders.contains_key(&key) {
                    let stored = core.link.field(Key::Unique, key.as_bytes()).await?;
                    tx.check(Key::Unique, key.as_bytes(), stored.clone());
                    holders.insert(key.clone(), holder(&stored)?);
                }
                if let Some(by) = holders.get(&key).copied().flatten() {
                    verdicts.push(ChangeVerdict::UniqueKeyTaken { by });
                    continue;
                }
                holders.insert(key, Some(*id));
            }
            let run = changes.change(index);
            run.state = ready;
            run.counters = Counters::default();
            run.deadline = None;
            run.run_at = self.now;
            run.finished_at = None;
            run.forget_cancel();
            verdicts.push(ChangeVerdict::Ready(run.lane));
        }
        changes.write(&mut tx)?;
        Ok((tx, verdicts))
    }
}

fn holder(stored: &[u8]) -> Result<Option<JobId>, Fault> {
    if stored.is_empty() {
        return Ok(None);
    }
    let id = Uuid::from_slice(stored).map_err(|error| corrupt("holder of a unique key", error))?;
    Ok(Some(JobId::from_uuid(id)))
}

/// See [`mamos_core::store::JobStore::approve`].
pub(super) struct Approve {
    pub(super) jobs: Vec<JobId>,
    pub(super) now: Timestamp,
}

impl Operation for Approve {
    type Answer = Vec<ChangeVerdict>;
    const NAME: &'static str = "store.approve";

    async fn plan(&self, core: &Core) -> Result<(Tx, Self::Answer), Fault> {
        let mut changes = Changes::read(core, &self.jobs).await?;
        let mut verdicts = Vec::with_capacity(self.jobs.len());
        for id in &self.jobs {
            let Some(index) = changes.find(*id) else {
                verdicts.push(ChangeVerdict::Missing);
                continue;
            };
            let state = changes.run(index).state;
            let Ok(ready) = state.after(JobEvent::Unblock) else {
                verdicts.push(ChangeVerdict::Refused(state));
                continue;
            };
            let run = changes.change(index);
            run.state = ready;
            run.run_at = self.now;
            verdicts.push(ChangeVerdict::Ready(run.lane));
        }
        let mut tx = Tx::default();
        changes.write(&mut tx)?;
        Ok((tx, verdicts))
    }
}

/// See [`mamos_core::store::JobStore::prune`].
pub(super) struct Prune {
    pub(super) before: Timestamp,
    pub(super) limit: u32,
}

impl Operation for Prune {
    type Answer = u32;
    const NAME: &'static str = "store.prune";

    async fn plan(&self, core: &Core) -> Result<(Tx, u32), Fault> {
        let mut tx = Tx::default();
        let items =
            lists::due(core, Key::Ended, TIMED_ITEM, self.limit as usize, |at| at < time(self.before))
                .await?;
        let fields: Vec<&[u8]> = items.iter().map(|item| &item[16..]).collect();
        let runs = core.link.fields(Way::Other, Key::Runs, &fields).await?;
        let log_ends = core.link.fields(Way::Other, Key::LogEnds, &fields).await?;
        let mut pruned = 0;
        for ((item, run), log_ends) in items.iter().zip(runs).zip(log_ends) {
            tx.leave(Key::Ended, &[], item);
            let mut id = [0; 16];
            id.copy_from_slice(&item[16..]);
            let id = JobId::from_uuid(Uuid::from_bytes(id));
            let mut seq = [0; 8];
            seq.copy_from_slice(&item[8..16]);
            let order: [u8; PLAIN_ITEM] = order_item(u64::from_be_bytes(seq), id);
            let is_alive = Run::decode(&run).is_ok_and(|run| !run.state.is_final());
            tx.check(Key::Runs, id.as_bytes().as_slice(), run);
            if is_alive {
                // Somebody else wrote into the line.
                continue;
            }
            tx.leave(Key::Order, &[], &order);
            for key in [Key::Jobs, Key::Runs, Key::History, Key::Late, Key::Outputs, Key::LogEnds] {
                tx.remove(key, id.as_bytes().as_slice());
            }
            if !log_ends.is_empty() {
                logs::remove(id, &mut tx);
            }
            pruned += 1;
        }
        Ok((tx, pruned))
    }
}

/// See [`mamos_core::store::QueueStore::set_paused`].
pub(super) async fn set_paused(core: &Core, queue: &QueueName, is_paused: bool) -> Result<(), Fault> {
    let name = queue.as_str().as_bytes();
    if is_paused {
        core.link.command(Way::Other, "HSET", Key::Queues, &[name, b"1"]).await?;
    } else if !core.link.field(Key::Queues, name).await?.is_empty() {
        // Once there it stays, so that nothing can come between.
        core.link.command(Way::Other, "HSET", Key::Queues, &[name, b"0"]).await?;
    }
    Ok(())
}

/// The names of queues that were ever paused, and whether they are.
pub(super) async fn paused(core: &Core) -> Result<Vec<(QueueName, bool)>, Fault> {
    let mut found = strings(core.link.command(Way::Read, "HGETALL", Key::Queues, &[]).await?)?.into_iter();
    let mut queues = Vec::new();
    while let (Some(name), Some(is_paused)) = (found.next(), found.next()) {
        let name = super::codec::text(&name, "queue")
            .and_then(|name| name.parse().map_err(|error| corrupt("queue", error)));
        if let Some(name) = super::errors::readable(name, "queue")? {
            queues.push((name, is_paused == b"1"));
        }
    }
    queues.sort();
    Ok(queues)
}
