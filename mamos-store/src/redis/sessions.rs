//! Sessions, and how agents come and go: attached, renewed, detached.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::agent::AgentRecord;
use mamos_core::agent::state::AgentEvent;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, JobId, SessionId};
use mamos_core::job::rules;
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{Attach, Attached, HeldJob, SessionEnd, SessionRecord};
use uuid::Uuid;

use super::changes::Changes;
use super::codec::{decode_session, encode_session, expiry_item};
use super::errors::{Fault, corrupt, readable};
use super::keys::Key;
use super::link::{Way, strings};
use super::sweep::end_agent;
use super::tx::{Operation, Tx};
use super::{Core, agents, lists};

/// A session as it is stored, and what it says; nothing if there is none or it cannot be understood.
type Found = (Vec<u8>, Option<SessionRecord>);

/// One session.
pub(super) async fn read(core: &Core, id: SessionId) -> Result<Found, Fault> {
    let mut found = read_all(core, &[id]).await?;
    found.pop().ok_or_else(|| corrupt("answer", "it is too short"))
}

/// One session, or `None`. Fails if it cannot be understood.
pub(super) async fn found(core: &Core, id: SessionId) -> Result<Option<SessionRecord>, Fault> {
    let stored = core.link.field(Key::Sessions, id.as_bytes()).await?;
    if stored.is_empty() { Ok(None) } else { decode_session(id, &stored).map(Some) }
}

/// Sessions, in the order of these ids.
pub(super) async fn read_all(core: &Core, ids: &[SessionId]) -> Result<Vec<Found>, Fault> {
    let fields: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    let stored = core.link.fields(Way::Other, Key::Sessions, &fields).await?;
    let found = ids.iter().zip(stored).map(|(id, bytes)| {
        let record = match bytes.is_empty() {
            true => None,
            false => readable(decode_session(*id, &bytes), "session")?,
        };
        Ok((bytes, record))
    });
    found.collect()
}

/// Plans to write a session that must still be what was read. Its place among the open ones is not changed.
pub(super) fn replace(tx: &mut Tx, record: &SessionRecord, stored: Vec<u8>) {
    tx.replace(Key::Sessions, record.session.id.as_bytes().as_slice(), stored, encode_session(record));
}

/// The jobs that a session holds, as far as its set says.
pub(super) async fn held_ids(core: &Core, id: SessionId) -> Result<Vec<JobId>, Fault> {
    let found = strings(core.link.command(Way::Other, "SMEMBERS", Key::Held(id), &[]).await?)?;
    // What is no id is counted, but it is not a job.
    Ok(found.iter().map(|id| JobId::from_uuid(Uuid::from_slice(id).unwrap_or_default())).collect())
}

/// The open sessions, in the order of their ids.
pub(super) async fn open(core: &Core) -> Result<Vec<SessionRecord>, Fault> {
    let items = lists::due(core, Key::Expiry, super::codec::PLAIN_ITEM, usize::MAX, |_| true).await?;
    let mut ids: Vec<SessionId> = items
        .iter()
        .filter_map(|item| item.last_chunk())
        .map(|id| SessionId::from_uuid(Uuid::from_bytes(*id)))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let found = read_all(core, &ids).await?;
    Ok(found.into_iter().filter_map(|(_, record)| record).filter(|record| record.end.is_none()).collect())
}

/// An agent's sessions that are open or may still hold something, in the order of opening.
pub(super) struct Active {
    agent: Vec<u8>,
    stored: Vec<u8>,
    pub(super) ids: Vec<SessionId>,
}

impl Active {
    pub(super) async fn read(core: &Core, agent: &AgentId) -> Result<Self, Fault> {
        let agent = agent.to_string().into_bytes();
        let stored = core.link.field(Key::Active, &agent).await?;
        let (ids, _) = stored.as_chunks::<16>();
        let ids = ids.iter().map(|id| SessionId::from_uuid(Uuid::from_bytes(*id))).collect();
        Ok(Self { agent, stored, ids })
    }

    pub(super) fn remove(&mut self, id: SessionId) {
        self.ids.retain(|other| *other != id);
    }

    pub(super) fn write(self, tx: &mut Tx) {
        let value: Vec<u8> = self.ids.iter().flat_map(|id| *id.as_bytes()).collect();
        if value == self.stored {
            tx.check(Key::Active, self.agent, self.stored);
        } else if value.is_empty() {
            tx.check(Key::Active, self.agent.clone(), self.stored);
            tx.remove(Key::Active, self.agent);
        } else {
            tx.replace(Key::Active, self.agent, self.stored, value);
        }
    }
}

/// See [`mamos_core::store::SessionStore::attach`].
pub(super) struct AttachAgent {
    pub(super) request: Attach,
    pub(super) now: Timestamp,
}

impl Operation for AttachAgent {
    type Answer = Attached;
    const NAME: &'static str = "store.attach";

    async fn plan(&self, core: &Core) -> Result<(Tx, Attached), Fault> {
        let request = &self.request;
        let mut tx = Tx::default();
        let is_own = |record: &SessionRecord| record.end.is_none() && record.agent == request.agent;
        let resumed = match request.resume {
            None => None,
            Some(id) => {
                let (stored, record) = read(core, id).await?;
                record.filter(is_own).map(|record| (stored, record))
            }
        };
        let is_resumed = resumed.is_some();
        // After a lost answer the fresh session is there already.
        let existing = match resumed {
            Some(resumed) => Some(resumed),
            None => match read(core, request.fresh).await? {
                (stored, Some(record)) if is_own(&record) => Some((stored, record)),
                (stored, None) if stored.is_empty() => None,
                _ => {
                    let message = "another session has the fresh id; draw a new one";
                    return Err(Fault::Refused(ErrorKind::Conflict, message));
                }
            },
        };
        let Some(mut agent) = agents::stored(core, &request.agent).await? else {
            return Err(Fault::Refused(ErrorKind::NotFound, "there is no such agent; register it"));
        };
        let Ok(state) = agent.record.state.after(AgentEvent::Start) else {
            return Err(Fault::Refused(ErrorKind::Denied, "the agent may not start: it was decommissioned"));
        };

        let mut active = Active::read(core, &request.agent).await?;
        let sources = active.ids.clone();
        let session = self.open_or_resume(&mut tx, existing);
        let mut superseded = Vec::new();
        let others: Vec<SessionId> = sources.iter().copied().filter(|id| *id != session.id).collect();
        for (id, (stored, record)) in others.iter().zip(read_all(core, &others).await?) {
            tx.remove_member(Key::Unrescued, id.as_bytes().as_slice());
            tx.add_member(Key::Past, id.as_bytes().as_slice());
            match record {
                Some(mut record) if record.end.is_none() => {
                    tx.leave(Key::Expiry, &[], &expiry_item(record.expires_at, *id));
                    record.end = Some(SessionEnd::Superseded);
                    replace(&mut tx, &record, stored);
                    superseded.push(*id);
                }
                _ => tx.check(Key::Sessions, id.as_bytes().as_slice(), stored),
            }
        }
        active.ids = vec![session.id];
        active.write(&mut tx);
        let (changes, returned, unknown) = self.reconcile(core, &mut tx, session.id, &sources).await?;
        let held = self.held(core, session.id, &changes).await?;
        agent.record = AgentRecord {
            state,
            profile: request.profile.clone(),
            changed_at: self.now,
            revision: agent.record.revision.saturating_add(1),
            ..agent.record
        };
        agent.write(&mut tx)?;
        changes.write(&mut tx)?;
        Ok((tx, Attached { session, is_resumed, superseded, held, returned, unknown }))
    }
}

/// The jobs of all sources as they will be, what was given back, and what only the agent knows.
type Reconciled = (Changes, Vec<(RunRef, mamos_core::job::lane::LaneId, mamos_core::JobState)>, Vec<RunRef>);

impl AttachAgent {
    fn open_or_resume(&self, tx: &mut Tx, existing: Option<(Vec<u8>, SessionRecord)>) -> SessionRef {
        let request = &self.request;
        let expires_at = self.now + request.ttl;
        let (stored, record) = match existing {
            Some((stored, record)) => {
                let id = record.session.id;
                tx.leave(Key::Expiry, &[], &expiry_item(record.expires_at, id));
                let session = SessionRef { id, link: record.session.link.saturating_add(1) };
                let orchestrator = request.orchestrator.clone();
                (stored, SessionRecord { session, orchestrator, expires_at, ..record })
            }
            None => {
                let record = SessionRecord {
                    session: SessionRef { id: request.fresh, link: 1 },
                    agent: request.agent.clone(),
                    orchestrator: request.orchestrator.clone(),
                    opened_at: self.now,
                    expires_at,
                    end: None,
                };
                (Vec::new(), record)
            }
        };
        tx.enter(Key::Expiry, &[], &expiry_item(expires_at, record.session.id));
        replace(tx, &record, stored);
        record.session
    }

    /// Compares what the agent holds with what it knows: keeps what both know, gives back the rest, and
    /// names what only the agent knows.
    async fn reconcile(
        &self,
        core: &Core,
        tx: &mut Tx,
        session: SessionId,
        sources: &[SessionId],
    ) -> Result<Reconciled, Fault> {
        let known: HashSet<RunRef> = self.request.known.iter().copied().collect();
        let mut all = Vec::new();
        for source in sources {
            let held = held_ids(core, *source).await?;
            // A claim for the session that comes between is seen by this.
            tx.check_size(Key::Held(*source), held.len());
            all.extend(held);
        }
        let mut changes = Changes::read_or_bury(core, &all, self.now).await?;
        let mut kept = HashSet::new();
        let mut returned = Vec::new();
        for index in changes.indexes() {
            let (id, run) = (changes.job(index).id, changes.run(index));
            if !run.state.is_held() || !sources.contains(&run.session) {
                continue;
            }
            let (run, lane, holder) = (run.of(id), run.lane, run.session);
            if known.contains(&run) {
                kept.insert(run);
                if holder != session {
                    changes.change(index).session = session;
                }
                continue;
            }
            let next = rules::after_rescue(&changes.facts(index), self.now);
            returned.push((run, lane, next.state));
            changes.end_run(index, next, self.now);
        }
        let unknown = self.request.known.iter().copied().filter(|run| kept.insert(*run)).collect();
        Ok((changes, returned, unknown))
    }

    /// What the session will hold.
    async fn held(&self, core: &Core, session: SessionId, changes: &Changes) -> Result<Vec<HeldJob>, Fault> {
        let runs: HashMap<JobId, _> = changes
            .indexes()
            .into_iter()
            .map(|index| (changes.job(index).id, changes.run(index).clone()))
            .filter(|(_, run)| run.state.is_held() && run.session == session)
            .collect();
        lists::held_jobs(core, runs).await
    }
}

/// See [`mamos_core::store::SessionStore::renew`].
pub(super) struct Renew {
    pub(super) sessions: Vec<SessionRef>,
    pub(super) ttl: Duration,
    pub(super) now: Timestamp,
}

impl Operation for Renew {
    type Answer = Vec<Verdict>;
    const NAME: &'static str = "store.renew";

    async fn plan(&self, core: &Core) -> Result<(Tx, Vec<Verdict>), Fault> {
        self.extend(core, false).await
    }
}

/// See [`mamos_core::store::SessionStore::adopt`].
pub(super) struct Adopt(pub(super) Renew);

impl Operation for Adopt {
    type Answer = Vec<Verdict>;
    const NAME: &'static str = "store.adopt";

    async fn plan(&self, core: &Core) -> Result<(Tx, Vec<Verdict>), Fault> {
        self.0.extend(core, true).await
    }
}

impl Renew {
    /// Gives the sessions a new lease: those that are open, and did not expire or are `adopted`.
    async fn extend(&self, core: &Core, adopted: bool) -> Result<(Tx, Vec<Verdict>), Fault> {
        let ids: Vec<SessionId> = self.sessions.iter().map(|session| session.id).collect();
        let mut stored: HashMap<SessionId, Found> =
            ids.iter().copied().zip(read_all(core, &ids).await?).collect();
        let expires_at = self.now + self.ttl;
        let mut tx = Tx::default();
        let mut renewed = HashSet::new();
        let mut verdicts = Vec::with_capacity(self.sessions.len());
        for session in &self.sessions {
            let Some((bytes, Some(record))) = stored.get_mut(&session.id) else {
                verdicts.push(Verdict::Missing);
                continue;
            };
            let is_open = record.end.is_none() && record.session == *session;
            if !is_open || (record.expires_at <= self.now && !adopted) {
                verdicts.push(Verdict::Stale);
                continue;
            }
            verdicts.push(Verdict::Applied);
            if renewed.insert(session.id) {
                let id = session.id;
                if record.expires_at != expires_at {
                    tx.leave(Key::Expiry, &[], &expiry_item(record.expires_at, id));
                    tx.enter(Key::Expiry, &[], &expiry_item(expires_at, id));
                }
                // A repeat within the batch sees what came before it.
                record.expires_at = expires_at;
                replace(&mut tx, record, std::mem::take(bytes));
            }
        }
        Ok((tx, verdicts))
    }
}

/// See [`mamos_core::store::SessionStore::detach`].
pub(super) struct Detach {
    pub(super) session: SessionRef,
    pub(super) now: Timestamp,
}

impl Operation for Detach {
    type Answer = Verdict;
    const NAME: &'static str = "store.detach";

    async fn plan(&self, core: &Core) -> Result<(Tx, Verdict), Fault> {
        let mut tx = Tx::default();
        let id = self.session.id;
        let (stored, Some(mut record)) = read(core, id).await? else { return Ok((tx, Verdict::Missing)) };
        if record.end.is_some() || record.session != self.session {
            return Ok((tx, Verdict::Stale));
        }
        tx.leave(Key::Expiry, &[], &expiry_item(record.expires_at, id));
        record.end = Some(SessionEnd::Closed);
        replace(&mut tx, &record, stored);
        tx.add_member(Key::Past, id.as_bytes().as_slice());
        let mut active = Active::read(core, &record.agent).await?;
        active.remove(id);
        active.write(&mut tx);
        if let Some(mut agent) = readable(agents::stored(core, &record.agent).await, "agent")?.flatten() {
            end_agent(&mut agent.record, AgentEvent::Stop, self.now);
            agent.write(&mut tx)?;
        }
        let held = held_ids(core, id).await?;
        tx.check_size(Key::Held(id), held.len());
        let mut changes = Changes::read_or_bury(core, &held, self.now).await?;
        for index in changes.indexes() {
            if changes.run(index).state.is_held() && changes.run(index).session == id {
                let next = rules::after_release(&changes.facts(index), self.now);
                changes.end_run(index, next, self.now);
            }
        }
        changes.write(&mut tx)?;
        Ok((tx, Verdict::Applied))
    }
}
