//! What a process remembers of the store: lanes, which never change, and runs that it expects to hear of.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mamos_core::id::{JobId, JobKind, QueueName};
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::{Lane, LaneId};

use super::changes::Job;
use super::codec::{self, text};
use super::errors::{Fault, corrupt, readable};
use super::keys::Key;
use super::link::{Link, Way};

/// How many lanes are remembered; beyond it all are learned again.
const MAX_LANES: usize = 100_000;
/// How many held jobs are remembered; beyond it, further ones are read when a report about them comes. Some 1 KiB each.
const MAX_JOBS: usize = 100_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock would be a bug in here; what is remembered is checked before it counts.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lanes by their numbers.
#[derive(Default)]
pub(super) struct Lanes {
    known: Mutex<HashMap<LaneId, Arc<Lane>>>,
}

impl Lanes {
    pub(super) fn known(&self, id: LaneId) -> Option<Arc<Lane>> {
        lock(&self.known).get(&id).cloned()
    }

    /// Learns those that are stored and not yet known.
    pub(super) async fn learn(
        &self,
        link: &Link,
        wanted: impl IntoIterator<Item = LaneId>,
    ) -> Result<(), Fault> {
        let unknown: HashSet<LaneId> = {
            let known = lock(&self.known);
            wanted.into_iter().filter(|id| !known.contains_key(id)).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let fields: Vec<[u8; 8]> = unknown.iter().map(|id| codec::lane(*id)).collect();
        let fields: Vec<&[u8]> = fields.iter().map(<[u8; 8]>::as_slice).collect();
        let texts = link.fields(Way::Claim, Key::Lanes, &fields).await?;
        for (id, text) in unknown.into_iter().zip(texts).filter(|(_, text)| !text.is_empty()) {
            if let Some(lane) = readable(decode(id, &text), "lane")? {
                let mut known = lock(&self.known);
                if known.len() >= MAX_LANES {
                    known.clear();
                }
                known.insert(id, Arc::new(lane));
            }
        }
        Ok(())
    }

    /// The lane with this number.
    pub(super) async fn get(&self, link: &Link, id: LaneId) -> Result<Arc<Lane>, Fault> {
        if let Some(lane) = self.known(id) {
            return Ok(lane);
        }
        self.learn(link, [id]).await?;
        self.known(id).ok_or_else(|| corrupt("lane", format!("nothing is stored of {id:?}")))
    }
}

/// The id is compared with the one that follows from the rest.
fn decode(id: LaneId, bytes: &[u8]) -> Result<Lane, Fault> {
    let text = text(bytes, "lane")?;
    let mut parts = text.splitn(3, '\n');
    let (Some(queue), Some(kind), Some(selector)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(corrupt("lane", "a part is missing"));
    };
    let queue: QueueName = queue.parse().map_err(|error| corrupt("queue", error))?;
    let kind: JobKind = kind.parse().map_err(|error| corrupt("kind", error))?;
    let selector: Selector = selector.parse().map_err(|error| corrupt("selector", error))?;
    let lane = Lane::new(queue, kind, selector);
    if lane.id() != id {
        return Err(corrupt("lane", "its number does not follow from its parts"));
    }
    Ok(lane)
}

/// Held jobs as they were stored last, so that a report about one need not read it. A script compares before it
/// writes, so what is out of date here costs a read and nothing else.
#[derive(Default)]
pub(super) struct Remembered {
    jobs: Mutex<HashMap<JobId, Job>>,
}

impl Remembered {
    pub(super) fn keep(&self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut known = lock(&self.jobs);
        for job in jobs {
            if known.len() >= MAX_JOBS {
                // Runs that nobody reports about any more would fill it for ever.
                known.clear();
            }
            known.insert(job.id, job);
        }
    }

    /// Takes out those that are remembered, and names the others.
    pub(super) fn take(&self, ids: &HashSet<JobId>) -> (Vec<Job>, Vec<JobId>) {
        let mut known = lock(&self.jobs);
        let (mut found, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            match known.remove(id) {
                Some(job) => found.push(job),
                None => missing.push(*id),
            }
        }
        (found, missing)
    }
}
