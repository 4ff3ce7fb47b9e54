//! Jobs, their runs, and what they wait for.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mamos_core::job::{AttemptRecord, JobRecord};
use mamos_core::orchestrator::{WaitsFor, Why};
use mamos_core::store::{CancelVerdict, ChangeVerdict, EnqueueResult, Enqueued};
use mamos_core::whitelist::CommandOrder;
use mamos_core::{JobId, JobState};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::retry::Retry;
use super::{is_shallow, labels, millis};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobState)]
pub(crate) enum State {
    /// Waits for an approval, or for other jobs.
    Blocked,
    /// Waits for its time.
    Scheduled,
    /// May be claimed.
    Ready,
    /// Claimed for an agent.
    Leased,
    /// The agent said that it started.
    Running,
    /// Ended well.
    Succeeded,
    /// Given up.
    Dead,
    /// Cancelled on request.
    Cancelled,
}

impl From<JobState> for State {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Blocked => Self::Blocked,
            JobState::Scheduled => Self::Scheduled,
            JobState::Ready => Self::Ready,
            JobState::Leased => Self::Leased,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Dead => Self::Dead,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<State> for JobState {
    fn from(state: State) -> Self {
        match state {
            State::Blocked => Self::Blocked,
            State::Scheduled => Self::Scheduled,
            State::Ready => Self::Ready,
            State::Leased => Self::Leased,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Dead => Self::Dead,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// A job without its arguments and its output, as lists have it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobSummary {
    #[schema(format = "uuid")]
    id: String,
    /// The stable name of its type; `command:` and the command for those that run one.
    #[schema(example = "mail.send")]
    kind: String,
    /// The command that it runs, if it runs one.
    command: Option<String>,
    queue: String,
    state: State,
    /// A higher one goes first.
    priority: i16,
    /// What its current or last run said last.
    progress: Option<Progress>,
    /// Why its last run did not succeed.
    failure: Option<Failure>,
    /// The number of the current or next attempt.
    attempt: u32,
    /// How often its agent was lost after it had been started.
    crashes: u32,
    /// How often it was handed out and came back without having been started.
    deliveries: u32,
    /// How often it was claimed, as a text: it may pass 2^53.
    epoch: String,
    /// The agent that holds it or held it last.
    agent: Option<String>,
    /// What it asks of an agent's labels.
    on: String,
    labels: BTreeMap<String, String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it may run, or could have run.
    #[schema(format = DateTime)]
    run_at: String,
    /// When it is given up.
    #[schema(format = DateTime)]
    deadline: Option<String>,
    /// When it was last claimed.
    #[schema(format = DateTime)]
    leased_at: Option<String>,
    /// When its last run started.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// Set once somebody asked to cancel it.
    cancel: Option<Cancel>,
    /// How long one attempt may take.
    timeout_ms: Option<u64>,
    /// After how many crashes it is buried.
    max_crashes: u32,
    retry: Retry,
    unique_key: Option<String>,
    /// W3C trace context of the enqueuer.
    traceparent: Option<String>,
    /// Did it have to be approved before it might run?
    needs_approval: bool,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    #[serde(flatten)]
    summary: JobSummary,
    /// Its arguments, if they are JSON. Of a command: who asked for what.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Its arguments in base64, if they are something else.
    #[schema(content_encoding = "base64")]
    payload_base64: Option<String>,
    /// What it produced, if that is JSON. Null until it succeeded.
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Box<RawValue>>,
    /// What it produced in base64, if that is something else.
    #[schema(content_encoding = "base64")]
    output_base64: Option<String>,
}

/// How far a run is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// Null if it cannot be known.
    #[schema(minimum = 0, maximum = 100)]
    percent: Option<f32>,
    note: String,
}

/// Why an attempt did not succeed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// For programs.
    #[schema(example = "exit_code")]
    code: String,
    /// For people.
    message: String,
}

/// Somebody asked to cancel a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cancel {
    reason: String,
    /// How long a run may take to stop by itself.
    grace_ms: u64,
}

impl From<&mamos_core::job::Failure> for Failure {
    fn from(failure: &mamos_core::job::Failure) -> Self {
        Self { code: failure.code.clone(), message: failure.message.clone() }
    }
}

impl From<&JobRecord> for JobSummary {
    fn from(job: &JobRecord) -> Self {
        let spec = &job.spec;
        Self {
            id: spec.id.to_string(),
            kind: spec.lane.kind().to_string(),
            command: spec.lane.kind().command().map(|command| command.to_string()),
            queue: spec.lane.queue().to_string(),
            state: job.state.into(),
            priority: spec.priority.0,
            progress: job.progress.as_ref().map(|progress| Progress {
                percent: progress.percent.filter(|percent| percent.is_finite()),
                note: progress.note.clone(),
            }),
            failure: job.failure.as_ref().map(Failure::from),
            attempt: job.counters.attempt,
            crashes: job.counters.crashes,
            deliveries: job.counters.deliveries,
            epoch: job.epoch.to_string(),
            agent: job.agent.as_ref().map(ToString::to_string),
            on: spec.lane.selector().to_string(),
            labels: labels(&spec.labels),
            created_at: job.created_at.to_string(),
            run_at: job.run_at.to_string(),
            deadline: spec.deadline.map(|at| at.to_string()),
            leased_at: job.leased_at.map(|at| at.to_string()),
            started_at: job.started_at.map(|at| at.to_string()),
            ended_at: job.finished_at.map(|at| at.to_string()),
            cancel: job
                .cancel
                .as_ref()
                .map(|cancel| Cancel { reason: cancel.reason.clone(), grace_ms: millis(cancel.grace) }),
            timeout_ms: spec.timeout.map(millis),
            max_crashes: spec.max_crashes,
            retry: spec.retry.into(),
            unique_key: spec.unique_key.as_ref().map(|key| key.as_str().to_owned()),
            traceparent: spec.traceparent.as_deref().map(str::to_owned),
            needs_approval: spec.needs_approval,
        }
    }
}

impl From<&JobRecord> for Job {
    fn from(job: &JobRecord) -> Self {
        let (payload, payload_base64) = match job.spec.lane.kind().command() {
            Some(_) => (asked(&job.spec.payload), None),
            None => json_or_base64(&job.spec.payload),
        };
        let (output, output_base64) = job.output.as_deref().map(json_or_base64).unwrap_or_default();
        Self { summary: job.into(), payload, payload_base64, output, output_base64 }
    }
}

/// Who asked for which command. What was permitted, with the environment of the program, stays here.
fn asked(payload: &[u8]) -> Option<Box<RawValue>> {
    let order = CommandOrder::decode(payload).ok()?;
    let shown = json!({
        "command": order.request.command,
        "parameters": order.request.parameters,
        "principal": order.principal,
        "roles": order.roles,
    });
    serde_json::value::to_raw_value(&shown).ok()
}

/// JSON as it was written, unless it is nested so deep that the reader might not bear it.
fn json_or_base64(bytes: &[u8]) -> (Option<Box<RawValue>>, Option<String>) {
    if bytes.is_empty() {
        return (None, None);
    }
    let json: Option<Box<RawValue>> = serde_json::from_slice(bytes).ok();
    match json.filter(|json| is_shallow(json.get())) {
        Some(json) => (Some(json), None),
        None => (None, Some(STANDARD.encode(bytes))),
    }
}

/// One run of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Attempt {
    /// As a text: it may pass 2^53.
    epoch: String,
    /// The number of the attempt; the same for several runs if some of them crashed.
    attempt: u32,
    agent: Option<String>,
    /// When it was claimed.
    #[schema(format = DateTime)]
    leased_at: String,
    /// When the agent said that it started.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// How it ended: `succeeded`, `retried`, `buried`, `snoozed`, `cancelled`, `crashed`, `returned` or
    /// `overdue`; null while it goes on.
    outcome: Option<&'static str>,
    failure: Option<Failure>,
    /// Did this report come after the run had lost its lease?
    is_late: bool,
}

/// All runs of a job, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Attempts {
    pub(crate) items: Vec<Attempt>,
}

impl From<&AttemptRecord> for Attempt {
    fn from(attempt: &AttemptRecord) -> Self {
        Self {
            epoch: attempt.run.epoch.to_string(),
            attempt: attempt.attempt,
            agent: attempt.agent.as_ref().map(ToString::to_string),
            leased_at: attempt.leased_at.to_string(),
            started_at: attempt.started_at.map(|at| at.to_string()),
            ended_at: attempt.ended_at.map(|at| at.to_string()),
            outcome: attempt.end.map(mamos_core::job::AttemptEnd::as_str),
            failure: attempt.failure.as_ref().map(Failure::from),
            is_late: attempt.is_late,
        }
    }
}

/// Where a job is and what it waits for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Why)]
pub(crate) struct Explanation {
    #[schema(format = "uuid")]
    job: String,
    state: State,
    /// For people.
    #[schema(example = "the job is ready and waits for an agent that can run mail.send; none is connected")]
    sentence: String,
    /// For programs: `nothing`, `approval`, `time`, `backoff`, `paused_queue`, `agent_of_kind`,
    /// `matching_agent`, `free_slot`, `dispatch`, `start`, `end` or `other`.
    waits_for: &'static str,
    /// Until when, if it waits for a time.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// The agents that keep it waiting, each with why. At most 20.
    agents: Vec<Obstacle>,
}

/// What keeps an agent from running a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Obstacle {
    agent: String,
    reason: Option<String>,
}

impl From<&Why> for Explanation {
    fn from(why: &Why) -> Self {
        let named = |agent: &Option<mamos_core::AgentId>| {
            agent.iter().map(|agent| Obstacle { agent: agent.to_string(), reason: None }).collect()
        };
        let (waits_for, until, agents) = match &why.waits_for {
            WaitsFor::Nothing => ("nothing", None, Vec::new()),
            WaitsFor::Approval => ("approval", None, Vec::new()),
            WaitsFor::Time { until } => ("time", Some(until), Vec::new()),
            WaitsFor::Backoff { until, .. } => ("backoff", Some(until), Vec::new()),
            WaitsFor::PausedQueue(_) => ("paused_queue", None, Vec::new()),
            WaitsFor::AgentOfKind(_) => ("agent_of_kind", None, Vec::new()),
            WaitsFor::MatchingAgent { unmet } => {
                let agents = unmet.iter().map(|(agent, requirement)| Obstacle {
                    agent: agent.to_string(),
                    reason: Some(requirement.clone()),
                });
                ("matching_agent", None, agents.collect())
            }
            WaitsFor::FreeSlot { agents } => {
                let agents = agents.iter().map(|(agent, busy)| Obstacle {
                    agent: agent.to_string(),
                    reason: Some(busy.to_string()),
                });
                ("free_slot", None, agents.collect())
            }
            WaitsFor::Dispatch => ("dispatch", None, Vec::new()),
            WaitsFor::Start { agent } => ("start", None, named(agent)),
            WaitsFor::End { agent, .. } => ("end", None, named(agent)),
            _ => ("other", None, Vec::new()),
        };
        Self {
            job: why.job.to_string(),
            state: why.state.into(),
            sentence: format!("the job is {} and waits for {}", why.state.as_str(), why.waits_for),
            waits_for,
            until: until.map(ToString::to_string),
            agents,
        }
    }
}

/// What became of each job of a request for many, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verdicts {
    pub(crate) items: Vec<JobVerdict>,
}

/// What became of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobVerdict {
    #[schema(format = "uuid")]
    id: String,
    /// Of a new job: `stored`, `repeat`, `unique_key_taken` or `id_taken`; of a cancel: `cancelled`,
    /// `requested`, `already_ended` or `missing`; of a redrive: `ready`, `refused`, `unique_key_taken` or
    /// `missing`.
    result: &'static str,
    /// Its state, if that is known.
    state: Option<State>,
    /// The job that has its unique key, if that is why.
    #[schema(format = "uuid")]
    taken_by: Option<String>,
}

impl JobVerdict {
    fn new(id: JobId, result: &'static str, state: Option<JobState>) -> Self {
        Self { id: id.to_string(), result, state: state.map(State::from), taken_by: None }
    }

    pub(crate) fn of_enqueue(enqueued: &Enqueued) -> Self {
        let id = enqueued.id;
        match enqueued.result {
            EnqueueResult::Stored(state) => Self::new(id, "stored", Some(state)),
            EnqueueResult::Repeat(state) => Self::new(id, "repeat", Some(state)),
            EnqueueResult::UniqueKeyTaken { by } => {
                Self { taken_by: Some(by.to_string()), ..Self::new(id, "unique_key_taken", None) }
            }
            EnqueueResult::IdTaken => Self::new(id, "id_taken", None),
        }
    }

    pub(crate) fn of_cancel(id: JobId, verdict: &CancelVerdict) -> Self {
        match verdict {
            CancelVerdict::Cancelled => Self::new(id, "cancelled", Some(JobState::Cancelled)),
            CancelVerdict::Requested { .. } => Self::new(id, "requested", None),
            CancelVerdict::AlreadyEnded(state) => Self::new(id, "already_ended", Some(*state)),
            CancelVerdict::Missing => Self::new(id, "missing", None),
        }
    }

    pub(crate) fn of_change(id: JobId, verdict: &ChangeVerdict) -> Self {
        match verdict {
            ChangeVerdict::Ready(_) => Self::new(id, "ready", Some(JobState::Ready)),
            ChangeVerdict::Refused(state) => Self::new(id, "refused", Some(*state)),
            ChangeVerdict::UniqueKeyTaken { by } => {
                Self { taken_by: Some(by.to_string()), ..Self::new(id, "unique_key_taken", None) }
            }
            ChangeVerdict::Missing => Self::new(id, "missing", None),
        }
    }
}
