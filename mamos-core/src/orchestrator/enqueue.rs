//! Enqueueing: the builder, the handle, and the group commit behind them.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::Orchestrator;
use super::engine::Engine;
use super::stats::LaneCounts;
use crate::clock::Timestamp;
use crate::event::What;
use crate::id::{JobId, JobKind, QueueName};
use crate::job::labels::{Labels, Selector};
use crate::job::lane::{Lane, LaneId};
use crate::job::retry::RetryPolicy;
use crate::job::state::JobState;
use crate::job::{Failure, Job, JobPolicy, JobRecord, NewJob, Priority, UniqueKey};
use crate::store::{EnqueueResult, Enqueued};
use crate::{Error, ErrorKind, Result};

/// The most jobs that go to the store at once. Beyond it a larger batch wins nothing measurable, and
/// callers wait longer.
pub(crate) const MAX_BATCH: usize = 2000;
/// So many waiting requests are worth a commit, whoever else is about to come.
const ENOUGH: usize = 512;
/// How often a passing error of the store is met by trying again before the caller is told.
const TRIES: u32 = 4;

/// Jobs that wait for the store, and who wants to know.
pub(crate) struct Request {
    pub(crate) jobs: Vec<NewJob>,
    pub(crate) answer: oneshot::Sender<Result<Vec<Enqueued>>>,
}

/// A job about to be enqueued. Await it to do so.
///
/// Every method is optional; the defaults are those of [`Job::policy`].
#[must_use = "a job is enqueued when this is awaited"]
#[derive(Debug)]
pub struct Enqueue<'a, O> {
    orchestrator: &'a Orchestrator,
    kind: Result<JobKind>,
    payload: Result<Bytes>,
    policy: JobPolicy,
    id: Option<JobId>,
    run_at: Option<When>,
    unique_key: Option<UniqueKey>,
    labels: Labels,
    traceparent: Option<Arc<str>>,
    needs_approval: bool,
    output: PhantomData<fn() -> O>,
}

#[derive(Debug)]
enum When {
    In(Duration),
    At(Timestamp),
}

impl<'a, O> Enqueue<'a, O> {
    pub(crate) fn new(
        orchestrator: &'a Orchestrator,
        kind: Result<JobKind>,
        payload: Result<Bytes>,
        policy: JobPolicy,
    ) -> Self {
        Self {
            orchestrator,
            kind,
            payload,
            policy,
            id: None,
            run_at: None,
            unique_key: None,
            labels: Labels::default(),
            traceparent: None,
            needs_approval: false,
            output: PhantomData,
        }
    }

    /// Puts it in a queue. A name that is not valid is reported when the job is awaited.
    pub fn queue(mut self, queue: &str) -> Self {
        match QueueName::new(queue) {
            Ok(queue) => self.policy.queue = queue,
            Err(error) => self.kind = Err(error.into()),
        }
        self
    }

    /// Goes before jobs of a lower priority. Default: 0.
    pub fn priority(mut self, priority: i16) -> Self {
        self.policy.priority = Priority(priority);
        self
    }

    /// Runs no earlier than this long from now.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.run_at = Some(When::In(delay));
        self
    }

    /// Runs no earlier than at this time.
    pub fn run_at(mut self, run_at: Timestamp) -> Self {
        self.run_at = Some(When::At(run_at));
        self
    }

    /// Is buried if it has not ended this long from now, whatever it is doing then.
    pub fn give_up_after(mut self, limit: Duration) -> Self {
        self.policy.give_up_after = Some(limit);
        self
    }

    /// How often it is tried, and when.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.policy.retry = retry;
        self
    }

    /// How long one attempt may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = Some(timeout);
        self
    }

    /// After how many crashes of its agent it is buried. At least 1.
    pub fn max_crashes(mut self, max_crashes: u32) -> Self {
        self.policy.max_crashes = max_crashes.max(1);
        self
    }

    /// Runs only on agents whose labels fit, for example `zone=eu,gpu`. A selector that is not valid is
    /// reported when the job is awaited.
    pub fn on(mut self, selector: &str) -> Self {
        match selector.parse::<Selector>() {
            Ok(selector) => self.policy.selector = selector,
            Err(error) => self.kind = Err(error.into()),
        }
        self
    }

    /// Is not stored while another job of the kind with this key has not ended: the handle is then that
    /// job's.
    pub fn unique(mut self, key: &str) -> Self {
        match UniqueKey::new(key) {
            Ok(key) => self.unique_key = Some(key),
            Err(error) => self.kind = Err(error.into()),
        }
        self
    }

    /// Has this id. Enqueueing the same job again under the same id changes nothing, so that a caller
    /// may safely try again.
    pub fn id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    /// Can be found by these labels.
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Carries a W3C trace context to its handler or command.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        if traceparent.len() > 64 || !traceparent.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-') {
            let message = "a traceparent has at most 64 hexadecimal digits and dashes";
            self.kind = Err(Error::new(ErrorKind::Invalid, "job.enqueue", message));
        } else {
            self.traceparent = Some(traceparent.into());
        }
        self
    }

    /// Waits for [`Orchestrator::approve`] before it may run.
    pub fn needs_approval(mut self) -> Self {
        self.needs_approval = true;
        self
    }

    /// The job as it would be stored, without storing it: for [`Orchestrator::enqueue_all`].
    ///
    /// Delays are counted from the time of the orchestrator: see [`Orchestrator::align_clock`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if a name is not valid or the arguments cannot be written down.
    pub fn build(self) -> Result<NewJob> {
        let engine = &self.orchestrator.engine;
        let now = engine.now();
        let policy = self.policy;
        let id = self.id.unwrap_or_else(|| JobId::from_parts(now, engine.entropy().id()));
        let lane = engine.lane(policy.queue, self.kind?, policy.selector);
        Ok(NewJob {
            id,
            lane,
            payload: self.payload?,
            priority: policy.priority,
            run_at: self.run_at.map(|when| match when {
                When::In(delay) => now + delay,
                When::At(at) => at,
            }),
            deadline: policy.give_up_after.map(|limit| now + limit),
            retry: policy.retry,
            timeout: policy.timeout,
            max_crashes: policy.max_crashes,
            unique_key: self.unique_key,
            labels: self.labels,
            traceparent: self.traceparent,
            needs_approval: self.needs_approval,
        })
    }
}

impl<'a, O: Send + 'static> IntoFuture for Enqueue<'a, O> {
    type Output = Result<JobHandle<O>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let orchestrator = self.orchestrator;
            // Or a delay would be counted by the clock of this machine.
            orchestrator.engine.aligned().await;
            let enqueued = orchestrator.enqueue_all(vec![self.build()?]).await?;
            let [Enqueued { id, result }] = enqueued[..] else {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "job.enqueue",
                    "the store gave no answer for the job",
                ));
            };
            let id = match result {
                EnqueueResult::Stored(_) | EnqueueResult::Repeat(_) => id,
                EnqueueResult::UniqueKeyTaken { by } => by,
                EnqueueResult::IdTaken => {
                    let message = format!("another job has the id {id}; choose another id");
                    return Err(Error::new(ErrorKind::Conflict, "job.enqueue", message));
                }
            };
            Ok(JobHandle { orchestrator: orchestrator.clone(), id, result, output: PhantomData })
        })
    }
}

/// A stored job whose output is an `O`.
#[derive(Debug, Clone)]
pub struct JobHandle<O> {
    orchestrator: Orchestrator,
    id: JobId,
    result: EnqueueResult,
    output: PhantomData<fn() -> O>,
}

/// Why a job gave no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It was given up.
    #[error("the job was given up: {0}")]
    Dead(Failure),
    /// It was cancelled.
    #[error("the job was cancelled: {0}")]
    Cancelled(String),
    /// Its output is not what its kind promises: the handler is of another version.
    #[error("the output of the job is not of the expected type: {0}")]
    Output(#[source] serde_json::Error),
    /// It cannot be found out.
    #[error(transparent)]
    Store(#[from] Error),
}

impl<O: DeserializeOwned> JobHandle<O> {
    /// The id of the job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether it was stored now, earlier, or is another job with the same unique key.
    pub fn result(&self) -> EnqueueResult {
        self.result
    }

    /// Waits until the job has ended, and gives its output.
    ///
    /// # Errors
    ///
    /// [`WaitError`] if it ended without one.
    pub async fn wait(&self) -> Result<O, WaitError> {
        let record = self.orchestrator.wait(self.id).await?;
        match record.state {
            JobState::Succeeded => output(&record),
            JobState::Cancelled => {
                Err(WaitError::Cancelled(record.cancel.map(|cancel| cancel.reason).unwrap_or_default()))
            }
            _ => Err(WaitError::Dead(
                record.failure.unwrap_or_else(|| Failure::new("unknown", "no reason is on record")),
            )),
        }
    }

    /// The job as it is now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it was pruned, or the error of the store.
    pub async fn record(&self) -> Result<JobRecord> {
        self.orchestrator.job(self.id).await
    }
}

fn output<O: DeserializeOwned>(record: &JobRecord) -> Result<O, WaitError> {
    let bytes = record.output.as_deref().unwrap_or_default();
    // The output of `()` may be stored as nothing at all.
    let bytes = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(bytes).map_err(WaitError::Output)
}

impl Orchestrator {
    /// Enqueues a typed job. Await what it gives, or choose options first.
    ///
    /// # Errors
    ///
    /// When awaited:
    ///
    /// - [`ErrorKind::Invalid`]: a name is not valid or the arguments cannot be written down.
    /// - [`ErrorKind::LimitExceeded`]: the arguments are larger than the limit.
    /// - [`ErrorKind::Conflict`]: another job has the chosen id.
    /// - [`ErrorKind::Unavailable`]: the store does not answer. The job may be stored; if you chose its
    ///   id, enqueue it again.
    pub fn enqueue<J: Job>(&self, job: J) -> Enqueue<'_, J::Output> {
        let payload = serde_json::to_vec(&job).map(Bytes::from).map_err(|error| {
            let message = "the arguments cannot be written down as JSON";
            Error::new(ErrorKind::Invalid, "job.enqueue", message).with_source(error)
        });
        Enqueue::new(self, JobKind::new(J::KIND).map_err(Error::from), payload, J::policy())
    }

    /// Enqueues a job of a kind that this program has no type for, with its arguments as they are. Await what
    /// it gives, or choose options first. Its policy is [`JobPolicy::default`].
    ///
    /// # Errors
    ///
    /// As [`Orchestrator::enqueue`].
    pub fn enqueue_untyped(&self, kind: JobKind, payload: Bytes) -> Enqueue<'_, serde_json::Value> {
        Enqueue::new(self, Ok(kind), Ok(payload), JobPolicy::default())
    }

    /// Enqueues many jobs, whatever their kinds, and gives one answer for each, in their order.
    ///
    /// # Errors
    ///
    /// As [`Orchestrator::enqueue`]. The jobs go to the store in batches: after an error some may be
    /// stored, and enqueueing the same jobs again is safe.
    pub async fn enqueue_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        let limit = self.engine.settings.max_payload_bytes;
        if let Some(job) = jobs.iter().find(|job| job.payload.len() > limit) {
            let message = format!(
                "the payload of job {} has {} bytes, over the limit of {limit}; store large data elsewhere and \
                 send its address",
                job.id,
                job.payload.len()
            );
            return Err(Error::new(ErrorKind::LimitExceeded, "job.enqueue", message));
        }
        let mut answers = Vec::with_capacity(jobs.len());
        let mut jobs = jobs.into_iter();
        loop {
            let batch: Vec<NewJob> = jobs.by_ref().take(MAX_BATCH).collect();
            if batch.is_empty() {
                return Ok(answers);
            }
            let (answer, receiver) = oneshot::channel();
            let closed = || Error::new(ErrorKind::Closed, "job.enqueue", "the orchestrator has stopped");
            self.enqueues.send(Request { jobs: batch, answer }).await.map_err(|_| closed())?;
            answers.extend(receiver.await.map_err(|_| closed())??);
        }
    }
}

/// Group commit by draining: takes what waits, stores it, answers, and looks again. An idle
/// orchestrator has the latency of one write, a busy one the throughput of batches.
pub(crate) async fn run(engine: Arc<Engine>, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        gather(&requests).await;
        let mut count = first.jobs.len();
        let mut batch = vec![first];
        while count < MAX_BATCH
            && let Ok(next) = requests.try_recv()
        {
            count += next.jobs.len();
            batch.push(next);
        }
        store(&engine, batch).await;
    }
}

/// Lets callers that were answered together come back together: without a turn for them, the first
/// would get a commit of its own each time. Goes on while each turn brings more, so an idle
/// orchestrator loses one turn and no time.
async fn gather(requests: &mpsc::Receiver<Request>) {
    let mut waiting = requests.len();
    loop {
        tokio::task::yield_now().await;
        let more = requests.len();
        if more <= waiting || more >= ENOUGH {
            return;
        }
        waiting = more;
    }
}

async fn store(engine: &Engine, mut batch: Vec<Request>) {
    let counts: Vec<usize> = batch.iter().map(|request| request.jobs.len()).collect();
    let jobs: Vec<NewJob> = batch.iter_mut().flat_map(|request| request.jobs.drain(..)).collect();
    let lanes: Vec<(Arc<Lane>, Option<Timestamp>)> =
        jobs.iter().map(|job| (Arc::clone(&job.lane), job.run_at)).collect();
    let result = insist(engine, jobs).await;
    match result {
        Ok(answers) if answers.len() == lanes.len() => {
            announce(engine, &answers, lanes);
            let mut answers = answers.into_iter();
            for (request, count) in batch.into_iter().zip(counts) {
                // Fails only if the caller has gone away.
                let _ = request.answer.send(Ok(answers.by_ref().take(count).collect()));
            }
        }
        result => {
            let error = result.err().unwrap_or_else(|| {
                Error::new(ErrorKind::Corrupt, "job.enqueue", "the store gave a wrong number of answers")
            });
            for request in batch {
                let _ = request.answer.send(Err(error.duplicate()));
            }
        }
    }
}

/// Storing the same jobs again changes nothing, so a passing error is met by trying again.
async fn insist(engine: &Engine, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
    engine.aligned().await;
    for failures in 1..TRIES {
        match engine.store.enqueue(jobs.clone(), engine.now()).await {
            Err(error) if error.is_retryable() => {
                tracing::warn!(target: "mamos::enqueue", %error, failures, "the store failed; trying again");
                engine.back_off(failures).await;
            }
            result => return result,
        }
    }
    engine.store.enqueue(jobs, engine.now()).await
}

fn announce(engine: &Engine, answers: &[Enqueued], lanes: Vec<(Arc<Lane>, Option<Timestamp>)>) {
    let watched = engine.events.is_watched();
    let mut last = None;
    let mut counts_of: Option<(LaneId, Arc<LaneCounts>)> = None;
    let mut registry = engine.registry();
    for (answer, (lane, run_at)) in answers.iter().zip(lanes) {
        // A repeat counts as well: the first call may have been cut off before it got here.
        let (EnqueueResult::Stored(state) | EnqueueResult::Repeat(state)) = answer.result else { continue };
        match state {
            JobState::Ready if last != Some(lane.id()) => {
                last = Some(lane.id());
                registry.lane_ready(&lane);
                if !engine.neighbours.is_running() {
                    engine.neighbours.lanes(vec![lane.id()]);
                }
            }
            JobState::Scheduled => engine.due.no_later_than(run_at.unwrap_or(Timestamp::EPOCH)),
            _ => {}
        }
        if !matches!(answer.result, EnqueueResult::Stored(_)) {
            continue;
        }
        let counts = match &mut counts_of {
            Some((last, counts)) if *last == lane.id() => counts,
            counts_of => &mut counts_of.insert((lane.id(), engine.tally.lane(&lane))).1,
        };
        counts.enqueued.fetch_add(1, Ordering::Relaxed);
        if watched {
            let of = Some(Arc::clone(&lane));
            engine.events.tell_of(engine.now(), of, What::JobEnqueued { job: answer.id, lane, state });
        }
    }
    drop(registry);
    engine.dispatch.notify_one();
}
