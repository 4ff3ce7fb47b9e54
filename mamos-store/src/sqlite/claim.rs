//! Leasing ready jobs to sessions.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, SessionId};
use mamos_core::job::{ClaimedJob, Counters};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::{ClaimGroup, Claimed, SessionRecord, Taker, deal};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};

use super::corrupt;
use super::errors::{Fault, readable};
use super::rows::{self, Details, blob, get, time, uuid};
use super::sql::{Listed, Values};
use super::writer::{Operation, Tx};
use crate::sql::changes::Broken;

/// How many lanes one statement merges. SQLite compiles one loop a lane, and the last of these
/// statements is some 10 KiB of text.
const LANES: [usize; 4] = [1, 4, 16, 64];

/// How many jobs one claim takes at most, however many its takers want: it bounds memory and the time
/// for which other operations wait.
const MAX_JOBS: usize = 10_000;

/// How many bytes of payloads one claim takes at most for each group of takers, but for the first job.
const MAX_PAYLOADS: usize = 32 * 1024 * 1024;

/// Payloads of at most this many bytes are read with their jobs: [`MAX_JOBS`] of them are within
/// [`MAX_PAYLOADS`]. Larger ones are read once it is known which are taken. The statement names it.
const SMALL_PAYLOAD: usize = 3072;
const _: () = assert!(SMALL_PAYLOAD * MAX_JOBS <= MAX_PAYLOADS);

/// Sessions that take fewer jobs than this share a statement.
const FEW: usize = 4;

/// See [`mamos_core::store::JobStore::claim`].
pub(super) struct Claim {
    pub(super) groups: Vec<ClaimGroup>,
    pub(super) now: Timestamp,
}

/// A ready job, read to be leased.
struct Candidate {
    key: (Reverse<i64>, i64, i64),
    seq: i64,
    lane: i64,
    run: RunRef,
    payload: Payload,
    rest: Rest,
    timeout: Option<Duration>,
    traceparent: Option<Arc<str>>,
}

/// What is known of the payload of a candidate.
enum Payload {
    Read(Bytes),
    /// It is large, and has this many bytes.
    Left(usize),
}

/// What a group gets.
struct Taken {
    /// The jobs with their payloads.
    jobs: Vec<(Candidate, Bytes)>,
    /// Did a bound of the store's own end it?
    is_cut: bool,
}

/// What a job that was never claimed seldom has, as one JSON column: each value of each row costs sqlx
/// an allocation and a release under SQLite's one lock, so that a claim's time goes by its columns.
#[derive(serde::Deserialize)]
struct Rest(u64, u32, u32, u32, Option<i64>, Option<String>);

impl Default for Rest {
    fn default() -> Self {
        Self(0, 1, 0, 0, None, None)
    }
}

impl Operation for Claim {
    type Answer = Claimed;
    const NAME: &'static str = "store.claim";

    async fn run(&self, tx: &mut Tx) -> Result<Claimed, Fault> {
        let takers = self.groups.iter().flat_map(|group| &group.takers).copied().collect::<Vec<Taker>>();
        let sessions = read_sessions(tx, &takers).await?;
        let row = sqlx::query(
            // What is no time sorts after all times, so this reads not more.
            "SELECT (SELECT run_at FROM mamos_job WHERE state = 1 AND typeof(run_at) = 'integer' \
             ORDER BY run_at LIMIT 1), \
             (SELECT group_concat(name, char(10)) FROM mamos_queue WHERE is_paused = 1)",
        )
        .fetch_one(&mut tx.connection)
        .await?;
        let paused: Option<String> = row.try_get(1)?;
        let paused: Vec<&str> = paused.iter().flat_map(|names| names.split('\n')).collect();
        let mut claimed = Claimed { next_due: time(&row, 0)?, ..Claimed::default() };
        for group in &self.groups {
            self.claim_group(tx, group, &sessions, &paused, &mut claimed).await?;
        }
        claimed.jobs.retain(|(_, jobs)| !jobs.is_empty());
        Ok(claimed)
    }
}

impl Claim {
    async fn claim_group(
        &self,
        tx: &mut Tx,
        group: &ClaimGroup,
        sessions: &HashMap<SessionId, (i64, SessionRecord)>,
        paused: &[&str],
        claimed: &mut Claimed,
    ) -> Result<(), Fault> {
        // For each taker that may take: where its list is in the answer, and the number of its session.
        let mut lists = Vec::with_capacity(group.takers.len());
        let mut limits = Vec::with_capacity(group.takers.len());
        for taker in &group.takers {
            let id = taker.session.id;
            let current = sessions.get(&id).filter(|(_, record)| {
                record.end.is_none() && record.session == taker.session && record.expires_at > self.now
            });
            let Some((number, _)) = current else {
                if !claimed.stale.contains(&id) {
                    claimed.stale.push(id);
                }
                continue;
            };
            let known = claimed.jobs.iter().position(|(session, _)| *session == id);
            let list = known.unwrap_or_else(|| {
                claimed.jobs.push((id, Vec::new()));
                claimed.jobs.len() - 1
            });
            lists.push((list, *number));
            limits.push(taker.limit);
        }
        let wanted = limits.iter().fold(0_usize, |sum, limit| sum.saturating_add(*limit as usize));
        let wanted = wanted.min(MAX_JOBS);
        if wanted == 0 {
            return Ok(());
        }
        let lanes: Vec<i64> = tx
            .stored_lanes(&group.lanes)
            .await?
            .into_iter()
            .filter(|(_, lane)| !paused.contains(&lane.queue().as_str()))
            .map(|(number, _)| number)
            .collect();
        let taken = self.take_ready(tx, lanes, wanted).await?;
        claimed.has_more |= taken.is_cut;
        let dealt = deal(taken.jobs.len(), &limits);
        let seqs = taken.jobs.iter().map(|(candidate, _)| candidate.seq);
        self.lease(tx, seqs.zip(dealt.iter().map(|taker| lists[*taker].1))).await?;
        for ((candidate, payload), taker) in taken.jobs.into_iter().zip(dealt) {
            let lane = tx.lane(candidate.lane).await?;
            let Rest(_, attempt, crashes, deliveries, deadline, _) = candidate.rest;
            claimed.jobs[lists[taker].0].1.push(ClaimedJob {
                run: candidate.run,
                lane: lane.id(),
                kind: lane.kind().clone(),
                payload,
                counters: Counters { attempt, crashes, deliveries },
                timeout: candidate.timeout,
                deadline: deadline.map(Timestamp::from_micros),
                ready_since: Timestamp::from_micros(candidate.key.1),
                traceparent: candidate.traceparent,
            });
        }
        Ok(())
    }

    /// Takes the first ready jobs of all lanes together, in the order of claim. Buries those that cannot
    /// be understood.
    async fn take_ready(&self, tx: &mut Tx, lanes: Vec<i64>, wanted: usize) -> Result<Taken, Fault> {
        let mut broken = Vec::new();
        let mut candidates = read_ready(tx, lanes, wanted, &mut broken).await?;
        let mut is_cut = candidates.len() >= MAX_JOBS;
        let mut bytes = 0_usize;
        let within = candidates.iter().take_while(|candidate| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(candidate.payload.bytes());
            is_first || bytes <= MAX_PAYLOADS
        });
        let within = within.count();
        is_cut |= within < candidates.len();
        candidates.truncate(within);
        let large = candidates.iter().filter(|candidate| matches!(candidate.payload, Payload::Left(_)));
        let large: Vec<i64> = large.map(|candidate| candidate.seq).collect();
        let mut payloads = read_payloads(tx, &large).await?;
        let mut jobs = Vec::with_capacity(candidates.len());
        for mut candidate in candidates {
            let payload = match std::mem::replace(&mut candidate.payload, Payload::Left(0)) {
                Payload::Read(payload) => Ok(payload),
                Payload::Left(_) => payloads
                    .remove(&candidate.seq)
                    .unwrap_or_else(|| Err(rows::corrupt("payload", "it is missing"))),
            };
            match payload {
                Ok(payload) => jobs.push((candidate, payload)),
                Err(fault) => broken.push(Broken { seq: candidate.seq, id: Some(candidate.run.job), fault }),
            }
        }
        corrupt::bury(tx, &broken, self.now).await?;
        // The buried ones stood where others might have.
        Ok(Taken { jobs, is_cut: is_cut || !broken.is_empty() })
    }

    async fn lease(&self, tx: &mut Tx, leases: impl Iterator<Item = (i64, i64)>) -> Result<(), Fault> {
        // Without the detour over a list of rows, for a session that takes many.
        static LEASE_MANY: Listed = Listed::new(
            "UPDATE mamos_job SET state = 3, session = ?, leased_at = ?, epoch = epoch + 1, started_at = NULL \
             WHERE seq IN (",
            1,
            ")",
        );
        static LEASE: Listed = Listed::new(
            "UPDATE mamos_job SET state = 3, session = v.column2, leased_at = v.column3, epoch = epoch + 1, \
             started_at = NULL FROM (VALUES ",
            3,
            ") AS v WHERE mamos_job.seq = v.column1",
        );
        let mut by_session: HashMap<i64, Vec<i64>> = HashMap::new();
        for (seq, session) in leases {
            by_session.entry(session).or_default().push(seq);
        }
        let mut few = Vec::new();
        for (session, seqs) in by_session {
            if seqs.len() < FEW {
                few.extend(seqs.into_iter().map(|seq| (seq, session)));
                continue;
            }
            let fixed = |values: &mut Values| {
                values.add(session).add(self.now.as_micros());
            };
            let done = LEASE_MANY.execute_with(&mut tx.connection, fixed, &seqs, |values, seq| {
                values.add(*seq);
            });
            done.await?;
        }
        let done = LEASE.execute(&mut tx.connection, &few, |values, (seq, session)| {
            values.add(*seq).add(*session).add(self.now.as_micros());
        });
        done.await?;
        Ok(())
    }
}

async fn read_sessions(
    tx: &mut Tx,
    takers: &[Taker],
) -> Result<HashMap<SessionId, (i64, SessionRecord)>, Fault> {
    static SESSIONS: Listed = Listed::new(
        "SELECT no, id, link, agent, orchestrator, opened_at, expires_at, end FROM mamos_session WHERE id IN (",
        1,
        ")",
    );
    let found = SESSIONS.fetch(&mut tx.connection, takers, |values, taker| {
        values.add(taker.session.id.as_bytes().as_slice());
    });
    let mut sessions = HashMap::with_capacity(takers.len());
    for row in &found.await? {
        // Without one the taker is stale, and its agent is asked to come back.
        let Some((number, record)) = readable(rows::session(row), "session")? else { continue };
        sessions.insert(record.session.id, (number, record));
    }
    Ok(sessions)
}

/// The first ready jobs of all lanes together, in the order of claim; what cannot be understood apart.
async fn read_ready(
    tx: &mut Tx,
    mut lanes: Vec<i64>,
    wanted: usize,
    broken: &mut Vec<Broken>,
) -> Result<Vec<Candidate>, Fault> {
    lanes.sort_unstable();
    lanes.dedup();
    let mut candidates = Vec::new();
    for chunk in lanes.chunks(LANES[LANES.len() - 1]) {
        let (length, text) = merged_lanes(chunk.len());
        let mut values = Values::default();
        for lane in chunk {
            values.add(*lane);
        }
        for _ in chunk.len()..length {
            values.add(None::<i64>);
        }
        values.add(wanted as i64);
        let found =
            sqlx::query_with(AssertSqlSafe(text), values.finish()?).fetch_all(&mut tx.connection).await?;
        for row in &found {
            match candidate(row) {
                Ok(candidate) => candidates.push(candidate),
                Err(fault) => broken.push(Broken { seq: get(row, 2)?, id: None, fault }),
            }
        }
        // SQLite gives them in this order already, but only within a chunk and without promising it.
        candidates.sort_by_key(|candidate| candidate.key);
        candidates.truncate(wanted);
    }
    Ok(candidates)
}

/// The payloads of these jobs, each readable or not.
async fn read_payloads(tx: &mut Tx, seqs: &[i64]) -> Result<HashMap<i64, Result<Bytes, Fault>>, Fault> {
    static PAYLOADS: Listed = Listed::new("SELECT seq, payload FROM mamos_spec WHERE seq IN (", 1, ")");
    let found = PAYLOADS.fetch(&mut tx.connection, seqs, |values, seq| {
        values.add(*seq);
    });
    found.await?.iter().map(|row| Ok((get(row, 0)?, blob(row, 1)))).collect()
}

/// Merges the index entries of lanes as they stand, so that it reads as many as are wanted and one
/// more for each lane. A list of lanes in one condition would make SQLite sort the whole backlog.
///
/// A row without a spec is found, too, or it would stand at the head of its lane for ever. Blobs are
/// kept from `json_array`, which would fail the statement and not only the row.
fn merged_lanes(lanes: usize) -> (usize, Arc<str>) {
    static TEXTS: [OnceLock<Arc<str>>; LANES.len()] = [const { OnceLock::new() }; LANES.len()];
    let index = LANES.iter().position(|length| lanes <= *length).unwrap_or(LANES.len() - 1);
    let text = TEXTS[index].get_or_init(|| {
        let arm = "SELECT priority, run_at, seq FROM mamos_job WHERE state = 2 AND lane = ?";
        let arms = vec![arm; LANES[index]].join(" UNION ALL ");
        format!(
            "SELECT j.priority, j.run_at, j.seq, j.lane, j.id, \
             CASE WHEN length(s.payload) <= {SMALL_PAYLOAD} THEN s.payload ELSE length(s.payload) END AS payload, \
             CASE WHEN j.epoch > 0 OR j.deadline IS NOT NULL OR s.details IS NOT NULL THEN \
             CASE WHEN 'blob' IN (typeof(j.epoch), typeof(j.attempt), typeof(j.crashes), \
             typeof(j.deliveries), typeof(j.deadline), typeof(s.details)) THEN 'a blob' ELSE \
             json_array(j.epoch, j.attempt, j.crashes, j.deliveries, j.deadline, s.details) END END AS details \
             FROM ({arms} ORDER BY 1 DESC, 2, 3 LIMIT ?) AS k \
             CROSS JOIN mamos_job j ON j.seq = k.seq LEFT JOIN mamos_spec s ON s.seq = k.seq"
        )
        .into()
    });
    (LANES[index], Arc::clone(text))
}

fn candidate(row: &SqliteRow) -> Result<Candidate, Fault> {
    const REST: &str = "epoch, attempt, crashes, deliveries, deadline or details";
    let seq = get(row, 2)?;
    let rest = get::<Option<&str>>(row, 6)?.map(|text| rows::json(text, REST)).transpose()?;
    let mut rest: Rest = rest.unwrap_or_default();
    let details = Details::decode(rest.5.take().as_deref())?;
    let payload = match get::<Option<Vec<u8>>>(row, 5) {
        Ok(Some(payload)) => Payload::Read(payload.into()),
        Ok(None) => return Err(rows::corrupt("payload", "it is missing")),
        // The number in its place says how many bytes it has.
        Err(_) => Payload::Left(rows::small(get(row, 5)?, "length of the payload")?),
    };
    Ok(Candidate {
        key: (Reverse(get(row, 0)?), get(row, 1)?, seq),
        seq,
        lane: get(row, 3)?,
        run: RunRef { job: JobId::from_uuid(uuid(row, 4)?), epoch: Epoch::from_number(rest.0).next() },
        payload,
        rest,
        timeout: details.timeout,
        traceparent: details.traceparent,
    })
}

impl Payload {
    fn bytes(&self) -> usize {
        match self {
            Self::Read(payload) => payload.len(),
            Self::Left(bytes) => *bytes,
        }
    }
}

/// The statement that reads the ready jobs of that many lanes, for tests of its plan.
#[cfg(test)]
pub(super) fn plan_of_claim(lanes: usize) -> String {
    merged_lanes(lanes).1.to_string()
}
