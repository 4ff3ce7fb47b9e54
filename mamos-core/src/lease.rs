//! Fencing: which run of a job may still write.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{JobId, SessionId};

/// A fencing token: grows with every claim of a job, so that older holders can be refused.
///
/// # Source
///
/// Kleppmann, "How to do distributed locking" (2016); Chubby's sequencers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a job that was never claimed.
    pub const NEVER: Self = Self(0);

    /// Takes a number from a row or a frame.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number, for a row or a frame.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The epoch of the next claim.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one run: a job and the epoch of the claim that started it.
///
/// Travels in every frame and every write about the run. Handlers may pass it on as a fencing token
/// of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunRef {
    /// The job.
    pub job: JobId,
    /// The claim.
    pub epoch: Epoch,
}

impl RunRef {
    /// A number in `0.0..1.0` that differs from run to run but is always the same for one run: the
    /// jitter of its retry.
    pub fn jitter(&self) -> f64 {
        let bits = self.job.as_uuid().as_u128();
        // SplitMix64's finaliser spreads the few bits in which neighbouring ids differ.
        let mut x = (bits as u64) ^ ((bits >> 64) as u64) ^ self.epoch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        (x >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl fmt::Display for RunRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.job, self.epoch)
    }
}

impl fmt::Debug for RunRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one link of a session: its id and how often it was opened or resumed.
///
/// The link fences orchestrators as the epoch fences runs: when an agent moves to another
/// orchestrator, claims and renewals that name the earlier link are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionRef {
    /// The session.
    pub id: SessionId,
    /// 1 when the session is opened, one more each time it is resumed.
    pub link: u32,
}

/// What became of a fenced write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is on record. Also the answer to a repeated settle of the same run.
    Applied,
    /// It is on record, and someone asked to cancel the job: stop the run and settle it.
    CancelRequested,
    /// A piece of a log begins after the end of what is stored. It was not written, and the run goes on.
    Gap,
    /// The run, session or link is no longer current. Nothing was changed; stop the run.
    Stale,
    /// There is no such job or session. Nothing was changed; stop the run.
    Missing,
}

impl Verdict {
    /// Was the write put on record?
    pub fn is_applied(self) -> bool {
        matches!(self, Self::Applied | Self::CancelRequested)
    }

    /// Has whoever wrote lost the run or the session? Then it must stop.
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Stale | Self::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn jitter_is_spread_over_the_whole_range() {
        let mut tenths = [0; 10];
        for n in 0..10_000 {
            let job = JobId::from_parts(Timestamp::from_micros(1_700_000_000_000_000), n);
            tenths[(RunRef { job, epoch: Epoch::from_number(1) }.jitter() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1200).contains(count)), "{tenths:?}");
    }
}
