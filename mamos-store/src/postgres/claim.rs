//! Leasing ready jobs to sessions.

mod floors;
mod statement;

use std::collections::HashMap;
use std::sync::Arc;

use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, SessionId};
use mamos_core::job::{ClaimedJob, Counters};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::{ClaimGroup, Claimed, SessionRecord, Taker, deal};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgRow;
use uuid::Uuid;

pub(super) use self::floors::Floors;
use self::floors::{Front, Key};
use self::statement::{JOB, statement};

use super::connect::Plans;
use super::corrupt;
use super::drain::Batch;
use super::errors::{Fault, readable};
use super::rows::{self, Cells, Details, SESSION_COLUMNS, small};
use super::tx::Tx;
use crate::sql::changes::Broken;

/// How many jobs one claim takes at most for a group, however many its takers want: it bounds memory
/// and the time for which other operations wait.
const MAX_JOBS: usize = 10_000;

/// How many bytes of payloads one claim takes at most for each group of takers, but for the first job.
const MAX_PAYLOADS: usize = 32 * 1024 * 1024;

/// How often a group is tried again because a session was found to be stale, or others were taking
/// the same jobs.
const TRIES: usize = 4;

/// See [`mamos_core::store::JobStore::claim`].
pub(super) struct Claim {
    pub(super) groups: Vec<ClaimGroup>,
    pub(super) now: Timestamp,
    pub(super) floors: Arc<Floors>,
}

/// A taker that may take: where its list is in the answer, the number of its session, its link and limit.
struct Place {
    list: usize,
    number: i64,
    link: u32,
    limit: u32,
}

/// What a statement gave.
struct Taken {
    jobs: Vec<(usize, ClaimedJob)>,
    /// The lane and the key of each.
    keys: Vec<(i64, Key)>,
    broken: Vec<(Broken, Epoch)>,
    /// Were all sessions current?
    is_current: bool,
    /// How many jobs were found, and how many of them could be locked.
    found: usize,
    locked: usize,
    next_due: Option<Timestamp>,
}

impl Batch for Claim {
    type Answer = Claimed;
    const NAME: &'static str = "store.claim";
    /// Each is a statement of its own. Their callers ask for many jobs at once already.
    const MOST: usize = 1;
    const PLANS: Plans = Plans::BY_INDEX;

    async fn run_all(operations: &[Self], tx: &mut Tx<'_>) -> Result<Vec<Claimed>, Fault> {
        let mut answers = Vec::with_capacity(operations.len());
        for operation in operations {
            answers.push(operation.run(tx).await?);
        }
        Ok(answers)
    }
}

impl Claim {
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Claimed, Fault> {
        let takers = self.groups.iter().flat_map(|group| &group.takers);
        let numbers = tx.known.session_numbers(tx.connection, takers.map(|taker| taker.session.id)).await?;
        let mut claimed = Claimed::default();
        let mut is_due_known = false;
        for group in &self.groups {
            if let Some(next_due) = self.claim_group(tx, group, &numbers, &mut claimed).await? {
                is_due_known = true;
                claimed.next_due = next_due;
            }
        }
        if !is_due_known {
            let due = "SELECT run_at FROM mamos_job WHERE state = 1 ORDER BY run_at LIMIT 1";
            let row = sqlx::query(due).fetch_optional(&mut *tx.connection).await?;
            claimed.next_due = row.map(|row| row.time(0)).transpose()?;
        }
        claimed.jobs.retain(|(_, jobs)| !jobs.is_empty());
        Ok(claimed)
    }

    /// Serves a group. Gives when something is due next, if it learned that.
    async fn claim_group(
        &self,
        tx: &mut Tx<'_>,
        group: &ClaimGroup,
        numbers: &HashMap<SessionId, i64>,
        claimed: &mut Claimed,
    ) -> Result<Option<Option<Timestamp>>, Fault> {
        let mut takers: Vec<Taker> = group.takers.clone();
        let mut factor = 1;
        let mut next_due = None;
        for attempt in 1..=TRIES {
            let places = places(&takers, numbers, claimed);
            let limits: Vec<u32> = places.iter().map(|place| place.limit).collect();
            let wanted = limits.iter().fold(0_usize, |sum, limit| sum.saturating_add(*limit as usize));
            let wanted = wanted.min(MAX_JOBS);
            if wanted == 0 {
                // Whoever wants nothing is told all the same that its session is stale.
                self.current(tx, &takers, claimed).await?;
                return Ok(next_due);
            }
            let lanes = tx.known.stored_lanes(tx.connection, group.lanes.iter().copied()).await?;
            let dealt = deal(wanted, &limits);
            let front = self.floors.front(lanes.into_iter().map(|(number, _)| number).collect());
            let taken = self.take(tx, &front, &places, &dealt, wanted, factor).await?;
            if !taken.is_current {
                takers = self.current(tx, &takers, claimed).await?;
                continue;
            }
            next_due = Some(taken.next_due);
            if taken.found >= wanted * factor {
                self.floors.went_on(&front, &taken.keys);
            } else {
                self.floors.came_short(&front);
                // What is left may lie before the floors.
                if front.floors.is_some() && taken.found == 0 {
                    continue;
                }
                claimed.has_more |= front.floors.is_some();
            }
            if taken.locked == 0 && taken.found > 0 && attempt < TRIES {
                // Others take the same jobs right now: look further behind them.
                factor *= 8;
                continue;
            }
            let given = taken.jobs.len();
            claimed.has_more |= given < taken.found || given >= MAX_JOBS;
            for (place, job) in taken.jobs {
                claimed.jobs[places[place].list].1.push(job);
            }
            corrupt::take_back(tx.connection, &taken.broken, self.now).await?;
            return Ok(next_due);
        }
        claimed.has_more = true;
        Ok(next_due)
    }

    /// Those of the takers whose session is current; the others are noted as stale.
    async fn current(
        &self,
        tx: &mut Tx<'_>,
        takers: &[Taker],
        claimed: &mut Claimed,
    ) -> Result<Vec<Taker>, Fault> {
        let sessions = read_sessions(tx, takers).await?;
        let (current, stale): (Vec<Taker>, Vec<Taker>) = takers.iter().partition(|taker| {
            sessions.get(&taker.session.id).is_some_and(|record| {
                record.end.is_none() && record.session == taker.session && record.expires_at > self.now
            })
        });
        for taker in stale {
            note_stale(taker.session.id, claimed);
        }
        Ok(current)
    }

    /// Takes the first ready jobs of all lanes together, in the order of claim, if all sessions are current.
    async fn take(
        &self,
        tx: &mut Tx<'_>,
        front: &Front,
        places: &[Place],
        dealt: &[usize],
        wanted: usize,
        factor: usize,
    ) -> Result<Taken, Fault> {
        let mut sessions: Vec<(i64, i64)> =
            places.iter().map(|place| (place.number, i64::from(place.link))).collect();
        sessions.sort_unstable();
        sessions.dedup();
        let mut query = sqlx::query(statement(front.lanes.len(), front.floors.is_some()))
            .bind(sessions.iter().map(|(number, _)| *number).collect::<Vec<_>>())
            .bind(sessions.iter().map(|(_, link)| *link).collect::<Vec<_>>())
            .bind(self.now.as_micros())
            .bind(sessions.len() as i64)
            .bind(wanted as i64)
            .bind((wanted * factor) as i64)
            .bind(dealt.iter().map(|place| places[*place].number).collect::<Vec<_>>())
            .bind(MAX_PAYLOADS as i64)
            .bind(&front.lanes);
        if let Some(floors) = &front.floors {
            query = query
                .bind(floors.iter().map(|floor| floor.urgency).collect::<Vec<_>>())
                .bind(floors.iter().map(|floor| floor.run_at).collect::<Vec<_>>())
                .bind(floors.iter().map(|floor| floor.seq).collect::<Vec<_>>());
        }
        let found = query.fetch_all(&mut *tx.connection).await?;
        let mut taken = Taken {
            jobs: Vec::with_capacity(found.len()),
            keys: Vec::with_capacity(found.len()),
            broken: Vec::new(),
            is_current: true,
            found: 0,
            locked: 0,
            next_due: None,
        };
        let Some(first) = found.first() else { return Err(rows::corrupt("claim", "it gave no row")) };
        taken.is_current = first.int(0)? == sessions.len() as i64;
        taken.found = small(first.int(1)?, "count")?;
        taken.locked = small(first.int(2)?, "count")?;
        taken.next_due = first.maybe_time(3)?;
        let mut numbered = Vec::with_capacity(found.len());
        for row in found.iter().filter(|row| !matches!(row.maybe_uuid(JOB), Ok(None))) {
            let place: usize = small::<usize>(row.int(JOB + 1)?, "place")?.saturating_sub(1);
            taken.keys.push(key(row)?);
            match claimed_job(tx, row).await {
                Ok(job) => numbered.push((place, job)),
                Err(fault) => {
                    let id = row.uuid(JOB).ok().map(JobId::from_uuid);
                    let epoch = Epoch::from_number(row.int(JOB + 5)? as u64);
                    taken.broken.push((Broken { seq: row.int(JOB + 2)?, id, fault }, epoch));
                }
            }
        }
        numbered.sort_unstable_by_key(|(place, _)| *place);
        taken.jobs.extend(numbered.into_iter().map(|(place, job)| (dealt[place.min(dealt.len() - 1)], job)));
        Ok(taken)
    }
}

/// Where each taker's list is in the answer. Those whose session is not stored are stale.
fn places(takers: &[Taker], numbers: &HashMap<SessionId, i64>, claimed: &mut Claimed) -> Vec<Place> {
    let mut places = Vec::with_capacity(takers.len());
    for taker in takers {
        let id = taker.session.id;
        let Some(number) = numbers.get(&id).copied() else {
            note_stale(id, claimed);
            continue;
        };
        let known = claimed.jobs.iter().position(|(session, _)| *session == id);
        let list = known.unwrap_or_else(|| {
            claimed.jobs.push((id, Vec::new()));
            claimed.jobs.len() - 1
        });
        places.push(Place { list, number, link: taker.session.link, limit: taker.limit });
    }
    places
}

fn note_stale(id: SessionId, claimed: &mut Claimed) {
    if !claimed.stale.contains(&id) {
        claimed.stale.push(id);
    }
}

async fn read_sessions(
    tx: &mut Tx<'_>,
    takers: &[Taker],
) -> Result<HashMap<SessionId, SessionRecord>, Fault> {
    let ids: Vec<Uuid> = takers.iter().map(|taker| *taker.session.id.as_uuid()).collect();
    let query = format!("SELECT {SESSION_COLUMNS} FROM mamos_session WHERE id = ANY($1)");
    let mut sessions = HashMap::with_capacity(takers.len());
    for row in &sqlx::query(AssertSqlSafe(query)).bind(ids).fetch_all(&mut *tx.connection).await? {
        // Without one the taker is stale, and its agent is asked to come back.
        let Some((_, record)) = readable(rows::session(row), "session")? else { continue };
        sessions.insert(record.session.id, record);
    }
    Ok(sessions)
}

fn key(row: &PgRow) -> Result<(i64, Key), Fault> {
    let urgency = small(row.int(JOB + 12)?, "priority")?;
    Ok((row.int(JOB + 3)?, Key { urgency, run_at: row.int(JOB + 4)?, seq: row.int(JOB + 2)? }))
}

async fn claimed_job(tx: &mut Tx<'_>, row: &PgRow) -> Result<ClaimedJob, Fault> {
    let lane = tx.known.lane(tx.connection, row.int(JOB + 3)?).await?;
    let details = Details::decode(row.maybe_text(JOB + 11)?)?;
    let epoch = Epoch::from_number(row.int(JOB + 5)? as u64);
    Ok(ClaimedJob {
        run: RunRef { job: JobId::from_uuid(row.uuid(JOB)?), epoch },
        lane: lane.id(),
        kind: lane.kind().clone(),
        payload: row.blob(JOB + 10)?,
        counters: Counters {
            attempt: small(row.int(JOB + 6)?, "attempt")?,
            crashes: small(row.int(JOB + 7)?, "crashes")?,
            deliveries: small(row.int(JOB + 8)?, "deliveries")?,
        },
        timeout: details.timeout,
        deadline: row.maybe_time(JOB + 9)?,
        ready_since: row.time(JOB + 4)?,
        traceparent: details.traceparent,
    })
}
