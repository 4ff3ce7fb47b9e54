//! Following what a job prints, from attempt to attempt, while it prints it.

use std::collections::VecDeque;

use super::Orchestrator;
use crate::ErrorKind;
use crate::Result;
use crate::id::JobId;
use crate::job::state::JobState;
use crate::lease::{Epoch, RunRef};
use crate::store::LogPiece;

/// How much is read at once, in bytes: what one follower holds.
const READ_BYTES: u32 = 64 * 1024;
/// The log of a job that runs at another orchestrator is looked at again after so many
/// [`sweep_every`](super::Builder::sweep_every): what that one tells may be lost.
const LOOKS_EVERY_SWEEPS: u32 = 2;

/// Follows the log of a job: what is there already, then what comes, over all later attempts, to the end of
/// the job. From [`Orchestrator::follow_log`].
///
/// Holds 64 KiB at most: who reads slowly makes nobody else wait.
#[derive(Debug)]
pub struct LogFollower {
    orchestrator: Orchestrator,
    job: JobId,
    /// Where to begin, until the first look at the job.
    begin: Option<(Option<Epoch>, u64)>,
    run: RunRef,
    offset: u64,
    pieces: VecDeque<LogPiece>,
    is_announced: bool,
    /// Found to have ended, and not yet said.
    end: Option<Option<JobState>>,
    has_ended: bool,
}

/// What a [`LogFollower`] found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// What comes now was printed by this run, from that byte on.
    Attempt {
        /// The run.
        run: RunRef,
        /// The position of the next byte.
        offset: u64,
    },
    /// The run printed this. It begins where the piece before ended.
    Piece {
        /// The run.
        run: RunRef,
        /// What it printed.
        piece: LogPiece,
    },
    /// The job has ended, and nothing more will be printed; `None` if it was removed. The last of all.
    Ended(Option<JobState>),
}

impl Orchestrator {
    /// Follows what a job prints, from a byte of a run on; without an epoch from the current or last run.
    pub fn follow_log(&self, job: JobId, epoch: Option<Epoch>, offset: u64) -> LogFollower {
        LogFollower {
            orchestrator: self.clone(),
            job,
            begin: Some((epoch, offset)),
            run: RunRef { job, epoch: Epoch::NEVER },
            offset,
            pieces: VecDeque::new(),
            is_announced: false,
            end: None,
            has_ended: false,
        }
    }
}

impl LogFollower {
    /// Waits for what comes next; `None` after the end. Safe to drop and call again.
    ///
    /// # Errors
    ///
    /// The error of the store. Nothing is lost by calling it again.
    pub async fn next(&mut self) -> Result<Option<Followed>> {
        if self.has_ended {
            return Ok(None);
        }
        let orchestrator = self.orchestrator.clone();
        let engine = &orchestrator.engine;
        let place = engine.waiters.follow(self.job);
        let mut is_watched = false;
        loop {
            if let Some(found) = self.try_next() {
                return Ok(Some(found));
            }
            let woken = place.woken();
            tokio::pin!(woken);
            // Registered before looking, so that what happens in between is not missed.
            woken.as_mut().enable();
            if self.look().await? {
                continue;
            }
            if !std::mem::replace(&mut is_watched, true) {
                engine.neighbours.watch(vec![self.job]);
            }
            let again = engine.settings.sweep_every * LOOKS_EVERY_SWEEPS;
            let _ = tokio::time::timeout(again, woken).await;
        }
    }

    /// What comes next, if it was read already.
    pub fn try_next(&mut self) -> Option<Followed> {
        if self.begin.is_none() && !self.is_announced && self.run.epoch != Epoch::NEVER {
            self.is_announced = true;
            return Some(Followed::Attempt { run: self.run, offset: self.offset });
        }
        if let Some(piece) = self.pieces.pop_front() {
            return Some(Followed::Piece { run: self.run, piece });
        }
        let end = self.end.take()?;
        self.has_ended = true;
        Some(Followed::Ended(end))
    }

    /// Reads on. False if there is nothing yet.
    async fn look(&mut self) -> Result<bool> {
        // The job first and its log second: what is not there then will not come, if the run was over.
        let record = match self.orchestrator.job(self.job).await {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.end = Some(None);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        if let Some((epoch, offset)) = self.begin {
            self.run.epoch = epoch.unwrap_or(record.epoch);
            self.offset = offset;
            if self.run.epoch > record.epoch || self.run.epoch == Epoch::NEVER {
                // It has not begun: from its first byte on, once it has.
                (self.run.epoch, self.offset) = (record.epoch, 0);
            }
            self.begin = None;
            if self.run.epoch != Epoch::NEVER {
                return Ok(true);
            }
        }
        if self.run.epoch != Epoch::NEVER {
            let pieces = self.orchestrator.log(self.run, self.offset, READ_BYTES).await?;
            if let Some(last) = pieces.last() {
                self.offset = last.offset + last.bytes.len() as u64;
                self.pieces = pieces.into();
                return Ok(true);
            }
        }
        if self.run.epoch < record.epoch {
            self.run.epoch = self.run.epoch.next();
            (self.offset, self.is_announced) = (0, false);
            return Ok(true);
        }
        if record.state.is_final() {
            self.end = Some(Some(record.state));
            return Ok(true);
        }
        Ok(false)
    }
}
