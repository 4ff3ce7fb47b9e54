//! Between rows and nouns. Whatever stands in a row, decoding it gives a value or a fault.

mod jobs;
mod records;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::agent::LogStream;
use mamos_core::agent::state::AgentState;
use mamos_core::clock::Timestamp;
use mamos_core::id::{JobId, JobKind, QueueName, SessionId};
use mamos_core::job::labels::Labels;
use mamos_core::job::lane::Lane;
use mamos_core::job::retry::{Backoff, RetryPolicy};
use mamos_core::job::state::JobState;
use mamos_core::job::{AttemptEnd, Counters, NewJob, Priority};
use mamos_core::lease::{Epoch, RunRef, SessionRef};
use mamos_core::store::{SessionEnd, SessionRecord};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fault::Fault;

pub(crate) use self::jobs::{attempts, held_job, job_record, record_columns};
pub(crate) use self::records::{
    AGENT_COLUMNS, DOCUMENT_COLUMNS, TOKEN_COLUMNS, agent, document, document_columns, token,
};

/// A row, whatever database it comes from. Columns go by their place, and a fault says their name.
pub(crate) trait Cells {
    fn maybe_int(&self, index: usize) -> Result<Option<i64>, Fault>;
    fn maybe_float(&self, index: usize) -> Result<Option<f64>, Fault>;
    fn maybe_text(&self, index: usize) -> Result<Option<&str>, Fault>;
    fn maybe_bytes(&self, index: usize) -> Result<Option<&[u8]>, Fault>;
    fn maybe_uuid(&self, index: usize) -> Result<Option<Uuid>, Fault>;
    fn name(&self, index: usize) -> &str;

    fn int(&self, index: usize) -> Result<i64, Fault> {
        self.maybe_int(index)?.ok_or_else(|| missing(self.name(index)))
    }

    fn text(&self, index: usize) -> Result<&str, Fault> {
        self.maybe_text(index)?.ok_or_else(|| missing(self.name(index)))
    }

    fn bytes(&self, index: usize) -> Result<&[u8], Fault> {
        self.maybe_bytes(index)?.ok_or_else(|| missing(self.name(index)))
    }

    fn uuid(&self, index: usize) -> Result<Uuid, Fault> {
        self.maybe_uuid(index)?.ok_or_else(|| missing(self.name(index)))
    }

    fn time(&self, index: usize) -> Result<Timestamp, Fault> {
        self.int(index).map(Timestamp::from_micros)
    }

    fn maybe_time(&self, index: usize) -> Result<Option<Timestamp>, Fault> {
        Ok(self.maybe_int(index)?.map(Timestamp::from_micros))
    }

    fn blob(&self, index: usize) -> Result<Bytes, Fault> {
        self.bytes(index).map(Bytes::copy_from_slice)
    }
}

fn missing(column: &str) -> Fault {
    corrupt(column, "it is missing")
}

/// The columns of the hot table, in the order in which [`HotJob::decode`] reads them.
macro_rules! hot_columns {
    () => {
        "j.seq, j.id, j.lane, j.priority, j.run_at, j.state, j.epoch, j.session, j.attempt, j.crashes, \
         j.deliveries, j.is_cancel, j.leased_at, j.started_at, j.finished_at, j.deadline, j.settled, \
         j.unique_key"
    };
}
pub(crate) use hot_columns;

/// A row of the hot table.
#[derive(Debug, Clone)]
pub(crate) struct HotJob {
    pub(crate) seq: i64,
    pub(crate) id: JobId,
    /// The number of the lane within its database.
    pub(crate) lane: i64,
    pub(crate) priority: Priority,
    pub(crate) run_at: Timestamp,
    pub(crate) state: JobState,
    pub(crate) epoch: Epoch,
    /// The number of the session within its database.
    pub(crate) session: Option<i64>,
    pub(crate) counters: Counters,
    pub(crate) is_cancel: bool,
    pub(crate) leased_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) settled: Epoch,
    pub(crate) unique_key: Option<String>,
}

impl HotJob {
    /// How many columns [`hot_columns`] are.
    pub(crate) const COLUMNS: usize = 18;

    pub(crate) fn decode(row: &impl Cells) -> Result<Self, Fault> {
        Ok(Self {
            seq: row.int(0)?,
            id: JobId::from_uuid(row.uuid(1)?),
            lane: row.int(2)?,
            priority: Priority(small(row.int(3)?, "priority")?),
            run_at: row.time(4)?,
            state: job_state(row.int(5)?)?,
            epoch: Epoch::from_number(row.int(6)? as u64),
            session: row.maybe_int(7)?,
            counters: Counters {
                attempt: small(row.int(8)?, "attempt")?,
                crashes: small(row.int(9)?, "crashes")?,
                deliveries: small(row.int(10)?, "deliveries")?,
            },
            is_cancel: row.int(11)? != 0,
            leased_at: row.maybe_time(12)?,
            started_at: row.maybe_time(13)?,
            finished_at: row.maybe_time(14)?,
            deadline: row.maybe_time(15)?,
            settled: Epoch::from_number(row.int(16)? as u64),
            unique_key: row.maybe_text(17)?.map(str::to_owned),
        })
    }

    pub(crate) fn run(&self) -> RunRef {
        RunRef { job: self.id, epoch: self.epoch }
    }
}

/// What few jobs have and no index needs, as JSON. Only what differs from the defaults is written, so
/// that most jobs have none.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<StoredRetry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_crashes: Option<u32>,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<Arc<str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    needs_approval: bool,
}

/// The jitter as bits: decimal JSON does not give every float back.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredRetry(u32, Backoff, u64);

impl Details {
    pub(crate) fn encode(job: &NewJob) -> Result<Option<String>, Fault> {
        let defaults = NewJobDefaults::get();
        let retry = job.retry;
        let details = Self {
            run_at: job.run_at.map(Timestamp::as_micros),
            retry: (retry != defaults.retry)
                .then(|| StoredRetry(retry.max_attempts, retry.backoff, retry.jitter.to_bits())),
            timeout: job.timeout,
            max_crashes: (job.max_crashes != defaults.max_crashes).then_some(job.max_crashes),
            labels: job.labels.clone(),
            traceparent: job.traceparent.clone(),
            needs_approval: job.needs_approval,
        };
        if details == Self::default() {
            return Ok(None);
        }
        let text = serde_json::to_string(&details);
        text.map(Some).map_err(|error| Fault::Corrupt(format!("details cannot be encoded: {error}")))
    }

    pub(crate) fn decode(text: Option<&str>) -> Result<Self, Fault> {
        match text {
            None => Ok(Self::default()),
            Some(text) => json(text, "details"),
        }
    }

    pub(crate) fn policy(&self) -> (RetryPolicy, u32) {
        let defaults = NewJobDefaults::get();
        let retry = match &self.retry {
            None => defaults.retry,
            Some(StoredRetry(max_attempts, backoff, jitter)) => RetryPolicy {
                max_attempts: *max_attempts,
                backoff: *backoff,
                jitter: f64::from_bits(*jitter),
            },
        };
        (retry, self.max_crashes.unwrap_or(defaults.max_crashes))
    }

    /// The job as it was handed in, but for its deadline, which a redrive takes away.
    pub(crate) fn into_spec(self, job: &HotJob, lane: Arc<Lane>, payload: Bytes) -> Result<NewJob, Fault> {
        let (retry, max_crashes) = self.policy();
        let unique_key = match &job.unique_key {
            None => None,
            Some(key) => {
                let (_, key) = key.split_once('\n').ok_or_else(|| corrupt("unique key", key))?;
                Some(mamos_core::job::UniqueKey::new(key).map_err(|error| corrupt("unique key", error))?)
            }
        };
        Ok(NewJob {
            priority: job.priority,
            run_at: self.run_at.map(Timestamp::from_micros),
            deadline: job.deadline,
            retry,
            timeout: self.timeout,
            max_crashes,
            unique_key,
            labels: self.labels,
            traceparent: self.traceparent,
            needs_approval: self.needs_approval,
            ..NewJob::new(job.id, lane, payload)
        })
    }
}

/// What is stored for a key that holds only within one kind: kinds contain no line feed.
pub(crate) fn scoped_key(job: &NewJob) -> Option<String> {
    job.unique_key.as_ref().map(|key| format!("{}\n{}", job.lane.kind(), key.as_str()))
}

/// Written into files: a change of these values changes the meaning of stored jobs, so they are spelled
/// out here and do not follow the core's defaults.
struct NewJobDefaults {
    retry: RetryPolicy,
    max_crashes: u32,
}

impl NewJobDefaults {
    const fn get() -> Self {
        let backoff =
            Backoff::Exponential { first: Duration::from_secs(1), factor: 2, max: Duration::from_secs(3600) };
        Self { retry: RetryPolicy { max_attempts: 5, backoff, jitter: 0.2 }, max_crashes: 3 }
    }
}

pub(crate) fn session_id(row: &impl Cells, index: usize) -> Result<SessionId, Fault> {
    row.uuid(index).map(SessionId::from_uuid)
}

pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    row: &impl Cells,
    index: usize,
    what: &str,
) -> Result<T, Fault> {
    row.text(index)?.parse().map_err(|error| corrupt(what, error))
}

pub(crate) fn json<T: for<'de> Deserialize<'de>>(text: &str, what: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| corrupt(what, error))
}

pub(crate) fn corrupt(what: &str, why: impl std::fmt::Display) -> Fault {
    Fault::Corrupt(format!("{what}: {why}"))
}

pub(crate) fn small<T: TryFrom<i64>>(number: i64, what: &str) -> Result<T, Fault> {
    T::try_from(number).map_err(|_| corrupt(what, format!("{number} is out of range")))
}

/// The number of a state in the database. Partial indexes and queries name these numbers.
pub(crate) const fn state_number(state: JobState) -> i64 {
    match state {
        JobState::Blocked => 0,
        JobState::Scheduled => 1,
        JobState::Ready => 2,
        JobState::Leased => 3,
        JobState::Running => 4,
        JobState::Succeeded => 5,
        JobState::Dead => 6,
        JobState::Cancelled => 7,
    }
}

pub(crate) fn job_state(number: i64) -> Result<JobState, Fault> {
    let found = JobState::ALL.into_iter().find(|state| state_number(*state) == number);
    found.ok_or_else(|| corrupt("state of a job", number))
}

pub(crate) const fn end_number(end: AttemptEnd) -> i64 {
    match end {
        AttemptEnd::Succeeded => 0,
        AttemptEnd::Retried => 1,
        AttemptEnd::Buried => 2,
        AttemptEnd::Snoozed => 3,
        AttemptEnd::Cancelled => 4,
        AttemptEnd::Crashed => 5,
        AttemptEnd::Returned => 6,
        AttemptEnd::Overdue => 7,
    }
}

pub(crate) fn attempt_end(number: i64) -> Result<AttemptEnd, Fault> {
    let found = AttemptEnd::ALL.into_iter().find(|end| end_number(*end) == number);
    found.ok_or_else(|| corrupt("end of an attempt", number))
}

pub(crate) const fn stream_number(stream: LogStream) -> i64 {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::Note => 2,
    }
}

pub(crate) fn log_stream(number: i64) -> Result<LogStream, Fault> {
    let streams = [LogStream::Stdout, LogStream::Stderr, LogStream::Note];
    let found = streams.into_iter().find(|stream| stream_number(*stream) == number);
    found.ok_or_else(|| corrupt("stream of a log", number))
}

pub(crate) const fn session_end_number(end: SessionEnd) -> i64 {
    match end {
        SessionEnd::Closed => 0,
        SessionEnd::Superseded => 1,
        SessionEnd::Lost => 2,
    }
}

fn session_end(number: i64) -> Result<SessionEnd, Fault> {
    let ends = [SessionEnd::Closed, SessionEnd::Superseded, SessionEnd::Lost];
    let found = ends.into_iter().find(|end| session_end_number(*end) == number);
    found.ok_or_else(|| corrupt("end of a session", number))
}

pub(crate) const fn agent_state_number(state: AgentState) -> i64 {
    match state {
        AgentState::Discovered => 0,
        AgentState::Registered => 1,
        AgentState::Running => 2,
        AgentState::Stopped => 3,
        AgentState::Failed => 4,
        AgentState::Decommissioned => 5,
    }
}

fn agent_state(number: i64) -> Result<AgentState, Fault> {
    let found = AgentState::ALL.into_iter().find(|state| agent_state_number(*state) == number);
    found.ok_or_else(|| corrupt("state of an agent", number))
}

/// From `no, id, queue, kind, selector`. The id is compared with the one that follows from the rest.
pub(crate) fn lane(row: &impl Cells) -> Result<(i64, Arc<Lane>), Fault> {
    let queue: QueueName = parse(row, 2, "queue")?;
    let kind: JobKind = parse(row, 3, "kind")?;
    let lane = Lane::new(queue, kind, parse(row, 4, "selector")?);
    if lane.id().number() != row.int(1)? {
        return Err(corrupt("lane", "its id does not follow from its parts"));
    }
    Ok((row.int(0)?, Arc::new(lane)))
}

/// From `no, id, link, agent, orchestrator, opened_at, expires_at` and how it ended.
/// A session and its number within its database.
pub(crate) fn session(row: &impl Cells) -> Result<(i64, SessionRecord), Fault> {
    let record = SessionRecord {
        session: SessionRef { id: session_id(row, 1)?, link: small(row.int(2)?, "link")? },
        agent: parse(row, 3, "agent")?,
        orchestrator: row.text(4)?.to_owned(),
        opened_at: row.time(5)?,
        expires_at: row.time(6)?,
        end: row.maybe_int(7)?.map(session_end).transpose()?,
    };
    Ok((row.int(0)?, record))
}
