//! Doing what is due: promote, rescue, bury; and removing what ended long ago.

use std::collections::BTreeMap;

use mamos_core::agent::state::AgentEvent;
use mamos_core::clock::Timestamp;
use mamos_core::id::AgentId;
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::rules::{self, Next};
use mamos_core::job::state::{JobEvent, JobState};
use mamos_core::job::{AttemptEnd, Failure};
use mamos_core::store::Swept;
use std::sync::Arc;

use super::changes;
use super::errors::{Fault, readable};
use super::rows::{Cells, hot_columns, parse, session_id};
use super::tx::{Operation, Tx};

// What another transaction holds is skipped: it is being worked on, and the next sweep looks again. So a
// sweep never waits while it holds something itself.
const PROMOTE: &str = "UPDATE mamos_job SET state = 2 WHERE id = ANY(ARRAY(SELECT id FROM mamos_job \
     WHERE state = 1 AND run_at <= $1 ORDER BY run_at, seq LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)) RETURNING lane";
const HELD: &str = concat!(
    "SELECT ",
    hot_columns!(),
    " FROM mamos_job j WHERE j.state IN (3, 4) AND j.session = $1 ORDER BY j.seq LIMIT $2 \
     FOR NO KEY UPDATE SKIP LOCKED"
);
const OVERDUE: &str = concat!(
    "SELECT ",
    hot_columns!(),
    " FROM mamos_job j WHERE j.deadline IS NOT NULL AND j.state < 5 AND j.deadline <= $1 \
     ORDER BY j.deadline, j.seq LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED"
);

/// See [`mamos_core::store::JobStore::sweep`].
pub(super) struct Sweep {
    pub(super) limit: u32,
    pub(super) now: Timestamp,
}

impl Operation for Sweep {
    type Answer = Swept;
    const NAME: &'static str = "store.sweep";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Swept, Fault> {
        let mut swept = Swept::default();
        let mut lanes = BTreeMap::new();
        self.promote(tx, &mut swept, &mut lanes).await?;
        self.lose_sessions(tx, &mut swept).await?;
        self.rescue(tx, &mut swept, &mut lanes).await?;
        self.bury_overdue(tx, &mut swept).await?;
        swept.lanes = lanes.into_values().collect();
        let row = sqlx::query(
            "SELECT (SELECT run_at FROM mamos_job WHERE state = 1 ORDER BY run_at LIMIT 1), \
             (SELECT deadline FROM mamos_job WHERE deadline IS NOT NULL AND state < 5 ORDER BY deadline LIMIT 1), \
             (SELECT min(expires_at) FROM mamos_session WHERE ended IS NULL), \
             EXISTS (SELECT FROM mamos_session WHERE is_unrescued)",
        )
        .fetch_one(&mut *tx.connection)
        .await?;
        let is_unrescued = row.int(3)? != 0;
        let due =
            [row.maybe_time(0)?, row.maybe_time(1)?, row.maybe_time(2)?, is_unrescued.then_some(self.now)];
        swept.next_due = due.into_iter().flatten().min();
        swept.has_more = swept.next_due.is_some_and(|at| at <= self.now);
        Ok(swept)
    }
}

type Lanes = BTreeMap<LaneId, Arc<Lane>>;

impl Sweep {
    /// A limit of nothing would never come to an end.
    fn limit(&self) -> i64 {
        i64::from(self.limit.max(1))
    }

    async fn promote(&self, tx: &mut Tx<'_>, swept: &mut Swept, lanes: &mut Lanes) -> Result<(), Fault> {
        let promoted = sqlx::query(PROMOTE).bind(self.now.as_micros()).bind(self.limit());
        let promoted = promoted.fetch_all(&mut *tx.connection).await?;
        for row in &promoted {
            if let Some(lane) = readable(tx.known.lane(tx.connection, row.int(0)?).await, "lane")? {
                lanes.insert(lane.id(), lane);
            }
        }
        swept.promoted = u32::try_from(promoted.len()).unwrap_or(u32::MAX);
        Ok(())
    }

    async fn lose_sessions(&self, tx: &mut Tx<'_>, swept: &mut Swept) -> Result<(), Fault> {
        let expired = "UPDATE mamos_session SET ended = 2, is_unrescued = true WHERE no = ANY(ARRAY(SELECT no \
                       FROM mamos_session WHERE ended IS NULL AND expires_at <= $1 ORDER BY expires_at, id LIMIT $2 \
                       FOR NO KEY UPDATE SKIP LOCKED)) RETURNING id, agent";
        let expired = sqlx::query(expired).bind(self.now.as_micros()).bind(self.limit());
        for row in &expired.fetch_all(&mut *tx.connection).await? {
            // One that nobody can name is lost all the same.
            let named = session_id(row, 0).and_then(|id| Ok((id, parse(row, 1, "agent")?)));
            swept.lost.extend(readable(named, "session")?);
        }
        // Agents are locked in the order of their ids.
        let mut agents: Vec<&AgentId> = swept.lost.iter().map(|(_, agent)| agent).collect();
        agents.sort_unstable();
        for agent in agents {
            readable(tx.end_agent(agent, AgentEvent::Fail, self.now).await, "agent")?;
        }
        Ok(())
    }

    async fn rescue(&self, tx: &mut Tx<'_>, swept: &mut Swept, lanes: &mut Lanes) -> Result<(), Fault> {
        let lost = sqlx::query(
            "SELECT no FROM mamos_session WHERE is_unrescued ORDER BY no LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED",
        )
            .bind(self.limit())
            .fetch_all(&mut *tx.connection)
            .await?;
        for row in &lost {
            let number = row.int(0)?;
            let room = self.limit() - swept.rescued.len() as i64;
            // One more than there is room for says whether the session is through.
            let held = sqlx::query(HELD).bind(number).bind(room + 1).fetch_all(&mut *tx.connection).await?;
            let taken = held.len().min(room as usize);
            let mut changes = changes::of_rows(tx, &held[..taken], self.now).await?;
            let all: Vec<usize> = (0..changes.len()).collect();
            changes::read_policies(&mut changes, tx, &all).await?;
            for index in all {
                let next = rules::after_rescue(&changes.facts(index), self.now);
                let (run, state) = (changes.job(index).run(), next.state);
                if state == JobState::Ready
                    && let Some(lane) =
                        readable(tx.known.lane(tx.connection, changes.job(index).lane).await, "lane")?
                {
                    lanes.insert(lane.id(), lane);
                }
                changes.end_run(index, next, self.now);
                swept.rescued.push((run, state));
            }
            changes::write(&mut changes, tx).await?;
            if taken < held.len() {
                break;
            }
            // What was skipped is held still.
            let through = "UPDATE mamos_session SET is_unrescued = false WHERE no = $1 AND NOT EXISTS \
                           (SELECT FROM mamos_job j WHERE j.state IN (3, 4) AND j.session = $1)";
            sqlx::query(through).bind(number).execute(&mut *tx.connection).await?;
        }
        Ok(())
    }

    async fn bury_overdue(&self, tx: &mut Tx<'_>, swept: &mut Swept) -> Result<(), Fault> {
        let overdue = sqlx::query(OVERDUE).bind(self.now.as_micros()).bind(self.limit());
        let overdue = overdue.fetch_all(&mut *tx.connection).await?;
        let mut changes = changes::of_rows(tx, &overdue, self.now).await?;
        for index in 0..changes.len() {
            let job = changes.job(index);
            let Ok(state) = job.state.after(JobEvent::Bury) else { continue };
            swept.overdue.push(job.run());
            let failure = Failure::new("deadline", "its deadline passed before it ended");
            if job.state.is_held() {
                let (counters, end) = (job.counters, AttemptEnd::Overdue);
                let next = Next { state, run_at: None, counters, end, failure: Some(failure), output: None };
                changes.end_run(index, next, self.now);
            } else {
                changes.give_up(index, failure);
                let job = changes.change(index);
                job.state = state;
                job.finished_at = Some(self.now);
            }
        }
        changes::write(&mut changes, tx).await
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

    async fn run(&self, tx: &mut Tx<'_>) -> Result<u32, Fault> {
        const ENDED: &str = "DELETE FROM mamos_job WHERE id = ANY(ARRAY(SELECT id FROM mamos_job \
             WHERE state >= 5 AND finished_at < $1 ORDER BY finished_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED)) \
             RETURNING seq";
        const PARTS: [&str; 7] = [
            "DELETE FROM mamos_spec WHERE seq = ANY($1)",
            "DELETE FROM mamos_output WHERE seq = ANY($1)",
            "DELETE FROM mamos_cancel WHERE seq = ANY($1)",
            "DELETE FROM mamos_failure WHERE seq = ANY($1)",
            "DELETE FROM mamos_progress WHERE seq = ANY($1)",
            "DELETE FROM mamos_attempt WHERE seq = ANY($1)",
            "DELETE FROM mamos_log WHERE seq = ANY($1)",
        ];
        let ended = sqlx::query(ENDED).bind(self.before.as_micros()).bind(i64::from(self.limit));
        let ended = ended.fetch_all(&mut *tx.connection).await?;
        let seqs: Vec<i64> = ended.iter().map(|row| row.int(0)).collect::<Result<_, _>>()?;
        if !seqs.is_empty() {
            for part in PARTS {
                sqlx::query(part).bind(&seqs).execute(&mut *tx.connection).await?;
            }
        }
        Ok(u32::try_from(seqs.len()).unwrap_or(u32::MAX))
    }
}
