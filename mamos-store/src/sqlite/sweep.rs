//! Doing what is due: promote, rescue, bury; and removing what ended long ago.

use std::collections::BTreeMap;

use mamos_core::agent::state::AgentEvent;
use mamos_core::clock::Timestamp;
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::rules::{self, Next};
use mamos_core::job::state::{JobEvent, JobState};
use mamos_core::job::{AttemptEnd, Failure};
use mamos_core::store::Swept;
use std::sync::Arc;

use super::changes::Changes;
use super::errors::{Fault, readable};
use super::rows::{get, hot_columns, parse, session_id, time};
use super::sql::Listed;
use super::writer::{Operation, Tx};

pub(super) const DUE: &str =
    "SELECT seq, lane FROM mamos_job WHERE state = 1 AND run_at <= ? ORDER BY run_at, seq LIMIT ?";
pub(super) const HELD: &str = concat!(
    "SELECT ",
    hot_columns!(),
    " FROM mamos_job j WHERE j.state IN (3, 4) AND j.session = ? ORDER BY j.seq LIMIT ?"
);
pub(super) const OVERDUE: &str = concat!(
    "SELECT ",
    hot_columns!(),
    " FROM mamos_job j WHERE j.deadline IS NOT NULL AND j.state < 5 AND j.deadline <= ? \
     ORDER BY j.deadline, j.seq LIMIT ?"
);
pub(super) const ENDED: &str =
    "SELECT seq FROM mamos_job WHERE state >= 5 AND finished_at < ? ORDER BY finished_at, seq LIMIT ?";

/// See [`mamos_core::store::JobStore::sweep`].
pub(super) struct Sweep {
    pub(super) limit: u32,
    pub(super) now: Timestamp,
}

impl Operation for Sweep {
    type Answer = Swept;
    const NAME: &'static str = "store.sweep";

    async fn run(&self, tx: &mut Tx) -> Result<Swept, Fault> {
        let mut swept = Swept::default();
        let mut lanes = BTreeMap::new();
        self.promote(tx, &mut swept, &mut lanes).await?;
        self.lose_sessions(tx, &mut swept).await?;
        self.rescue(tx, &mut swept, &mut lanes).await?;
        self.bury_overdue(tx, &mut swept).await?;
        swept.lanes = lanes.into_values().collect();
        let row = sqlx::query(
            // What is no time is never due. It sorts after all times, so this reads not more.
            "SELECT (SELECT run_at FROM mamos_job WHERE state = 1 AND typeof(run_at) = 'integer' \
             ORDER BY run_at LIMIT 1), \
             (SELECT deadline FROM mamos_job WHERE deadline IS NOT NULL AND state < 5 \
             AND typeof(deadline) = 'integer' ORDER BY deadline LIMIT 1), \
             (SELECT expires_at FROM mamos_session WHERE end IS NULL AND typeof(expires_at) = 'integer' \
             ORDER BY expires_at LIMIT 1), \
             (SELECT 1 FROM mamos_session WHERE is_unrescued = 1 LIMIT 1)",
        )
        .fetch_one(&mut tx.connection)
        .await?;
        let is_unrescued = get::<Option<i64>>(&row, 3)?.is_some();
        let due = [time(&row, 0)?, time(&row, 1)?, time(&row, 2)?, is_unrescued.then_some(self.now)];
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

    async fn promote(&self, tx: &mut Tx, swept: &mut Swept, lanes: &mut Lanes) -> Result<(), Fault> {
        static PROMOTE: Listed = Listed::new("UPDATE mamos_job SET state = 2 WHERE seq IN (", 1, ")");
        let due = sqlx::query(DUE).bind(self.now.as_micros()).bind(self.limit());
        let due = due.fetch_all(&mut tx.connection).await?;
        let mut seqs: Vec<i64> = Vec::with_capacity(due.len());
        for row in &due {
            seqs.push(get(row, 0)?);
            if let Some(lane) = readable(tx.lane(get(row, 1)?).await, "lane")? {
                lanes.insert(lane.id(), lane);
            }
        }
        let done = PROMOTE.execute(&mut tx.connection, &seqs, |values, seq| {
            values.add(*seq);
        });
        done.await?;
        swept.promoted = u32::try_from(seqs.len()).unwrap_or(u32::MAX);
        Ok(())
    }

    async fn lose_sessions(&self, tx: &mut Tx, swept: &mut Swept) -> Result<(), Fault> {
        static LOSE: Listed =
            Listed::new("UPDATE mamos_session SET end = 2, is_unrescued = 1 WHERE no IN (", 1, ")");
        let expired = "SELECT no, id, agent FROM mamos_session WHERE end IS NULL AND expires_at <= ? \
                       ORDER BY expires_at, id LIMIT ?";
        let expired = sqlx::query(expired).bind(self.now.as_micros()).bind(self.limit());
        let mut numbers: Vec<i64> = Vec::new();
        for row in &expired.fetch_all(&mut tx.connection).await? {
            numbers.push(get(row, 0)?);
            // One that nobody can name is lost all the same.
            let named = session_id(row, 1).and_then(|id| Ok((id, parse(row, 2, "agent")?)));
            swept.lost.extend(readable(named, "session")?);
        }
        let done = LOSE.execute(&mut tx.connection, &numbers, |values, number| {
            values.add(*number);
        });
        done.await?;
        for (_, agent) in &swept.lost {
            readable(tx.end_agent(agent, AgentEvent::Fail, self.now).await, "agent")?;
        }
        Ok(())
    }

    async fn rescue(&self, tx: &mut Tx, swept: &mut Swept, lanes: &mut Lanes) -> Result<(), Fault> {
        let lost = sqlx::query("SELECT no FROM mamos_session WHERE is_unrescued = 1 ORDER BY no LIMIT ?")
            .bind(self.limit())
            .fetch_all(&mut tx.connection)
            .await?;
        for row in &lost {
            let number: i64 = get(row, 0)?;
            let room = self.limit() - swept.rescued.len() as i64;
            // One more than there is room for says whether the session is through.
            let held = sqlx::query(HELD).bind(number).bind(room + 1).fetch_all(&mut tx.connection).await?;
            let taken = held.len().min(room as usize);
            let mut changes = Changes::of_rows(tx, &held[..taken], self.now).await?;
            let all: Vec<usize> = (0..changes.len()).collect();
            changes.read_policies(tx, &all).await?;
            for index in all {
                let next = rules::after_rescue(&changes.facts(index), self.now);
                let (run, state) = (changes.job(index).run(), next.state);
                if state == JobState::Ready
                    && let Some(lane) = readable(tx.lane(changes.job(index).lane).await, "lane")?
                {
                    lanes.insert(lane.id(), lane);
                }
                changes.end_run(index, next, self.now);
                swept.rescued.push((run, state));
            }
            changes.write(tx).await?;
            if taken < held.len() {
                break;
            }
            sqlx::query("UPDATE mamos_session SET is_unrescued = 0 WHERE no = ?")
                .bind(number)
                .execute(&mut tx.connection)
                .await?;
        }
        Ok(())
    }

    async fn bury_overdue(&self, tx: &mut Tx, swept: &mut Swept) -> Result<(), Fault> {
        let overdue = sqlx::query(OVERDUE).bind(self.now.as_micros()).bind(self.limit());
        let overdue = overdue.fetch_all(&mut tx.connection).await?;
        let mut changes = Changes::of_rows(tx, &overdue, self.now).await?;
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
        changes.write(tx).await
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

    async fn run(&self, tx: &mut Tx) -> Result<u32, Fault> {
        static PARTS: [Listed; 8] = [
            Listed::new("DELETE FROM mamos_job WHERE seq IN (", 1, ")"),
            Listed::new("DELETE FROM mamos_spec WHERE seq IN (", 1, ")"),
            Listed::new("DELETE FROM mamos_output WHERE seq IN (", 1, ")"),
            Listed::new("DELETE FROM mamos_cancel WHERE seq IN (", 1, ")"),
            Listed::new("DELETE FROM mamos_failure WHERE seq IN (", 1, ")"),
            Listed::new("DELETE FROM mamos_progress WHERE seq IN (", 1, ")"),
            Listed::new("DELETE FROM mamos_attempt WHERE seq IN (", 1, ")"),
            Listed::new("DELETE FROM mamos_log WHERE seq IN (", 1, ")"),
        ];
        let ended = sqlx::query(ENDED).bind(self.before.as_micros()).bind(i64::from(self.limit));
        let mut seqs: Vec<i64> = Vec::new();
        for row in &ended.fetch_all(&mut tx.connection).await? {
            seqs.push(get(row, 0)?);
        }
        for part in &PARTS {
            let done = part.execute(&mut tx.connection, &seqs, |values, seq| {
                values.add(*seq);
            });
            done.await?;
        }
        Ok(u32::try_from(seqs.len()).unwrap_or(u32::MAX))
    }
}
