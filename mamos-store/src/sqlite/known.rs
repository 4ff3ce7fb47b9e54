//! What the writer remembers between transactions: facts that never change once they are stored.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use mamos_core::id::SessionId;
use mamos_core::job::lane::{Lane, LaneId};
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::errors::{Fault, readable};
use super::rows;
use super::sql::Listed;
use super::writer::Tx;

/// How many sessions are remembered. Some megabytes; beyond that all are forgotten and asked again.
const MAX_SESSIONS: usize = 16_384;

/// Numbers of lanes and sessions within this file.
#[derive(Default)]
pub(super) struct Known {
    pub(super) lanes: Lanes,
    sessions: HashMap<SessionId, i64>,
}

/// Lanes by their numbers. They are never changed or removed, so that knowing one is enough for ever.
#[derive(Debug, Default)]
pub(super) struct Lanes(RwLock<LaneMaps>);

#[derive(Debug, Default)]
struct LaneMaps {
    by_number: HashMap<i64, Arc<Lane>>,
    by_id: HashMap<LaneId, i64>,
}

impl Lanes {
    /// Reads the lanes that were added since the last call.
    async fn refresh(&self, connection: &mut SqliteConnection) -> Result<(), Fault> {
        let newest = self.read().by_number.keys().max().copied().unwrap_or(0);
        let found = sqlx::query("SELECT no, id, queue, kind, selector FROM mamos_lane WHERE no > ?")
            .bind(newest)
            .fetch_all(connection)
            .await?;
        for row in &found {
            if let Some((number, lane)) = readable(rows::lane(row), "lane")? {
                self.insert(number, lane);
            }
        }
        Ok(())
    }

    /// The lane with a number that stands in a row.
    pub(super) async fn lane(
        &self,
        connection: &mut SqliteConnection,
        number: i64,
    ) -> Result<Arc<Lane>, Fault> {
        if let Some(lane) = self.by_number(number) {
            return Ok(lane);
        }
        self.refresh(connection).await?;
        self.by_number(number).ok_or_else(|| rows::corrupt("lane", format!("number {number} is missing")))
    }

    fn by_number(&self, number: i64) -> Option<Arc<Lane>> {
        self.read().by_number.get(&number).map(Arc::clone)
    }

    fn by_id(&self, id: LaneId) -> Option<i64> {
        self.read().by_id.get(&id).copied()
    }

    fn insert(&self, number: i64, lane: Arc<Lane>) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.insert(lane.id(), number);
        maps.by_number.insert(number, lane);
    }

    fn read(&self) -> RwLockReadGuard<'_, LaneMaps> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tx {
    /// The lane with a number that stands in a row.
    pub(super) async fn lane(&mut self, number: i64) -> Result<Arc<Lane>, Fault> {
        self.known.lanes.lane(&mut self.connection, number).await
    }

    /// Those of the lanes that are stored, with their numbers.
    pub(super) async fn stored_lanes(&mut self, ids: &[LaneId]) -> Result<Vec<(i64, Arc<Lane>)>, Fault> {
        let lanes = &self.known.lanes;
        if ids.iter().any(|id| lanes.by_id(*id).is_none()) {
            lanes.refresh(&mut self.connection).await?;
        }
        let numbers = ids.iter().filter_map(|id| lanes.by_id(*id));
        Ok(numbers.filter_map(|number| Some((number, lanes.by_number(number)?))).collect())
    }

    /// The number of a lane, which is stored if it is new.
    pub(super) async fn lane_number(&mut self, lane: &Arc<Lane>) -> Result<i64, Fault> {
        let lanes = &self.known.lanes;
        if lanes.by_id(lane.id()).is_none() {
            // Another process may have stored it.
            lanes.refresh(&mut self.connection).await?;
        }
        if let Some(number) = lanes.by_id(lane.id()) {
            return Ok(number);
        }
        let insert = "INSERT INTO mamos_lane (id, queue, kind, selector) VALUES (?, ?, ?, ?) RETURNING no";
        let row = sqlx::query(insert)
            .bind(lane.id().number())
            .bind(lane.queue().as_str().to_owned())
            .bind(lane.kind().as_str().to_owned())
            .bind(lane.selector().to_string())
            .fetch_one(&mut self.connection)
            .await?;
        let number = row.try_get(0)?;
        lanes.insert(number, Arc::clone(lane));
        Ok(number)
    }

    /// The numbers of sessions; those that are not stored are left out.
    pub(super) async fn session_numbers(
        &mut self,
        ids: impl Iterator<Item = SessionId>,
    ) -> Result<HashMap<SessionId, i64>, Fault> {
        static SESSIONS: Listed = Listed::new("SELECT id, no FROM mamos_session WHERE id IN (", 1, ")");
        let mut numbers = HashMap::new();
        let mut unknown = HashSet::new();
        for id in ids {
            match self.known.sessions.get(&id) {
                Some(number) => {
                    numbers.insert(id, *number);
                }
                None => {
                    unknown.insert(id);
                }
            }
        }
        if unknown.is_empty() {
            return Ok(numbers);
        }
        if self.known.sessions.len() > MAX_SESSIONS {
            self.known.sessions.clear();
        }
        let unknown: Vec<SessionId> = unknown.into_iter().collect();
        let found = SESSIONS.fetch(&mut self.connection, &unknown, |values, id| {
            values.add(id.as_bytes().as_slice());
        });
        for row in &found.await? {
            let (id, number) = (rows::session_id(row, 0)?, rows::get(row, 1)?);
            numbers.insert(id, number);
            self.known.sessions.insert(id, number);
        }
        Ok(numbers)
    }
}
