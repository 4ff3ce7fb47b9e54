//! Lanes: jobs alike for matching.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{JobKind, QueueName};
use crate::job::labels::Selector;

/// Jobs with the same queue, kind and selector: whatever agent can run one of them can run them all.
///
/// Agents are matched to lanes in memory, and a claim names lanes, so that neither costs more when the
/// backlog grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    id: LaneId,
    queue: QueueName,
    kind: JobKind,
    selector: Selector,
}

/// A number derived from what a lane is, the same in every store and on every orchestrator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LaneId(i64);

impl Lane {
    /// The lane of jobs with these properties.
    pub fn new(queue: QueueName, kind: JobKind, selector: Selector) -> Self {
        let text = format!("{queue}\n{kind}\n{selector}");
        let digest = Sha256::digest(text.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        Self { id: LaneId(i64::from_be_bytes(bytes)), queue, kind, selector }
    }

    /// The number of the lane.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// The queue that the jobs are in.
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// The kind of the jobs.
    pub fn kind(&self) -> &JobKind {
        &self.kind
    }

    /// What the jobs ask of an agent's labels.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }
}

impl LaneId {
    /// Takes a number from a row.
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// The number, for a row.
    pub const fn number(self) -> i64 {
        self.0
    }
}

impl fmt::Debug for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_depends_on_every_part_and_on_nothing_else() {
        let lane = |queue: &str, kind: &str, selector: &str| {
            Lane::new(queue.parse().unwrap(), kind.parse().unwrap(), selector.parse().unwrap()).id()
        };
        let base = lane("mail", "mail.send", "zone=eu,gpu");
        assert_eq!(base, lane("mail", "mail.send", "gpu, zone=eu"));
        assert_ne!(base, lane("mai", "lmail.send", "zone=eu,gpu"));
        assert_ne!(base, lane("mail", "mail.send", "zone=eu"));
        // Stored in databases: it may never change. From `printf 'q\nk\n' | sha256sum`.
        assert_eq!(lane("q", "k", "").number() as u64, 0x297d_8b3c_46a1_a1cf);
    }
}
