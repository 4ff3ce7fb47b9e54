//! Agents.

use mamos_core::agent::AgentRecord;
use mamos_core::agent::state::AgentEvent;
use mamos_core::clock::Timestamp;
use mamos_core::id::AgentId;
use mamos_core::store::{Cursor, Page, PageRequest};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::errors::{Fault, readable};
use super::rows::{self, AGENT_COLUMNS, Cells, agent_state_number, clean};
use super::tx::{Operation, Tx};
use crate::sql::agents::{ended, first, json, updated};

/// One agent, or `None`.
pub(super) async fn read(connection: &mut PgConnection, id: &AgentId) -> Result<Option<AgentRecord>, Fault> {
    let query = format!("SELECT {AGENT_COLUMNS} FROM mamos_agent WHERE kind = $1 AND uuid = $2");
    let row = sqlx::query(AssertSqlSafe(query))
        .bind(id.kind().as_str().to_owned())
        .bind(*id.uuid())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(rows::agent).transpose()
}

/// The same, locked until the transaction ends.
pub(super) async fn read_locked(
    connection: &mut PgConnection,
    id: &AgentId,
) -> Result<Option<AgentRecord>, Fault> {
    let query =
        format!("SELECT {AGENT_COLUMNS} FROM mamos_agent WHERE kind = $1 AND uuid = $2 FOR NO KEY UPDATE");
    let row = sqlx::query(AssertSqlSafe(query))
        .bind(id.kind().as_str().to_owned())
        .bind(*id.uuid())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(rows::agent).transpose()
}

/// All agents in the order of their ids, a page at a time. Those that cannot be understood are left out.
pub(super) async fn page(
    connection: &mut PgConnection,
    page: &PageRequest,
) -> Result<Page<AgentRecord>, Fault> {
    let after = first(page.after.as_ref())?;
    // No kind is empty, so every agent comes after this.
    let mut place =
        after.map_or((String::new(), Uuid::nil()), |id| (id.kind().as_str().to_owned(), *id.uuid()));
    let limit = page.bounded_limit() as usize;
    let query = format!(
        "SELECT {AGENT_COLUMNS} FROM mamos_agent WHERE (kind, uuid) > ($1, $2) ORDER BY kind, uuid LIMIT $3"
    );
    let mut items: Vec<AgentRecord> = Vec::new();
    loop {
        let (kind, uuid) = place.clone();
        let found = sqlx::query(AssertSqlSafe(query.clone())).bind(kind).bind(uuid).bind(limit as i64 + 1);
        let found = found.fetch_all(&mut *connection).await?;
        for row in &found {
            let Some(agent) = readable(rows::agent(row), "agent")? else { continue };
            if items.len() == limit {
                let next = items.last().map(|last| Cursor(last.id.to_string()));
                return Ok(Page { items, next });
            }
            items.push(agent);
        }
        // Without broken rows one query is enough.
        let Some(last) = found.last().filter(|_| found.len() > limit) else {
            return Ok(Page { items, next: None });
        };
        place = (last.text(0)?.to_owned(), last.uuid(1)?);
    }
}

/// Stores an agent, new or changed.
pub(super) async fn write(tx: &mut Tx<'_>, agent: &AgentRecord) -> Result<(), Fault> {
    let query = format!(
        "INSERT INTO mamos_agent ({AGENT_COLUMNS}) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13) \
         ON CONFLICT (kind, uuid) DO UPDATE SET state = excluded.state, profile = excluded.profile, \
         labels = excluded.labels, is_draining = excluded.is_draining, public_key = excluded.public_key, \
         instance = excluded.instance, revoked_at = excluded.revoked_at, revoked_why = excluded.revoked_why, \
         registered_at = excluded.registered_at, changed_at = excluded.changed_at, revision = excluded.revision"
    );
    sqlx::query(AssertSqlSafe(query))
        .bind(agent.id.kind().as_str().to_owned())
        .bind(*agent.id.uuid())
        .bind(agent_state_number(agent.state) as i16)
        .bind(json(&agent.profile)?)
        .bind(json(&agent.labels)?)
        .bind(agent.is_draining)
        .bind(agent.public_key.as_bytes().to_vec())
        .bind(agent.instance.map(|instance| *instance.as_uuid()))
        .bind(agent.revocation.as_ref().map(|revocation| revocation.at.as_micros()))
        .bind(agent.revocation.as_ref().map(|revocation| clean(&revocation.reason).into_owned()))
        .bind(agent.registered_at.as_micros())
        .bind(agent.changed_at.as_micros())
        .bind(agent.revision as i64)
        .execute(&mut *tx.connection)
        .await?;
    Ok(())
}

impl Tx<'_> {
    /// Notes that the agent's session ended. One that was taken out of service meanwhile stays so.
    pub(super) async fn end_agent(
        &mut self,
        id: &AgentId,
        event: AgentEvent,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let Some(agent) = read_locked(self.connection, id).await? else { return Ok(()) };
        write(self, &ended(agent, event, now)).await
    }
}

/// See [`mamos_core::store::AgentStore::update_agent`].
pub(super) struct UpdateAgent {
    pub(super) agent: AgentRecord,
    pub(super) revision: u64,
    pub(super) now: Timestamp,
}

impl Operation for UpdateAgent {
    type Answer = AgentRecord;
    const NAME: &'static str = "store.update_agent";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<AgentRecord, Fault> {
        let stored = read_locked(tx.connection, &self.agent.id).await?;
        let agent = updated(stored, &self.agent, self.revision, self.now)?;
        write(tx, &agent).await?;
        Ok(agent)
    }
}
