//! Settles that came too late: evidence, and nothing more.

use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, JobId, SessionId};
use mamos_core::job::{AttemptEnd, AttemptRecord, Failure};
use mamos_core::lease::{Epoch, RunRef};
use serde::{Deserialize, Serialize};

use super::Core;
use super::codec::{from_json, to_json};
use super::errors::{Fault, readable};
use super::keys::Key;
use super::tx::Tx;

/// How much late evidence is kept of a job, as the port promises.
const MAX_LATE: usize = 16;

/// One late settle, as it is stored. Times in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Evidence {
    epoch: u64,
    attempt: u32,
    session: Option<SessionId>,
    agent: Option<AgentId>,
    leased_at: i64,
    started_at: Option<i64>,
    ended_at: i64,
    end: AttemptEnd,
    failure: Option<Failure>,
}

impl Evidence {
    pub(super) fn of(record: &AttemptRecord) -> Self {
        Self {
            epoch: record.run.epoch.number(),
            attempt: record.attempt,
            session: record.session,
            agent: record.agent.clone(),
            leased_at: record.leased_at.as_micros(),
            started_at: record.started_at.map(Timestamp::as_micros),
            ended_at: record.ended_at.unwrap_or_default().as_micros(),
            end: record.end.unwrap_or(AttemptEnd::Returned),
            failure: record.failure.clone(),
        }
    }

    fn into_record(self, job: JobId) -> AttemptRecord {
        AttemptRecord {
            run: RunRef { job, epoch: Epoch::from_number(self.epoch) },
            attempt: self.attempt,
            session: self.session,
            agent: self.agent,
            leased_at: Timestamp::from_micros(self.leased_at),
            started_at: self.started_at.map(Timestamp::from_micros),
            ended_at: Some(Timestamp::from_micros(self.ended_at)),
            end: Some(self.end),
            failure: self.failure,
            is_late: true,
        }
    }
}

/// All that came late for one job.
pub(super) struct Late {
    stored: Vec<u8>,
    all: Vec<Evidence>,
    is_changed: bool,
}

impl Late {
    pub(super) async fn read(core: &Core, id: JobId) -> Result<Self, Fault> {
        let stored = core.link.field(Key::Late, id.as_bytes()).await?;
        let all = if stored.is_empty() { Ok(Vec::new()) } else { from_json(&stored, "late evidence") };
        // What cannot be understood is written over: it must not stop what is reported.
        let all = readable(all, "late evidence")?.unwrap_or_default();
        Ok(Self { stored, all, is_changed: false })
    }

    /// Keeps it, once a run and session.
    pub(super) fn add(&mut self, evidence: Evidence) {
        let is_known =
            self.all.iter().any(|known| known.epoch == evidence.epoch && known.session == evidence.session);
        if !is_known && self.all.len() < MAX_LATE {
            self.all.push(evidence);
            self.is_changed = true;
        }
    }

    pub(super) fn write(self, id: JobId, tx: &mut Tx) -> Result<(), Fault> {
        if self.is_changed {
            // A job that was pruned meanwhile leaves nothing behind.
            tx.check_present(Key::Jobs, id.as_bytes());
            tx.replace(
                Key::Late,
                id.as_bytes().as_slice(),
                self.stored,
                to_json(&self.all, "late evidence")?,
            );
        }
        Ok(())
    }

    pub(super) fn into_records(self, job: JobId) -> impl Iterator<Item = AttemptRecord> {
        self.all.into_iter().map(move |evidence| evidence.into_record(job))
    }
}
