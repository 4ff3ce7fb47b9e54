//! What a store remembers: facts that never change once they are stored.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mamos_core::id::SessionId;
use mamos_core::job::lane::{Lane, LaneId};
use sqlx::postgres::PgConnection;

use super::errors::{Fault, readable};
use super::rows::{self, Cells};

/// How many sessions are remembered. Some megabytes; beyond that all are forgotten and asked again.
const MAX_SESSIONS: usize = 16_384;

/// Numbers of lanes and sessions within the database. Only what was committed.
#[derive(Debug, Default)]
pub(super) struct Known {
    lanes: RwLock<LaneMaps>,
    sessions: Mutex<HashMap<SessionId, i64>>,
}

#[derive(Debug, Default)]
struct LaneMaps {
    by_number: HashMap<i64, Arc<Lane>>,
    by_id: HashMap<LaneId, i64>,
}

impl Known {
    /// The lane with a number that stands in a row.
    pub(super) async fn lane(&self, connection: &mut PgConnection, number: i64) -> Result<Arc<Lane>, Fault> {
        if let Some(lane) = self.by_number(number) {
            return Ok(lane);
        }
        let query = "SELECT no, id, queue, kind, selector FROM mamos_lane WHERE no = $1";
        let found = sqlx::query(query).bind(number).fetch_optional(connection).await?;
        let missing = || rows::corrupt("lane", format!("number {number} is missing"));
        let (number, lane) = rows::lane(&found.ok_or_else(missing)?)?;
        self.insert(number, Arc::clone(&lane));
        Ok(lane)
    }

    /// Those of the lanes that are stored, with their numbers.
    pub(super) async fn stored_lanes(
        &self,
        connection: &mut PgConnection,
        ids: impl Iterator<Item = LaneId> + Clone,
    ) -> Result<Vec<(i64, Arc<Lane>)>, Fault> {
        let unknown: Vec<i64> =
            ids.clone().filter(|id| self.by_id(*id).is_none()).map(|id| id.number()).collect();
        if !unknown.is_empty() {
            self.look_up(connection, &unknown).await?;
        }
        let numbers = ids.filter_map(|id| self.by_id(id));
        Ok(numbers.filter_map(|number| Some((number, self.by_number(number)?))).collect())
    }

    /// The numbers of lanes, which are stored if they are new. Not within a transaction: it might be undone.
    pub(super) async fn lane_numbers(
        &self,
        connection: &mut PgConnection,
        lanes: impl Iterator<Item = &Arc<Lane>> + Clone,
    ) -> Result<HashMap<LaneId, i64>, Fault> {
        // In order, so that two who store the same lanes do not wait for each other.
        let mut unknown: Vec<&Arc<Lane>> = Vec::new();
        let mut numbers = HashMap::new();
        for lane in lanes {
            match self.by_id(lane.id()) {
                _ if numbers.contains_key(&lane.id()) => {}
                Some(number) => drop(numbers.insert(lane.id(), number)),
                None => unknown.push(lane),
            }
        }
        if unknown.is_empty() {
            return Ok(numbers);
        }
        unknown.sort_by_key(|lane| lane.id());
        unknown.dedup_by_key(|lane| lane.id());
        let ids: Vec<i64> = unknown.iter().map(|lane| lane.id().number()).collect();
        self.look_up(connection, &ids).await?;
        if unknown.iter().any(|lane| self.by_id(lane.id()).is_none()) {
            let insert = "INSERT INTO mamos_lane (id, queue, kind, selector) \
                          SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) ON CONFLICT DO NOTHING";
            sqlx::query(insert)
                .bind(&ids)
                .bind(unknown.iter().map(|lane| lane.queue().as_str()).collect::<Vec<_>>())
                .bind(unknown.iter().map(|lane| lane.kind().as_str()).collect::<Vec<_>>())
                .bind(unknown.iter().map(|lane| lane.selector().to_string()).collect::<Vec<_>>())
                .execute(&mut *connection)
                .await?;
            self.look_up(connection, &ids).await?;
        }
        for lane in unknown {
            let number = self.by_id(lane.id()).ok_or_else(|| rows::corrupt("lane", "its row is damaged"))?;
            numbers.insert(lane.id(), number);
        }
        Ok(numbers)
    }

    async fn look_up(&self, connection: &mut PgConnection, ids: &[i64]) -> Result<(), Fault> {
        let query = "SELECT no, id, queue, kind, selector FROM mamos_lane WHERE id = ANY($1)";
        for row in &sqlx::query(query).bind(ids).fetch_all(connection).await? {
            if let Some((number, lane)) = readable(rows::lane(row), "lane")? {
                self.insert(number, lane);
            }
        }
        Ok(())
    }

    fn by_number(&self, number: i64) -> Option<Arc<Lane>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner).by_number.get(&number).map(Arc::clone)
    }

    fn by_id(&self, id: LaneId) -> Option<i64> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).copied()
    }

    fn insert(&self, number: i64, lane: Arc<Lane>) {
        let mut maps = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.insert(lane.id(), number);
        maps.by_number.insert(number, lane);
    }

    /// The numbers of sessions; those that are not stored are left out.
    pub(super) async fn session_numbers(
        &self,
        connection: &mut PgConnection,
        ids: impl Iterator<Item = SessionId>,
    ) -> Result<HashMap<SessionId, i64>, Fault> {
        let mut numbers = HashMap::new();
        let mut unknown = HashSet::new();
        {
            let known = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                match known.get(&id) {
                    Some(number) => drop(numbers.insert(id, *number)),
                    None => drop(unknown.insert(id)),
                }
            }
        }
        if unknown.is_empty() {
            return Ok(numbers);
        }
        let query = "SELECT id, no FROM mamos_session WHERE id = ANY($1)";
        let unknown: Vec<uuid::Uuid> = unknown.iter().map(|id| *id.as_uuid()).collect();
        let found = sqlx::query(query).bind(unknown).fetch_all(connection).await?;
        let mut known = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > MAX_SESSIONS {
            known.clear();
        }
        for row in &found {
            let (id, number) = (rows::session_id(row, 0)?, row.int(1)?);
            numbers.insert(id, number);
            known.insert(id, number);
        }
        Ok(numbers)
    }
}
