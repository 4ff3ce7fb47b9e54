//! What callers wish of jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use garde::Validate;
use mamos_core::auth::Principal;
use mamos_core::job::labels::{Labels, Selector};
use mamos_core::job::{NewJob, UniqueKey};
use mamos_core::orchestrator::Enqueue;
use mamos_core::whitelist::{CommandRequest, DenialCode};
use mamos_core::{CommandId, JobId, JobKind, Orchestrator, QueueName, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use super::retry::Retry;
use super::{MAX_MS, is_shallow, moment, unique_labels, unique_texts};
use crate::problem::Problem;

/// The most jobs in one request for many.
pub(crate) const MAX_JOBS: usize = 1000;
/// The latest time that a job may wait for: the end of the year 9999, the last of RFC 3339.
const MAX_RUN_AT: Timestamp = Timestamp::from_micros(253_402_300_799_999_999);

/// A wish for a job: a typed one with `kind` and `payload`, or a whitelisted command with `command` and
/// `parameters`.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"kind": "mail.send", "payload": {"to": "ann@example.org"}, "queue": "mail"}))]
pub(crate) struct JobWish {
    /// The stable name of its type. Not one that begins with `command:`.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    kind: Option<JobKind>,
    /// Its arguments, any JSON, kept as written. Default: null.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// The command to run.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    command: Option<CommandId>,
    /// Values for the command's parameters.
    #[serde(default, deserialize_with = "unique_texts")]
    #[garde(length(max = 64))]
    parameters: BTreeMap<String, String>,
    /// Default: `default`.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    queue: Option<QueueName>,
    /// A higher one goes first. Default: 0.
    #[serde(default)]
    priority: Option<i16>,
    /// Runs no earlier than this long from now. Not together with `run_at`.
    #[serde(default)]
    #[garde(inner(range(max = MAX_MS)))]
    #[schema(maximum = 3_153_600_000_000_u64)]
    delay_ms: Option<u64>,
    /// Runs no earlier than at this time, as in RFC 3339.
    #[serde(default, deserialize_with = "moment")]
    #[schema(value_type = Option<String>, format = DateTime)]
    run_at: Option<Timestamp>,
    /// Is buried if it has not ended this long from now.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = MAX_MS)))]
    #[schema(minimum = 1, maximum = 3_153_600_000_000_u64)]
    give_up_after_ms: Option<u64>,
    /// How long one attempt may take.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = MAX_MS)))]
    #[schema(minimum = 1, maximum = 3_153_600_000_000_u64)]
    timeout_ms: Option<u64>,
    /// After how many crashes of its agent it is buried. Default: 3.
    #[serde(default)]
    #[garde(inner(range(min = 1)))]
    #[schema(minimum = 1)]
    max_crashes: Option<u32>,
    /// How often it is tried.
    #[serde(default)]
    #[garde(dive)]
    retry: Option<Retry>,
    /// What it asks of an agent's labels, for example `zone=eu,gpu`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    on: Option<Selector>,
    /// Is not stored while another job of the kind with this key has not ended.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    unique_key: Option<UniqueKey>,
    /// What it can be found by. At most 64.
    #[serde(default, deserialize_with = "unique_labels")]
    #[schema(value_type = BTreeMap<String, String>)]
    labels: Labels,
    /// Its id, so that storing it again is harmless. Default: derived from the Idempotency-Key, else a new
    /// one.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub(crate) id: Option<JobId>,
    /// W3C trace context.
    #[serde(default)]
    #[garde(inner(length(bytes, max = 64)))]
    #[schema(max_length = 64, pattern = "^[0-9a-fA-F-]*$")]
    traceparent: Option<String>,
    /// Waits for an approval before it may run.
    #[serde(default)]
    needs_approval: bool,
}

/// Wishes for many jobs.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobWishes {
    /// The jobs.
    #[garde(length(min = 1, max = MAX_JOBS), dive)]
    #[schema(min_items = 1, max_items = 1000)]
    pub(crate) jobs: Vec<JobWish>,
}

/// A wish to cancel a job.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"reason": "no longer needed", "grace_ms": 10_000}))]
pub(crate) struct CancelWish {
    /// Why, for people. At most 1 KiB.
    #[garde(length(bytes, max = 1024))]
    #[schema(max_length = 1024)]
    reason: String,
    /// How long a run may take to stop by itself. Default: 10 s.
    #[garde(inner(range(max = MAX_GRACE_MS)))]
    #[schema(maximum = 86_400_000)]
    grace_ms: Option<u64>,
}

/// The longest grace, in milliseconds: a day.
const MAX_GRACE_MS: u64 = 24 * 3600 * 1000;

impl CancelWish {
    /// Why, and how long a run has to stop.
    pub(crate) fn parts(&self, principal: &Principal) -> (String, Duration) {
        let reason = if self.reason.is_empty() {
            format!("cancelled by {}", principal.name)
        } else {
            self.reason.clone()
        };
        (reason, Duration::from_millis(self.grace_ms.unwrap_or(10_000)))
    }
}

/// The id of a job, as the document shows it.
#[derive(Debug)]
pub(crate) struct IdText;

impl PartialSchema for IdText {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::Custom("uuid".to_owned());
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for IdText {}

/// The jobs that something is wished of.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobIds {
    /// Their ids.
    #[garde(length(min = 1, max = MAX_JOBS))]
    #[schema(value_type = Vec<IdText>, min_items = 1, max_items = 1000)]
    pub(crate) ids: Vec<JobId>,
}

impl JobWish {
    /// Does it ask for a command?
    pub(crate) fn command(&self) -> Option<&CommandId> {
        self.command.as_ref()
    }

    /// The job to store. `at` points to the wish within the body.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub(crate) fn build(
        mut self,
        orchestrator: &Orchestrator,
        principal: &Principal,
        id: Option<JobId>,
        at: &str,
    ) -> Result<NewJob, Problem> {
        let wrong = |member: &str, detail: &str| {
            Problem::invalid("the job is not one that can be stored").at(format!("{at}{member}"), detail)
        };
        if self.delay_ms.is_some() && self.run_at.is_some() {
            return Err(wrong("/run_at", "give delay_ms or run_at, not both"));
        }
        if self.run_at.is_some_and(|run_at| run_at > MAX_RUN_AT) {
            return Err(wrong("/run_at", "later than the year 9999"));
        }
        let payload = self.payload.take();
        match (self.kind.take(), self.command.take()) {
            (Some(kind), None) => {
                if kind.as_str().starts_with("command:") {
                    return Err(wrong(
                        "/kind",
                        "a command is asked for with `command`, so that it is checked",
                    ));
                }
                if !self.parameters.is_empty() {
                    return Err(wrong("/parameters", "those are for commands; a typed job has a payload"));
                }
                let payload = payload.as_ref().map_or("null", |payload| payload.get());
                if !is_shallow(payload) {
                    return Err(wrong("/payload", "it is nested deeper than 64 levels"));
                }
                let payload = bytes::Bytes::copy_from_slice(payload.as_bytes());
                self.options(orchestrator.enqueue_untyped(kind, payload), id)
                    .map_err(|error| located(error, at))
            }
            (None, Some(command)) => {
                if payload.is_some() {
                    return Err(wrong("/payload", "a command has parameters"));
                }
                let parameters = std::mem::take(&mut self.parameters);
                let request = CommandRequest { command, parameters };
                if let Err(denial) = orchestrator.whitelist().permit(&request, principal) {
                    return Err(match denial.code {
                        DenialCode::UnknownCommand => wrong("/command", &denial.message),
                        DenialCode::NotForPrincipal => Problem::forbidden(denial.message),
                        _ => wrong("/parameters", &denial.message),
                    });
                }
                let enqueue = orchestrator.run_command(request, principal)?;
                self.options(enqueue, id).map_err(|error| located(error, at))
            }
            (Some(_), Some(_)) => Err(wrong("", "give kind or command, not both")),
            (None, None) => Err(wrong("", "give the kind of a typed job, or a command")),
        }
    }

    fn options<O>(self, enqueue: Enqueue<'_, O>, id: Option<JobId>) -> mamos_core::Result<NewJob> {
        let millis = Duration::from_millis;
        let mut enqueue = enqueue.labels(self.labels);
        if let Some(id) = self.id.or(id) {
            enqueue = enqueue.id(id);
        }
        if let Some(queue) = &self.queue {
            enqueue = enqueue.queue(queue.as_str());
        }
        if let Some(priority) = self.priority {
            enqueue = enqueue.priority(priority);
        }
        if let Some(delay) = self.delay_ms {
            enqueue = enqueue.delay(millis(delay));
        }
        if let Some(run_at) = self.run_at {
            enqueue = enqueue.run_at(run_at);
        }
        if let Some(limit) = self.give_up_after_ms {
            enqueue = enqueue.give_up_after(millis(limit));
        }
        if let Some(timeout) = self.timeout_ms {
            enqueue = enqueue.timeout(millis(timeout));
        }
        if let Some(max_crashes) = self.max_crashes {
            enqueue = enqueue.max_crashes(max_crashes);
        }
        if let Some(retry) = self.retry {
            enqueue = enqueue.retry(retry.into());
        }
        if let Some(selector) = &self.on {
            enqueue = enqueue.on(&selector.to_string());
        }
        if let Some(key) = &self.unique_key {
            enqueue = enqueue.unique(key.as_str());
        }
        if let Some(traceparent) = &self.traceparent {
            enqueue = enqueue.traceparent(traceparent);
        }
        if self.needs_approval {
            enqueue = enqueue.needs_approval();
        }
        enqueue.build()
    }
}

fn located(error: mamos_core::Error, at: &str) -> Problem {
    let detail = error.message().to_owned();
    Problem::from(error).at(at, detail)
}
