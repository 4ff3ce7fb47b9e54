//! What people do to jobs: cancel, redrive, approve; and pausing queues.

use std::collections::HashMap;

use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, QueueName, SessionId};
use mamos_core::job::CancelRequest;
use mamos_core::job::state::JobEvent;
use mamos_core::store::{CancelVerdict, ChangeVerdict};

use super::changes::{self, Changes};
use super::errors::Fault;
use super::rows::{Cells, session_id};
use super::tx::{Operation, Tx};

/// See [`mamos_core::store::JobStore::cancel`].
pub(super) struct Cancel {
    pub(super) jobs: Vec<JobId>,
    pub(super) request: CancelRequest,
    pub(super) now: Timestamp,
}

impl Operation for Cancel {
    type Answer = Vec<CancelVerdict>;
    const NAME: &'static str = "store.cancel";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<CancelVerdict>, Fault> {
        let mut changes = changes::read(tx, &self.jobs).await?;
        let sessions = sessions_of(tx, &changes).await?;
        let verdicts = changes.cancel(&self.jobs, &self.request, &sessions, self.now)?;
        changes::write(&mut changes, tx).await?;
        Ok(verdicts)
    }
}

/// The ids of the sessions that hold the jobs.
async fn sessions_of(tx: &mut Tx<'_>, changes: &Changes) -> Result<HashMap<i64, SessionId>, Fault> {
    let numbers = changes.sessions();
    if numbers.is_empty() {
        return Ok(HashMap::new());
    }
    let query = sqlx::query("SELECT no, id FROM mamos_session WHERE no = ANY($1)").bind(numbers);
    let found = query.fetch_all(&mut *tx.connection).await?;
    found.iter().map(|row| Ok((row.int(0)?, session_id(row, 1)?))).collect()
}

/// See [`mamos_core::store::JobStore::redrive`].
pub(super) struct Redrive {
    pub(super) jobs: Vec<JobId>,
    pub(super) now: Timestamp,
}

impl Operation for Redrive {
    type Answer = Vec<ChangeVerdict>;
    const NAME: &'static str = "store.redrive";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<ChangeVerdict>, Fault> {
        let mut changes = changes::read(tx, &self.jobs).await?;
        let mut verdicts = Vec::with_capacity(self.jobs.len());
        for id in &self.jobs {
            let (index, state) = match changes.after(*id, JobEvent::Redrive) {
                Ok(found) => found,
                Err(verdict) => {
                    verdicts.push(verdict);
                    continue;
                }
            };
            if let Some(key) = changes.job(index).unique_key.clone() {
                // The ones before it in the batch may have taken the key.
                changes::write(&mut changes, tx).await?;
                if let Some(by) = holder_of_key(tx, key).await? {
                    verdicts.push(ChangeVerdict::UniqueKeyTaken { by });
                    continue;
                }
            }
            let lane = changes.redrive(index, state, self.now);
            verdicts.push(ChangeVerdict::Ready(tx.known.lane(tx.connection, lane).await?.id()));
        }
        changes::write(&mut changes, tx).await?;
        Ok(verdicts)
    }
}

async fn holder_of_key(tx: &mut Tx<'_>, key: String) -> Result<Option<JobId>, Fault> {
    let query = "SELECT id FROM mamos_job WHERE unique_key IS NOT NULL AND state < 5 AND unique_key = $1";
    let row = sqlx::query(query).bind(key).fetch_optional(&mut *tx.connection).await?;
    row.map(|row| Ok(JobId::from_uuid(row.uuid(0)?))).transpose()
}

/// See [`mamos_core::store::JobStore::approve`].
pub(super) struct Approve {
    pub(super) jobs: Vec<JobId>,
    pub(super) now: Timestamp,
}

impl Operation for Approve {
    type Answer = Vec<ChangeVerdict>;
    const NAME: &'static str = "store.approve";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<ChangeVerdict>, Fault> {
        let mut changes = changes::read(tx, &self.jobs).await?;
        let mut verdicts = Vec::with_capacity(self.jobs.len());
        for id in &self.jobs {
            let (index, state) = match changes.after(*id, JobEvent::Unblock) {
                Ok(found) => found,
                Err(verdict) => {
                    verdicts.push(verdict);
                    continue;
                }
            };
            let lane = changes.approve(index, state, self.now);
            verdicts.push(ChangeVerdict::Ready(tx.known.lane(tx.connection, lane).await?.id()));
        }
        changes::write(&mut changes, tx).await?;
        Ok(verdicts)
    }
}

/// See [`mamos_core::store::QueueStore::set_paused`].
pub(super) struct SetPaused {
    pub(super) queue: QueueName,
    pub(super) is_paused: bool,
}

impl Operation for SetPaused {
    type Answer = ();
    const NAME: &'static str = "store.set_paused";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        let query = if self.is_paused {
            "INSERT INTO mamos_queue (name, is_paused) VALUES ($1, true) ON CONFLICT (name) DO UPDATE SET is_paused = true"
        } else {
            "UPDATE mamos_queue SET is_paused = false WHERE name = $1"
        };
        sqlx::query(query).bind(self.queue.as_str().to_owned()).execute(&mut *tx.connection).await?;
        Ok(())
    }
}
