//! Agents, tokens and documents.

use mamos_core::agent::{AgentRecord, Revocation};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::id::{AgentId, AgentKind, InstanceId, TokenId};
use mamos_core::store::Document;

use super::{Cells, Fault, agent_state, corrupt, json, small};

/// The columns that [`agent`] reads.
pub(crate) const AGENT_COLUMNS: &str = "kind, uuid, state, profile, labels, is_draining, public_key, instance, revoked_at, revoked_why, \
     registered_at, changed_at, revision";

pub(crate) fn agent(row: &impl Cells) -> Result<AgentRecord, Fault> {
    let id = format!("{}-{}", row.text(0)?, row.uuid(1)?);
    let instance = row.maybe_uuid(7)?.map(InstanceId::from_uuid);
    let revocation = match row.maybe_time(8)? {
        None => None,
        Some(at) => Some(Revocation { at, reason: row.text(9)?.to_owned() }),
    };
    Ok(AgentRecord {
        id: id.parse::<AgentId>().map_err(|error| corrupt("agent id", error))?,
        state: agent_state(row.int(2)?)?,
        profile: json(row.text(3)?, "profile")?,
        labels: json(row.text(4)?, "labels")?,
        is_draining: row.int(5)? != 0,
        public_key: PublicKey::from_bytes(bytes_32(row, 6, "public key")?),
        instance,
        revocation,
        registered_at: row.time(10)?,
        changed_at: row.time(11)?,
        revision: row.int(12)? as u64,
    })
}

/// The columns that [`token`] reads.
pub(crate) const TOKEN_COLUMNS: &str =
    "id, hash, expires_at, uses_left, agent_kind, agent_name, labels, created_at";

pub(crate) fn token(row: &impl Cells) -> Result<RegistrationToken, Fault> {
    let kind = row.maybe_text(4)?.map(AgentKind::new).transpose();
    Ok(RegistrationToken {
        id: TokenId::from_uuid(row.uuid(0)?),
        hash: bytes_32(row, 1, "hash")?,
        expires_at: row.time(2)?,
        uses_left: small(row.int(3)?, "uses left")?,
        agent_kind: kind.map_err(|error| corrupt("agent kind", error))?,
        agent_name: row.maybe_text(5)?.map(str::to_owned),
        labels: json(row.text(6)?, "labels")?,
        created_at: row.time(7)?,
    })
}

/// The columns that [`document`] reads.
macro_rules! document_columns {
    () => {
        "d.key, d.revision, d.value, d.expires_at"
    };
}
pub(crate) use document_columns;

/// The same, for statements that are put together as they run.
pub(crate) const DOCUMENT_COLUMNS: &str = document_columns!();

/// A document, from the column with that number on.
pub(crate) fn document(row: &impl Cells, first: usize) -> Result<Document, Fault> {
    let key = String::from_utf8(row.bytes(first)?.to_vec());
    Ok(Document {
        key: key.map_err(|error| corrupt("key", error))?,
        revision: small(row.int(first + 1)?, "revision")?,
        value: row.blob(first + 2)?,
        expires_at: row.maybe_time(first + 3)?,
    })
}

fn bytes_32(row: &impl Cells, index: usize, what: &str) -> Result<[u8; 32], Fault> {
    row.bytes(index)?.try_into().map_err(|error| corrupt(what, error))
}
