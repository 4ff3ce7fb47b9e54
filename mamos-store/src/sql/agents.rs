//! How the record of an agent changes.

use mamos_core::ErrorKind;
use mamos_core::agent::AgentRecord;
use mamos_core::agent::state::AgentEvent;
use mamos_core::clock::Timestamp;
use mamos_core::id::AgentId;
use mamos_core::store::Cursor;
use serde::Serialize;

use super::fault::Fault;
use super::rows::corrupt;

/// The agent behind which a page begins.
pub(crate) fn first(after: Option<&Cursor>) -> Result<Option<AgentId>, Fault> {
    let parse = |Cursor(text): &Cursor| text.parse::<AgentId>();
    after
        .map(parse)
        .transpose()
        .map_err(|_| Fault::Refused(ErrorKind::Invalid, "this cursor is not of this list; begin again"))
}

pub(crate) fn json(value: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| corrupt("agent", error))
}

/// The agent once its session has ended. One that was taken out of service meanwhile stays so.
pub(crate) fn ended(mut agent: AgentRecord, event: AgentEvent, now: Timestamp) -> AgentRecord {
    agent.state = agent.state.after(event).unwrap_or(agent.state);
    agent.changed_at = now;
    agent.revision = agent.revision.saturating_add(1);
    agent
}

/// What is stored once someone who read `revision` has changed it to `wanted`.
pub(crate) fn updated(
    stored: Option<AgentRecord>,
    wanted: &AgentRecord,
    revision: u64,
    now: Timestamp,
) -> Result<AgentRecord, Fault> {
    let Some(stored) = stored else {
        return Err(Fault::Refused(ErrorKind::NotFound, "there is no such agent"));
    };
    if stored.revision != revision {
        return Err(Fault::Refused(ErrorKind::Conflict, "someone else changed the agent; read it again"));
    }
    let is_other_life = stored.instance != wanted.instance;
    Ok(AgentRecord {
        changed_at: if is_other_life { now } else { stored.changed_at },
        labels: wanted.labels.clone(),
        is_draining: wanted.is_draining,
        instance: wanted.instance,
        revocation: wanted.revocation.clone(),
        state: wanted.state,
        revision: revision.saturating_add(1),
        ..stored
    })
}
