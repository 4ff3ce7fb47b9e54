//! Agents.

use mamos_core::ErrorKind;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord, Revocation};
use mamos_core::auth::PublicKey;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, InstanceId};
use mamos_core::job::labels::Labels;
use mamos_core::store::{Cursor, Page, PageRequest};
use serde::{Deserialize, Serialize};

use super::Core;
use super::codec::{agent_id, from_json, to_json};
use super::errors::{Fault, corrupt, readable};
use super::keys::Key;
use super::link::{Way, strings};
use super::tx::{Operation, Tx};

/// An agent, as JSON. Times in microseconds.
#[derive(Serialize, Deserialize)]
struct Row {
    state: u8,
    profile: AgentProfile,
    labels: Labels,
    is_draining: bool,
    public_key: [u8; 32],
    instance: Option<[u8; 16]>,
    revocation: Option<(i64, String)>,
    registered_at: i64,
    changed_at: i64,
    revision: u64,
}

const fn state_number(state: AgentState) -> u8 {
    match state {
        AgentState::Discovered => 0,
        AgentState::Registered => 1,
        AgentState::Running => 2,
        AgentState::Stopped => 3,
        AgentState::Failed => 4,
        AgentState::Decommissioned => 5,
    }
}

fn encode(agent: &AgentRecord) -> Result<Vec<u8>, Fault> {
    let row = Row {
        state: state_number(agent.state),
        profile: agent.profile.clone(),
        labels: agent.labels.clone(),
        is_draining: agent.is_draining,
        public_key: *agent.public_key.as_bytes(),
        instance: agent.instance.map(|instance| *instance.as_bytes()),
        revocation: agent
            .revocation
            .as_ref()
            .map(|revocation| (revocation.at.as_micros(), revocation.reason.clone())),
        registered_at: agent.registered_at.as_micros(),
        changed_at: agent.changed_at.as_micros(),
        revision: agent.revision,
    };
    to_json(&row, "agent")
}

fn decode(id: &AgentId, bytes: &[u8]) -> Result<AgentRecord, Fault> {
    let row: Row = from_json(bytes, "agent")?;
    let state = AgentState::ALL.into_iter().find(|state| state_number(*state) == row.state);
    Ok(AgentRecord {
        id: id.clone(),
        state: state.ok_or_else(|| corrupt("state of an agent", row.state))?,
        profile: row.profile,
        labels: row.labels,
        is_draining: row.is_draining,
        public_key: PublicKey::from_bytes(row.public_key),
        instance: row.instance.map(|instance| InstanceId::from_uuid(uuid::Uuid::from_bytes(instance))),
        revocation: row.revocation.map(|(at, reason)| Revocation { at: Timestamp::from_micros(at), reason }),
        registered_at: Timestamp::from_micros(row.registered_at),
        changed_at: Timestamp::from_micros(row.changed_at),
        revision: row.revision,
    })
}

/// How agents sort: by kind, and then by the bytes of their UUIDs. No kind contains a zero byte.
fn place(id: &AgentId) -> Vec<u8> {
    [id.kind().as_str().as_bytes(), &[0], id.uuid().as_bytes()].concat()
}

fn id_of(place: &[u8]) -> Result<AgentId, Fault> {
    let split = place.len().checked_sub(17).ok_or_else(|| corrupt("place of an agent", "it is too short"))?;
    let uuid = super::lists::uuid(&place[split + 1..])?;
    agent_id(format!("{}-{uuid}", String::from_utf8_lossy(&place[..split])).as_bytes())
}

/// An agent, and what is stored of it.
pub(super) struct Stored {
    bytes: Vec<u8>,
    pub(super) record: AgentRecord,
}

impl Stored {
    /// Plans to write it over what was read.
    pub(super) fn write(self, tx: &mut Tx) -> Result<(), Fault> {
        let value = encode(&self.record)?;
        tx.replace(Key::Agents, place(&self.record.id), self.bytes, value);
        Ok(())
    }
}

/// One agent as it is stored, or `None`.
pub(super) async fn stored(core: &Core, id: &AgentId) -> Result<Option<Stored>, Fault> {
    let bytes = core.link.field(Key::Agents, &place(id)).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let record = decode(id, &bytes)?;
    Ok(Some(Stored { bytes, record }))
}

/// Plans to store an agent that must not be there.
pub(super) fn insert(tx: &mut Tx, agent: &AgentRecord) -> Result<(), Fault> {
    tx.replace(Key::Agents, place(&agent.id), Vec::new(), encode(agent)?);
    tx.add_member(Key::AgentIndex, place(&agent.id));
    Ok(())
}

/// All agents in the order of their ids, a page at a time. Those that cannot be understood are left out.
pub(super) async fn page(core: &Core, page: &PageRequest) -> Result<Page<AgentRecord>, Fault> {
    let mut from = match &page.after {
        None => b"-".to_vec(),
        Some(Cursor(text)) => {
            let id = text.parse::<AgentId>().map_err(|_| {
                Fault::Refused(ErrorKind::Invalid, "this cursor is not of this list; begin again")
            })?;
            [b"(".as_slice(), &place(&id)].concat()
        }
    };
    let limit = page.bounded_limit() as usize;
    let mut items: Vec<AgentRecord> = Vec::new();
    loop {
        let count = (limit + 1).to_string();
        let args: [&[u8]; 5] = [&from, b"+", b"LIMIT", b"0", count.as_bytes()];
        let places = strings(core.link.command(Way::Read, "ZRANGEBYLEX", Key::AgentIndex, &args).await?)?;
        let Some(last) = places.last() else { return Ok(Page { items, next: None }) };
        from = [b"(".as_slice(), last].concat();
        let fields: Vec<&[u8]> = places.iter().map(Vec::as_slice).collect();
        let stored = core.link.fields(Way::Read, Key::Agents, &fields).await?;
        for (place, bytes) in places.iter().zip(stored) {
            let agent = id_of(place).and_then(|id| decode(&id, &bytes));
            let Some(agent) = readable(agent, "agent")? else { continue };
            if items.len() == limit {
                let next = items.last().map(|last| Cursor(last.id.to_string()));
                return Ok(Page { items, next });
            }
            items.push(agent);
        }
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

    async fn plan(&self, core: &Core) -> Result<(Tx, AgentRecord), Fault> {
        let Some(mut stored) = stored(core, &self.agent.id).await? else {
            return Err(Fault::Refused(ErrorKind::NotFound, "there is no such agent"));
        };
        if stored.record.revision != self.revision {
            return Err(Fault::Refused(ErrorKind::Conflict, "someone else changed the agent; read it again"));
        }
        let is_other_life = stored.record.instance != self.agent.instance;
        stored.record = AgentRecord {
            changed_at: if is_other_life { self.now } else { stored.record.changed_at },
            labels: self.agent.labels.clone(),
            is_draining: self.agent.is_draining,
            instance: self.agent.instance,
            revocation: self.agent.revocation.clone(),
            state: self.agent.state,
            revision: self.revision.saturating_add(1),
            ..stored.record
        };
        let agent = stored.record.clone();
        let mut tx = Tx::default();
        stored.write(&mut tx)?;
        Ok((tx, agent))
    }
}
