//! Jobs and their runs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, JobId, JobKind, SessionId};
use mamos_core::job::labels::Labels;
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::retry::{Backoff, RetryPolicy};
use mamos_core::job::rules::RunFacts;
use mamos_core::job::state::JobState;
use mamos_core::job::{
    AttemptEnd, AttemptRecord, CancelRequest, Counters, Failure, NewJob, Priority, Progress, UniqueKey,
};
use mamos_core::lease::{Epoch, RunRef};
use serde::{Deserialize, Serialize};

use super::{
    Reader, agent_id, from_json, lane, optional_time, priority, put_short, read_priority, text, time, to_json,
};
use crate::redis::errors::{Fault, corrupt};

const SPEC_TAG: u8 = b'J';
const RUN_TAG: u8 = b'R';
const NO_END: u8 = 0xff;

/// The number of a state in records. Scripts name these numbers.
pub(in crate::redis) const fn state_number(state: JobState) -> u8 {
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

fn job_state(number: u8) -> Result<JobState, Fault> {
    let found = JobState::ALL.into_iter().find(|state| state_number(*state) == number);
    found.ok_or_else(|| corrupt("state of a job", number))
}

const fn end_number(end: Option<AttemptEnd>) -> u8 {
    match end {
        None => NO_END,
        Some(AttemptEnd::Succeeded) => 0,
        Some(AttemptEnd::Retried) => 1,
        Some(AttemptEnd::Buried) => 2,
        Some(AttemptEnd::Snoozed) => 3,
        Some(AttemptEnd::Cancelled) => 4,
        Some(AttemptEnd::Crashed) => 5,
        Some(AttemptEnd::Returned) => 6,
        Some(AttemptEnd::Overdue) => 7,
    }
}

fn attempt_end(number: u8) -> Result<Option<AttemptEnd>, Fault> {
    let mut all = std::iter::once(None).chain(AttemptEnd::ALL.into_iter().map(Some));
    all.find(|end| end_number(*end) == number).ok_or_else(|| corrupt("end of a run", number))
}

/// What was asked for, and in which state it was stored.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::redis) struct Spec {
    pub(in crate::redis) seq: u64,
    pub(in crate::redis) state: JobState,
    pub(in crate::redis) run_at: Timestamp,
    pub(in crate::redis) lane: LaneId,
    pub(in crate::redis) priority: Priority,
    pub(in crate::redis) deadline: Option<Timestamp>,
    pub(in crate::redis) created_at: Timestamp,
    pub(in crate::redis) details: Details,
    pub(in crate::redis) payload: Bytes,
}

/// The record of a job without its sequence number, which comes first and is added by the script.
pub(in crate::redis) fn encode_spec(job: &NewJob, now: Timestamp) -> Result<Vec<u8>, Fault> {
    let details = Details::encode(job)?;
    let mut bytes = Vec::with_capacity(41 + details.len() + job.payload.len());
    // The third byte is for later versions.
    bytes.extend_from_slice(&[SPEC_TAG, state_number(job.first_state(now)), 0]);
    bytes.extend_from_slice(&time(job.run_at.unwrap_or(now)));
    bytes.extend_from_slice(&lane(job.lane.id()));
    bytes.extend_from_slice(&priority(job.priority));
    bytes.extend_from_slice(&optional_time(job.deadline));
    bytes.extend_from_slice(&time(now));
    bytes.extend_from_slice(&(details.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&details);
    bytes.extend_from_slice(&job.payload);
    Ok(bytes)
}

impl Spec {
    pub(in crate::redis) fn decode(bytes: &Bytes) -> Result<Self, Fault> {
        let mut reader = Reader::new("job", bytes);
        let seq = reader.u64()?;
        if reader.byte()? != SPEC_TAG {
            return Err(reader.fault("its record has another mark"));
        }
        let state = job_state(reader.byte()?)?;
        reader.byte()?;
        let (run_at, lane) = (reader.time()?, LaneId::from_number(reader.u64()? as i64));
        let priority = read_priority(reader.array()?);
        let (deadline, created_at) = (reader.optional_time()?, reader.time()?);
        let length = reader.u32()? as usize;
        let details = match reader.take(length)? {
            [] => Details::default(),
            json => from_json(json, "details of a job")?,
        };
        let payload = bytes.slice_ref(reader.rest());
        Ok(Self { seq, state, run_at, lane, priority, deadline, created_at, details, payload })
    }

    /// The record of a job that nothing has happened to yet.
    pub(in crate::redis) fn first_run(&self) -> Run {
        Run {
            state: self.state,
            epoch: Epoch::NEVER,
            session: SessionId::from_uuid(uuid::Uuid::nil()),
            leased_at: None,
            started_at: None,
            end: None,
            ended_at: None,
            finished_at: None,
            settled: Epoch::NEVER,
            counters: Counters::default(),
            attempt: 1,
            run_at: self.run_at,
            lane: self.lane,
            priority: self.priority,
            deadline: self.deadline,
            seq: self.seq,
            agent: Bytes::new(),
            progress: None,
            rest: None,
        }
    }

    /// The job as it was handed in, but for its deadline, which a redrive takes away.
    pub(in crate::redis) fn into_job(
        self,
        id: JobId,
        lane: Arc<Lane>,
        deadline: Option<Timestamp>,
    ) -> Result<NewJob, Fault> {
        let policy = self.details.policy();
        let unique_key = match &policy.unique_key {
            None => None,
            Some(key) => {
                let (_, key) = key.split_once('\n').ok_or_else(|| corrupt("unique key", key))?;
                Some(UniqueKey::new(key).map_err(|error| corrupt("unique key", error))?)
            }
        };
        Ok(NewJob {
            priority: self.priority,
            run_at: self.details.run_at.map(Timestamp::from_micros),
            deadline,
            retry: policy.retry,
            timeout: self.details.timeout,
            max_crashes: policy.max_crashes,
            unique_key,
            labels: self.details.labels,
            traceparent: self.details.traceparent,
            needs_approval: self.details.needs_approval,
            ..NewJob::new(id, lane, self.payload)
        })
    }
}

/// What few jobs have, as JSON. Only what differs from the defaults is written, so that most jobs have none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::redis) struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<StoredRetry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::redis) timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_crashes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_key: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::redis) traceparent: Option<Arc<str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    needs_approval: bool,
}

/// The jitter as bits: decimal JSON does not give every float back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredRetry(u32, Backoff, u64);

/// What decides about a job at the end of a run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::redis) struct Policy {
    pub(in crate::redis) retry: RetryPolicy,
    pub(in crate::redis) max_crashes: u32,
    /// Kind and key.
    pub(in crate::redis) unique_key: Option<Arc<str>>,
}

impl Default for Policy {
    /// Written into records: a change of these values changes the meaning of stored jobs, so they are spelled
    /// out here and do not follow the core's defaults.
    fn default() -> Self {
        let backoff =
            Backoff::Exponential { first: Duration::from_secs(1), factor: 2, max: Duration::from_secs(3600) };
        let retry = RetryPolicy { max_attempts: 5, backoff, jitter: 0.2 };
        Self { retry, max_crashes: 3, unique_key: None }
    }
}

/// What is stored for a key that holds only within one kind: kinds contain no line feed.
pub(in crate::redis) fn scoped_key(kind: &JobKind, key: &UniqueKey) -> String {
    format!("{kind}\n{}", key.as_str())
}

impl Details {
    /// Nothing if all is as usual.
    fn encode(job: &NewJob) -> Result<Vec<u8>, Fault> {
        let usual = Policy::default();
        let retry = job.retry;
        let details = Self {
            run_at: job.run_at.map(Timestamp::as_micros),
            retry: (retry != usual.retry)
                .then(|| StoredRetry(retry.max_attempts, retry.backoff, retry.jitter.to_bits())),
            timeout: job.timeout,
            max_crashes: (job.max_crashes != usual.max_crashes).then_some(job.max_crashes),
            unique_key: job.unique_key.as_ref().map(|key| scoped_key(job.lane.kind(), key).into()),
            labels: job.labels.clone(),
            traceparent: job.traceparent.clone(),
            needs_approval: job.needs_approval,
        };
        if details == Self::default() { Ok(Vec::new()) } else { to_json(&details, "details of a job") }
    }

    pub(in crate::redis) fn policy(&self) -> Policy {
        let usual = Policy::default();
        Policy {
            retry: match &self.retry {
                None => usual.retry,
                Some(StoredRetry(max_attempts, backoff, jitter)) => RetryPolicy {
                    max_attempts: *max_attempts,
                    backoff: *backoff,
                    jitter: f64::from_bits(*jitter),
                },
            },
            max_crashes: self.max_crashes.unwrap_or(usual.max_crashes),
            unique_key: self.unique_key.clone(),
        }
    }
}

/// Where a job is in its life, and its current or last run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::redis) struct Run {
    pub(in crate::redis) state: JobState,
    pub(in crate::redis) epoch: Epoch,
    /// Means something once it was claimed.
    pub(in crate::redis) session: SessionId,
    pub(in crate::redis) leased_at: Option<Timestamp>,
    pub(in crate::redis) started_at: Option<Timestamp>,
    pub(in crate::redis) end: Option<AttemptEnd>,
    pub(in crate::redis) ended_at: Option<Timestamp>,
    pub(in crate::redis) finished_at: Option<Timestamp>,
    /// The run that an agent settled last.
    pub(in crate::redis) settled: Epoch,
    pub(in crate::redis) counters: Counters,
    /// The number of the attempt when it was claimed; the counter moves on when it fails.
    pub(in crate::redis) attempt: u32,
    pub(in crate::redis) run_at: Timestamp,
    pub(in crate::redis) lane: LaneId,
    pub(in crate::redis) priority: Priority,
    pub(in crate::redis) deadline: Option<Timestamp>,
    pub(in crate::redis) seq: u64,
    /// The id as text; nothing before the first claim.
    pub(in crate::redis) agent: Bytes,
    pub(in crate::redis) progress: Option<Progress>,
    pub(in crate::redis) rest: Option<Box<Rest>>,
}

/// What most runs never have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::redis) struct Rest {
    /// Why the last run did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::redis) failure: Option<Failure>,
    /// Why the job was given up while no run went on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::redis) given_up: Option<Failure>,
    /// Reason, and grace in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel: Option<(String, u64)>,
}

/// How long the fixed part of a record is.
const FIXED: usize = 118;

/// The record that `claim.lua` writes for the first run of a job.
pub(in crate::redis) fn first_record(spec: &Spec, session: SessionId, agent: &Bytes, now: Timestamp) -> Run {
    Run {
        state: JobState::Leased,
        epoch: Epoch::NEVER.next(),
        session,
        leased_at: Some(now),
        agent: agent.clone(),
        ..spec.first_run()
    }
}

impl Run {
    pub(in crate::redis) fn encode(&self) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity(FIXED + 4 + self.agent.len());
        bytes.extend_from_slice(&[RUN_TAG, state_number(self.state), 0]);
        bytes.extend_from_slice(&self.epoch.number().to_be_bytes());
        bytes.extend_from_slice(self.session.as_bytes());
        bytes.extend_from_slice(&optional_time(self.leased_at));
        bytes.extend_from_slice(&optional_time(self.started_at));
        bytes.push(end_number(self.end));
        bytes.extend_from_slice(&optional_time(self.ended_at));
        bytes.extend_from_slice(&optional_time(self.finished_at));
        bytes.extend_from_slice(&self.settled.number().to_be_bytes());
        for number in [self.counters.attempt, self.counters.crashes, self.counters.deliveries, self.attempt] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&time(self.run_at));
        bytes.extend_from_slice(&lane(self.lane));
        bytes.extend_from_slice(&priority(self.priority));
        bytes.extend_from_slice(&optional_time(self.deadline));
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        put_short(&mut bytes, &self.agent);
        match &self.progress {
            None => bytes.extend_from_slice(&[0, 0]),
            Some(progress) => {
                let mut part = Vec::with_capacity(5 + progress.note.len());
                part.push(u8::from(progress.percent.is_some()));
                part.extend_from_slice(&progress.percent.unwrap_or_default().to_be_bytes());
                // Its length is written in two bytes.
                let note = &progress.note[..progress.note.floor_char_boundary(u16::MAX as usize - 5)];
                part.extend_from_slice(note.as_bytes());
                put_short(&mut bytes, &part);
            }
        }
        if let Some(rest) = &self.rest
            && **rest != Rest::default()
        {
            bytes.extend_from_slice(&to_json(rest, "run")?);
        }
        Ok(bytes)
    }

    pub(in crate::redis) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new("run", bytes);
        if reader.byte()? != RUN_TAG {
            return Err(reader.fault("its record has another mark"));
        }
        let state = job_state(reader.byte()?)?;
        reader.byte()?;
        let (epoch, session) = (Epoch::from_number(reader.u64()?), reader.session()?);
        let (leased_at, started_at) = (reader.optional_time()?, reader.optional_time()?);
        let end = attempt_end(reader.byte()?)?;
        let (ended_at, finished_at) = (reader.optional_time()?, reader.optional_time()?);
        let settled = Epoch::from_number(reader.u64()?);
        let counters = Counters { attempt: reader.u32()?, crashes: reader.u32()?, deliveries: reader.u32()? };
        let (attempt, run_at) = (reader.u32()?, reader.time()?);
        let lane = LaneId::from_number(reader.u64()? as i64);
        let (priority, deadline) = (read_priority(reader.array()?), reader.optional_time()?);
        let (seq, agent) = (reader.u64()?, Bytes::copy_from_slice(reader.short()?));
        let progress = match reader.short()? {
            [] => None,
            part => {
                let mut part = Reader::new("progress", part);
                let has_percent = part.byte()? == 1;
                let percent = f32::from_be_bytes(part.array()?);
                Some(Progress {
                    percent: has_percent.then_some(percent),
                    note: text(part.rest(), "progress")?,
                })
            }
        };
        let rest = match reader.rest() {
            [] => None,
            json => Some(Box::new(from_json(json, "run")?)),
        };
        Ok(Self {
            state,
            epoch,
            session,
            leased_at,
            started_at,
            end,
            ended_at,
            finished_at,
            settled,
            counters,
            attempt,
            run_at,
            lane,
            priority,
            deadline,
            seq,
            agent,
            progress,
            rest,
        })
    }

    /// Where it was, as far as one can tell from a record that cannot be understood.
    pub(in crate::redis) fn epoch_of_broken(bytes: &[u8]) -> Epoch {
        let mut reader = Reader::new("run", bytes);
        let epoch = (|| {
            let is_run = reader.byte()? == RUN_TAG;
            reader.take(2)?;
            Ok::<_, Fault>(if is_run { reader.u64()? } else { 0 })
        })();
        Epoch::from_number(epoch.unwrap_or(0))
    }

    pub(in crate::redis) fn of(&self, job: JobId) -> RunRef {
        RunRef { job, epoch: self.epoch }
    }

    pub(in crate::redis) fn was_claimed(&self) -> bool {
        self.epoch != Epoch::NEVER
    }

    pub(in crate::redis) fn agent(&self) -> Result<Option<AgentId>, Fault> {
        if self.agent.is_empty() { Ok(None) } else { agent_id(&self.agent).map(Some) }
    }

    pub(in crate::redis) fn cancel(&self) -> Option<CancelRequest> {
        let (reason, grace) = self.rest.as_ref()?.cancel.as_ref()?;
        Some(CancelRequest { reason: reason.clone(), grace: Duration::from_micros(*grace) })
    }

    pub(in crate::redis) fn is_cancel_requested(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.cancel.is_some())
    }

    /// Notes the first request only.
    pub(in crate::redis) fn request_cancel(&mut self, request: &CancelRequest) {
        let grace = u64::try_from(request.grace.as_micros()).unwrap_or(u64::MAX);
        self.rest().cancel.get_or_insert_with(|| (request.reason.clone(), grace));
    }

    pub(in crate::redis) fn forget_cancel(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.cancel = None;
        }
    }

    pub(in crate::redis) fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// Why it did not succeed.
    pub(in crate::redis) fn failure(&self) -> Option<Failure> {
        let rest = self.rest.as_deref()?;
        rest.given_up.clone().or_else(|| rest.failure.clone())
    }

    pub(in crate::redis) fn facts(&self, policy: &Policy) -> RunFacts {
        RunFacts {
            state: self.state,
            counters: self.counters,
            retry: policy.retry,
            max_crashes: policy.max_crashes,
            is_cancel_requested: self.is_cancel_requested(),
        }
    }

    /// How it stands in the history.
    pub(in crate::redis) fn attempt(&self, job: JobId) -> Result<AttemptRecord, Fault> {
        Ok(AttemptRecord {
            run: self.of(job),
            attempt: self.attempt,
            session: Some(self.session),
            agent: self.agent()?,
            leased_at: self.leased_at.unwrap_or_default(),
            started_at: self.started_at,
            ended_at: self.ended_at,
            end: self.end,
            failure: self.end.and_then(|_| self.rest.as_ref()?.failure.clone()),
            is_late: false,
        })
    }
}
