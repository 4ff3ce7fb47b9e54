//! Agents, tokens and documents.

use mamos_core::agent::{AgentRecord, Revocation};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, AgentKind, InstanceId, TokenId};
use mamos_core::store::Document;
use sqlx::sqlite::SqliteRow;

use super::{Fault, agent_state, blob, corrupt, get, json, small, time, uuid};

/// The columns that [`agent`] reads.
pub(in crate::sqlite) const AGENT_COLUMNS: &str = "kind, uuid, state, profile, labels, is_draining, public_key, instance, revoked_at, revoked_why, \
     registered_at, changed_at, revision";

pub(in crate::sqlite) fn agent(row: &SqliteRow) -> Result<AgentRecord, Fault> {
    let id = format!("{}-{}", get::<&str>(row, 0)?, uuid(row, 1)?);
    let instance = match get::<Option<&[u8]>>(row, 7)? {
        None => None,
        Some(_) => Some(InstanceId::from_uuid(uuid(row, 7)?)),
    };
    let revocation = match time(row, 8)? {
        None => None,
        Some(at) => Some(Revocation { at, reason: get(row, 9)? }),
    };
    Ok(AgentRecord {
        id: id.parse::<AgentId>().map_err(|error| corrupt("agent id", error))?,
        state: agent_state(get(row, 2)?)?,
        profile: json(get(row, 3)?, "profile")?,
        labels: json(get(row, 4)?, "labels")?,
        is_draining: get::<i64>(row, 5)? != 0,
        public_key: PublicKey::from_bytes(bytes_32(row, 6, "public key")?),
        instance,
        revocation,
        registered_at: Timestamp::from_micros(get(row, 10)?),
        changed_at: Timestamp::from_micros(get(row, 11)?),
        revision: get::<i64>(row, 12)? as u64,
    })
}

/// The columns that [`token`] reads.
pub(in crate::sqlite) const TOKEN_COLUMNS: &str =
    "id, hash, expires_at, uses_left, agent_kind, agent_name, labels, created_at";

pub(in crate::sqlite) fn token(row: &SqliteRow) -> Result<RegistrationToken, Fault> {
    let kind = get::<Option<&str>>(row, 4)?.map(AgentKind::new).transpose();
    Ok(RegistrationToken {
        id: TokenId::from_uuid(uuid(row, 0)?),
        hash: bytes_32(row, 1, "hash")?,
        expires_at: Timestamp::from_micros(get(row, 2)?),
        uses_left: small(get(row, 3)?, "uses left")?,
        agent_kind: kind.map_err(|error| corrupt("agent kind", error))?,
        agent_name: get(row, 5)?,
        labels: json(get(row, 6)?, "labels")?,
        created_at: Timestamp::from_micros(get(row, 7)?),
    })
}

/// The columns that [`document`] reads.
macro_rules! document_columns {
    () => {
        "d.key, d.revision, d.value, d.expires_at"
    };
}
pub(in crate::sqlite) use document_columns;

/// The same, for statements that are put together as they run.
pub(in crate::sqlite) const DOCUMENT_COLUMNS: &str = document_columns!();

/// A document, from the column with that number on.
pub(in crate::sqlite) fn document(row: &SqliteRow, first: usize) -> Result<Document, Fault> {
    let key = String::from_utf8(get(row, first)?);
    Ok(Document {
        key: key.map_err(|error| corrupt("key", error))?,
        revision: small(get(row, first + 1)?, "revision")?,
        value: blob(row, first + 2)?,
        expires_at: time(row, first + 3)?,
    })
}

fn bytes_32(row: &SqliteRow, index: usize, what: &str) -> Result<[u8; 32], Fault> {
    let bytes: &[u8] = get(row, index)?;
    bytes.try_into().map_err(|error| corrupt(what, error))
}
