//! How agents come and go: attached, renewed, detached.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::agent::AgentRecord;
use mamos_core::agent::state::AgentEvent;
use mamos_core::clock::Timestamp;
use mamos_core::id::SessionId;
use mamos_core::job::lane::LaneId;
use mamos_core::job::rules;
use mamos_core::job::state::JobState;
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{Attach, Attached, SessionEnd, SessionRecord};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::agents;
use super::changes::{self, Changes};
use super::errors::{Fault, readable};
use super::lists;
use super::rows::{self, Cells, SESSION_COLUMNS, clean, hot_columns, session_end_number};
use super::tx::{Operation, Tx};

/// One session and its number, or `None`.
pub(super) async fn read(
    connection: &mut PgConnection,
    id: SessionId,
) -> Result<Option<(i64, SessionRecord)>, Fault> {
    let query = format!("SELECT {SESSION_COLUMNS} FROM mamos_session WHERE id = $1");
    let query = sqlx::query(AssertSqlSafe(query)).bind(*id.as_uuid());
    query.fetch_optional(connection).await?.as_ref().map(rows::session).transpose()
}

/// The open sessions in the order of their ids.
pub(super) async fn open(connection: &mut PgConnection) -> Result<Vec<SessionRecord>, Fault> {
    let query = format!("SELECT {SESSION_COLUMNS} FROM mamos_session WHERE ended IS NULL ORDER BY id");
    let found = sqlx::query(AssertSqlSafe(query)).fetch_all(connection).await?;
    let sessions =
        found.iter().map(|row| readable(rows::session(row), "session")).filter_map(Result::transpose);
    sessions.map(|session| session.map(|(_, record)| record)).collect()
}

async fn end(tx: &mut Tx<'_>, number: i64, end: SessionEnd) -> Result<(), Fault> {
    sqlx::query("UPDATE mamos_session SET ended = $1 WHERE no = $2")
        .bind(session_end_number(end) as i16)
        .bind(number)
        .execute(&mut *tx.connection)
        .await?;
    Ok(())
}

/// The same, locked until the transaction ends.
async fn read_locked(
    connection: &mut PgConnection,
    id: SessionId,
) -> Result<Option<(i64, SessionRecord)>, Fault> {
    let query = format!("SELECT {SESSION_COLUMNS} FROM mamos_session WHERE id = $1 FOR NO KEY UPDATE");
    let query = sqlx::query(AssertSqlSafe(query)).bind(*id.as_uuid());
    query.fetch_optional(connection).await?.as_ref().map(rows::session).transpose()
}

/// What a session holds, in the order of its runs, and locked.
async fn read_held(tx: &mut Tx<'_>, number: i64, now: Timestamp) -> Result<(Changes, Vec<usize>), Fault> {
    const HELD: &str = concat!(
        "SELECT ",
        hot_columns!(),
        " FROM mamos_job j WHERE j.state IN (3, 4) AND j.session = $1 ORDER BY j.id FOR NO KEY UPDATE"
    );
    let held = sqlx::query(HELD).bind(number).fetch_all(&mut *tx.connection).await?;
    let mut changes = changes::of_rows(tx, &held, now).await?;
    let mut indexes: Vec<usize> = (0..changes.len()).collect();
    indexes.sort_by_key(|index| changes.job(*index).run());
    changes::read_policies(&mut changes, tx, &indexes).await?;
    Ok((changes, indexes))
}

/// See [`mamos_core::store::SessionStore::attach`].
pub(super) struct AttachAgent {
    pub(super) request: Attach,
    pub(super) now: Timestamp,
}

impl Operation for AttachAgent {
    type Answer = Attached;
    const NAME: &'static str = "store.attach";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Attached, Fault> {
        let request = &self.request;
        let is_own =
            |(_, record): &(i64, SessionRecord)| record.end.is_none() && record.agent == request.agent;
        // Two links of one agent come one after the other, whichever orchestrators they reach. Sessions are
        // locked before agents and agents before jobs, here as everywhere.
        self.take_turn(tx).await?;
        let sources = self.active_sessions(tx).await?;
        let resumed = match request.resume {
            None => None,
            Some(id) => read(tx.connection, id).await?.filter(is_own),
        };
        let fresh = read(tx.connection, request.fresh).await?;
        // After a lost answer the fresh session is there already.
        let existing = match (&resumed, fresh) {
            (Some(resumed), _) => Some(resumed.clone()),
            (None, None) => None,
            (None, Some(fresh)) if is_own(&fresh) => Some(fresh),
            (None, Some(_)) => {
                let message = "another session has the fresh id; draw a new one";
                return Err(Fault::Refused(ErrorKind::Conflict, message));
            }
        };
        let Some(agent) = agents::read_locked(tx.connection, &request.agent).await? else {
            return Err(Fault::Refused(ErrorKind::NotFound, "there is no such agent; register it"));
        };
        let Ok(state) = agent.state.after(AgentEvent::Start) else {
            return Err(Fault::Refused(ErrorKind::Denied, "the agent may not start: it was decommissioned"));
        };

        let (number, session) = match existing {
            Some((number, record)) => {
                let link = record.session.link.saturating_add(1);
                (self.resume(tx, number, link).await?, SessionRef { id: record.session.id, link })
            }
            None => (self.open(tx).await?, SessionRef { id: request.fresh, link: 1 }),
        };
        let mut superseded = Vec::new();
        for (other, record) in sources.iter().filter(|(other, _)| *other != number) {
            if record.end.is_none() {
                end(tx, *other, SessionEnd::Superseded).await?;
                superseded.push(record.session.id);
            }
        }
        let numbers: Vec<i64> = sources.iter().map(|(source, _)| *source).collect();
        let (returned, unknown) = self.reconcile(tx, number, &numbers).await?;
        let agent = AgentRecord {
            state,
            profile: request.profile.clone(),
            changed_at: self.now,
            revision: agent.revision.saturating_add(1),
            ..agent
        };
        agents::write(tx, &agent).await?;
        let held = lists::held(tx.connection, tx.known, number).await?;
        Ok(Attached { session, is_resumed: resumed.is_some(), superseded, held, returned, unknown })
    }
}

impl AttachAgent {
    async fn take_turn(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        // The lock is of this schema's table and of the hash of the agent.
        let lock = "SELECT pg_advisory_xact_lock('mamos_session'::regclass::int, hashtext($1))";
        sqlx::query(lock).bind(self.request.agent.to_string()).execute(&mut *tx.connection).await?;
        Ok(())
    }

    /// The agent's sessions that are open, or may hold something still, in the order of opening.
    async fn active_sessions(&self, tx: &mut Tx<'_>) -> Result<Vec<(i64, SessionRecord)>, Fault> {
        let query = format!(
            "SELECT {SESSION_COLUMNS} FROM mamos_session \
             WHERE agent = $1 AND (ended IS NULL OR is_unrescued) ORDER BY no FOR NO KEY UPDATE"
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(self.request.agent.to_string());
        query.fetch_all(&mut *tx.connection).await?.iter().map(rows::session).collect()
    }

    async fn resume(&self, tx: &mut Tx<'_>, number: i64, link: u32) -> Result<i64, Fault> {
        sqlx::query("UPDATE mamos_session SET link = $1, orchestrator = $2, expires_at = $3 WHERE no = $4")
            .bind(i64::from(link))
            .bind(clean(&self.request.orchestrator).into_owned())
            .bind((self.now + self.request.ttl).as_micros())
            .bind(number)
            .execute(&mut *tx.connection)
            .await?;
        Ok(number)
    }

    async fn open(&self, tx: &mut Tx<'_>) -> Result<i64, Fault> {
        let insert = "INSERT INTO mamos_session (id, link, agent, orchestrator, opened_at, expires_at) \
                      VALUES ($1, 1, $2, $3, $4, $5) RETURNING no";
        let row = sqlx::query(insert)
            .bind(*self.request.fresh.as_uuid())
            .bind(self.request.agent.to_string())
            .bind(clean(&self.request.orchestrator).into_owned())
            .bind(self.now.as_micros())
            .bind((self.now + self.request.ttl).as_micros())
            .fetch_one(&mut *tx.connection)
            .await?;
        row.int(0)
    }

    /// Compares what the agent holds with what it knows: keeps what both know, gives back the rest, and
    /// names what only the agent knows.
    async fn reconcile(&self, tx: &mut Tx<'_>, number: i64, sources: &[i64]) -> Result<Reconciled, Fault> {
        let known: HashSet<RunRef> = self.request.known.iter().copied().collect();
        let mut kept = HashSet::new();
        let mut returned = Vec::new();
        for source in sources {
            let (mut changes, indexes) = read_held(tx, *source, self.now).await?;
            for index in indexes {
                let run = changes.job(index).run();
                if known.contains(&run) {
                    kept.insert(run);
                    if *source != number {
                        changes.change(index).session = Some(number);
                    }
                    continue;
                }
                let next = rules::after_rescue(&changes.facts(index), self.now);
                if let Some(lane) =
                    readable(tx.known.lane(tx.connection, changes.job(index).lane).await, "lane")?
                {
                    returned.push((run, lane.id(), next.state));
                }
                changes.end_run(index, next, self.now);
            }
            changes::write(&mut changes, tx).await?;
        }
        sqlx::query("UPDATE mamos_session SET is_unrescued = false WHERE agent = $1 AND is_unrescued")
            .bind(self.request.agent.to_string())
            .execute(&mut *tx.connection)
            .await?;
        let unknown = self.request.known.iter().copied().filter(|run| kept.insert(*run)).collect();
        Ok((returned, unknown))
    }
}

/// What was given back, and what only the agent knows.
type Reconciled = (Vec<(RunRef, LaneId, JobState)>, Vec<RunRef>);

/// See [`mamos_core::store::SessionStore::renew`].
pub(super) struct Renew {
    pub(super) sessions: Vec<SessionRef>,
    pub(super) ttl: Duration,
    pub(super) now: Timestamp,
}

impl Operation for Renew {
    type Answer = Vec<Verdict>;
    const NAME: &'static str = "store.renew";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Verdict>, Fault> {
        self.extend(tx, false).await
    }
}

/// See [`mamos_core::store::SessionStore::adopt`].
pub(super) struct Adopt(pub(super) Renew);

impl Operation for Adopt {
    type Answer = Vec<Verdict>;
    const NAME: &'static str = "store.adopt";

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Verdict>, Fault> {
        self.0.extend(tx, true).await
    }
}

impl Renew {
    /// Gives the sessions a new lease: those that are open, and did not expire or are `adopted`.
    async fn extend(&self, tx: &mut Tx<'_>, adopted: bool) -> Result<Vec<Verdict>, Fault> {
        let query = format!(
            "SELECT {SESSION_COLUMNS} FROM mamos_session WHERE id = ANY($1) ORDER BY no FOR NO KEY UPDATE"
        );
        let ids: Vec<Uuid> = self.sessions.iter().map(|session| *session.id.as_uuid()).collect();
        let found = sqlx::query(AssertSqlSafe(query)).bind(ids).fetch_all(&mut *tx.connection).await?;
        let mut stored = HashMap::with_capacity(self.sessions.len());
        for row in &found {
            let Some((number, record)) = readable(rows::session(row), "session")? else { continue };
            stored.insert(record.session.id, (number, record));
        }
        let expires_at = self.now + self.ttl;
        let mut renewed = HashSet::new();
        let verdicts = self.sessions.iter().map(|session| {
            let Some((number, record)) = stored.get_mut(&session.id) else { return Verdict::Missing };
            let is_open = record.end.is_none() && record.session == *session;
            if !is_open || (record.expires_at <= self.now && !adopted) {
                return Verdict::Stale;
            }
            // A repeat within the batch sees what came before it.
            record.expires_at = expires_at;
            renewed.insert(*number);
            Verdict::Applied
        });
        let verdicts = verdicts.collect();
        let renewed: Vec<i64> = renewed.into_iter().collect();
        if !renewed.is_empty() {
            sqlx::query("UPDATE mamos_session SET expires_at = $1 WHERE no = ANY($2)")
                .bind(expires_at.as_micros())
                .bind(renewed)
                .execute(&mut *tx.connection)
                .await?;
        }
        Ok(verdicts)
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

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Verdict, Fault> {
        let Some((number, record)) = read_locked(tx.connection, self.session.id).await? else {
            return Ok(Verdict::Missing);
        };
        if record.end.is_some() || record.session != self.session {
            return Ok(Verdict::Stale);
        }
        end(tx, number, SessionEnd::Closed).await?;
        tx.end_agent(&record.agent, AgentEvent::Stop, self.now).await?;
        let (mut changes, indexes) = read_held(tx, number, self.now).await?;
        for index in indexes {
            let next = rules::after_release(&changes.facts(index), self.now);
            changes.end_run(index, next, self.now);
        }
        changes::write(&mut changes, tx).await?;
        Ok(Verdict::Applied)
    }
}
