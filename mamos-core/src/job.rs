//! Jobs: what an enqueuer asks for, what a store keeps, and how an attempt ends.

pub mod labels;
pub mod lane;
pub mod retry;
pub mod rules;
pub mod state;

mod attempt;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::attempt::{AttemptEnd, AttemptRecord, Failure, MAX_FAILURE_BYTES, Outcome};
use self::labels::{Labels, Selector};
use self::lane::{Lane, LaneId};
use self::retry::RetryPolicy;
use self::state::JobState;
use crate::clock::Timestamp;
use crate::id::{AgentId, InvalidName, JobId, JobKind, QueueName, SessionId};
use crate::lease::{Epoch, RunRef};

/// A kind of job: its name, arguments and output. All that an enqueuer needs to know of it.
///
/// The code that runs it is a handler, registered with an agent. Both sides share this type only.
///
/// # Examples
///
/// ```
/// use mamos_core::Job;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendMail {
///     to: String,
/// }
///
/// impl Job for SendMail {
///     const KIND: &'static str = "mail.send";
///     type Output = ();
/// }
/// ```
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The stable name of the kind. It is stored, so it is never renamed.
    const KIND: &'static str;

    /// What a successful attempt gives back.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// What holds for jobs of this kind unless the enqueuer says otherwise.
    fn policy() -> JobPolicy {
        JobPolicy::default()
    }
}

/// What holds for the jobs of a kind unless the enqueuer says otherwise.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct JobPolicy {
    /// The queue. Default: `default`.
    pub queue: QueueName,
    /// Which goes first among jobs that could run. Default: normal.
    pub priority: Priority,
    /// How often it is tried. Default: see [`RetryPolicy`].
    pub retry: RetryPolicy,
    /// How long one attempt may take, enforced by the agent. Default: as long as it wants.
    pub timeout: Option<Duration>,
    /// How long after its enqueueing the job is given up, whatever it is doing. Default: never.
    pub give_up_after: Option<Duration>,
    /// After how many crashes of its agent the job is buried. Default: 3; at least 1.
    pub max_crashes: u32,
    /// What it asks of an agent's labels. Default: nothing.
    pub selector: Selector,
}

impl Default for JobPolicy {
    fn default() -> Self {
        Self {
            queue: QueueName::default_queue(),
            priority: Priority::NORMAL,
            retry: RetryPolicy::default(),
            timeout: None,
            give_up_after: None,
            max_crashes: 3,
            selector: Selector::any(),
        }
    }
}

/// Which job goes first: a higher number before a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub i16);

impl Priority {
    /// The priority of jobs that name none: 0.
    pub const NORMAL: Self = Self(0);
}

/// Jobs of one kind with the same key are not stored twice while one of them has not ended.
///
/// 1 to 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UniqueKey(Arc<str>);

impl UniqueKey {
    /// Checks and takes a key.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is empty or longer than 256 bytes.
    pub fn new(key: impl AsRef<str>) -> Result<Self, InvalidName> {
        let key = key.as_ref();
        if key.is_empty() || key.len() > 256 {
            return Err(InvalidName::new("unique key", key, "expected 1 to 256 bytes"));
        }
        Ok(Self(key.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UniqueKey {
    type Error = InvalidName;

    fn try_from(key: String) -> Result<Self, InvalidName> {
        Self::new(key)
    }
}

impl From<UniqueKey> for String {
    fn from(key: UniqueKey) -> String {
        key.0.as_ref().to_owned()
    }
}

/// A job as an enqueuer hands it to a store. Never changes afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// The id. Storing the same job again under the same id changes nothing.
    pub id: JobId,
    /// Queue, kind and selector. Shared among jobs that are alike.
    pub lane: Arc<Lane>,
    /// The arguments, opaque to the engine.
    pub payload: Bytes,
    /// Which goes first.
    pub priority: Priority,
    /// Not before this time; `None` means at once.
    pub run_at: Option<Timestamp>,
    /// Buried if it has not ended by this time.
    pub deadline: Option<Timestamp>,
    /// How often it is tried.
    pub retry: RetryPolicy,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// After how many crashes it is buried.
    pub max_crashes: u32,
    /// Not stored while another job of the kind with this key has not ended.
    pub unique_key: Option<UniqueKey>,
    /// What the enqueuer wants to find it by.
    pub labels: Labels,
    /// W3C trace context of the enqueuer, at most 64 bytes.
    pub traceparent: Option<Arc<str>>,
    /// Waits for an approval before it may run.
    pub needs_approval: bool,
}

impl NewJob {
    /// A job with the default policy.
    pub fn new(id: JobId, lane: Arc<Lane>, payload: Bytes) -> Self {
        let policy = JobPolicy::default();
        Self {
            id,
            lane,
            payload,
            priority: policy.priority,
            run_at: None,
            deadline: None,
            retry: policy.retry,
            timeout: policy.timeout,
            max_crashes: policy.max_crashes,
            unique_key: None,
            labels: Labels::default(),
            traceparent: None,
            needs_approval: false,
        }
    }

    /// The state in which a store puts it: `Blocked`, `Scheduled` or `Ready`.
    pub fn first_state(&self, now: Timestamp) -> JobState {
        if self.needs_approval {
            JobState::Blocked
        } else if self.run_at.is_some_and(|run_at| run_at > now) {
            JobState::Scheduled
        } else {
            JobState::Ready
        }
    }

    /// Is it the same request, so that storing it again under the same id is a repeat?
    ///
    /// Compares kind, queue, selector and payload; times differ between honest repeats.
    pub fn is_repeat_of(&self, other: &Self) -> bool {
        self.lane.id() == other.lane.id() && self.payload == other.payload
    }
}

/// How often a job was tried, and why it was not. Never merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Counters {
    /// The number of the current or next attempt. 1 at first, one more after each failed attempt.
    pub attempt: u32,
    /// How often its agent was lost after the job had been started.
    pub crashes: u32,
    /// How often it was handed out and came back without having been started.
    pub deliveries: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self { attempt: 1, crashes: 0, deliveries: 0 }
    }
}

/// Someone asked to cancel a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// Why, for people. At most 1 KiB.
    pub reason: String,
    /// How long a running attempt may take to stop by itself before it is killed.
    pub grace: Duration,
}

impl CancelRequest {
    /// A request with a reason, cut to its bound.
    pub fn new(reason: impl Into<String>, grace: Duration) -> Self {
        let mut reason = reason.into();
        cut(&mut reason, 1024);
        Self { reason, grace }
    }
}

/// How far a running attempt has come, as its handler says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// `0.0..=100.0`, or `None` if the handler cannot know.
    pub percent: Option<f32>,
    /// What it is doing, for people. At most 1 KiB.
    pub note: String,
}

impl Progress {
    /// Progress with a note, both brought within their bounds.
    pub fn new(percent: Option<f32>, note: impl Into<String>) -> Self {
        let mut note = note.into();
        cut(&mut note, 1024);
        let percent = percent.filter(|percent| percent.is_finite()).map(|percent| percent.clamp(0.0, 100.0));
        Self { percent, note }
    }
}

/// A job as a store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// What was asked for.
    pub spec: NewJob,
    /// Where it is in its life.
    pub state: JobState,
    /// The epoch of the last claim.
    pub epoch: Epoch,
    /// How often it was tried.
    pub counters: Counters,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it may run or could have run, for states before `Leased`; then as it was.
    pub run_at: Timestamp,
    /// The session that holds it or held it last.
    pub session: Option<SessionId>,
    /// The agent of that session.
    pub agent: Option<AgentId>,
    /// When it was last claimed.
    pub leased_at: Option<Timestamp>,
    /// When its last run started.
    pub started_at: Option<Timestamp>,
    /// When it ended; `None` until then.
    pub finished_at: Option<Timestamp>,
    /// Set once someone asked to cancel it.
    pub cancel: Option<CancelRequest>,
    /// What the current or last run said last.
    pub progress: Option<Progress>,
    /// What it produced, once succeeded.
    pub output: Option<Bytes>,
    /// Why its last run did not succeed.
    pub failure: Option<Failure>,
}

impl JobRecord {
    /// What the [rules] need to know of a held job.
    pub fn run_facts(&self) -> rules::RunFacts {
        rules::RunFacts {
            state: self.state,
            counters: self.counters,
            retry: self.spec.retry,
            max_crashes: self.spec.max_crashes,
            is_cancel_requested: self.cancel.is_some(),
        }
    }
}

/// A job that was claimed for a session, with all that its agent needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedJob {
    /// The run.
    pub run: RunRef,
    /// The lane it came from.
    pub lane: LaneId,
    /// The kind of the job.
    pub kind: JobKind,
    /// The arguments.
    pub payload: Bytes,
    /// How often it was tried before, and the number of this attempt.
    pub counters: Counters,
    /// How long this attempt may take.
    pub timeout: Option<Duration>,
    /// When the job is given up.
    pub deadline: Option<Timestamp>,
    /// Since when it could run: its [`JobRecord::run_at`].
    pub ready_since: Timestamp,
    /// W3C trace context of the enqueuer.
    pub traceparent: Option<Arc<str>>,
}

/// Cuts a text to at most `max` bytes, at a character's boundary.
pub(crate) fn cut(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_brought_within_its_bounds() {
        assert_eq!(Progress::new(Some(f32::NAN), "").percent, None);
        assert_eq!(Progress::new(Some(250.0), "").percent, Some(100.0));
    }
}
