//! One job, as the memory store keeps it: narrow, because there may be millions.

use std::cmp::Reverse;

use bytes::Bytes;
use mamos_core::JobState;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, SessionId};
use mamos_core::job::rules::{Next, RunFacts};
use mamos_core::job::{
    AttemptEnd, AttemptRecord, CancelRequest, ClaimedJob, Counters, Failure, JobRecord, NewJob, Outcome,
    Priority, Progress,
};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::HeldJob;

use super::logs::RunLog;

/// How much late evidence is kept of a job, as the port promises.
const MAX_LATE: usize = 16;

/// The order in which ready jobs are claimed.
pub(super) type ReadyKey = (Reverse<Priority>, Timestamp, u64);

/// A job and its current or last run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) spec: NewJob,
    /// The order in which jobs were stored.
    pub(super) sequence: u64,
    pub(super) state: JobState,
    pub(super) epoch: Epoch,
    pub(super) counters: Counters,
    pub(super) created_at: Timestamp,
    pub(super) run_at: Timestamp,
    pub(super) finished_at: Option<Timestamp>,
    pub(super) session: Option<SessionId>,
    pub(super) agent: Option<AgentId>,
    /// Where it stands among what the session holds.
    pub(super) held_at: u32,
    leased_at: Timestamp,
    started_at: Option<Timestamp>,
    ended: Option<(AttemptEnd, Timestamp)>,
    /// The number of the attempt when it was claimed; the counter moves on when it fails.
    run_attempt: u32,
    /// The run that an agent settled last.
    settled: Epoch,
    output: Option<Bytes>,
    rare: Option<Box<Rare>>,
}

/// What most jobs never have.
#[derive(Debug, Default)]
struct Rare {
    cancel: Option<CancelRequest>,
    progress: Option<Progress>,
    /// Why the last run did not succeed.
    failure: Option<Failure>,
    /// Why the job was given up while no run went on.
    given_up: Option<Failure>,
    /// The runs before the current or last one.
    history: Vec<AttemptRecord>,
    late: Vec<AttemptRecord>,
    logs: Vec<(Epoch, RunLog)>,
}

impl Job {
    pub(super) fn new(spec: NewJob, sequence: u64, now: Timestamp) -> Self {
        Self {
            sequence,
            state: spec.first_state(now),
            epoch: Epoch::NEVER,
            counters: Counters::default(),
            created_at: now,
            run_at: spec.run_at.unwrap_or(now),
            finished_at: None,
            session: None,
            agent: None,
            held_at: 0,
            leased_at: now,
            started_at: None,
            ended: None,
            run_attempt: 0,
            settled: Epoch::NEVER,
            output: None,
            rare: None,
            spec,
        }
    }

    pub(super) fn run(&self) -> RunRef {
        RunRef { job: self.spec.id, epoch: self.epoch }
    }

    pub(super) fn ready_key(&self) -> ReadyKey {
        (Reverse(self.spec.priority), self.run_at, self.sequence)
    }

    pub(super) fn facts(&self) -> RunFacts {
        RunFacts {
            state: self.state,
            counters: self.counters,
            retry: self.spec.retry,
            max_crashes: self.spec.max_crashes,
            is_cancel_requested: self.cancel().is_some(),
        }
    }

    /// May a write that names this run and session be applied?
    pub(super) fn is_held_by(&self, session: SessionId, run: RunRef) -> bool {
        self.state.is_held() && self.epoch == run.epoch && self.session == Some(session)
    }

    /// Was that run settled by its agent, and no other since?
    pub(super) fn was_settled_by(&self, run: RunRef) -> bool {
        self.settled == run.epoch && self.settled != Epoch::NEVER
    }

    /// Begins a run.
    pub(super) fn lease(&mut self, state: JobState, session: SessionId, agent: AgentId, now: Timestamp) {
        if let Some(run) = self.last_run() {
            let rare = self.rare();
            rare.history.push(run);
            rare.progress = None;
        }
        self.state = state;
        self.epoch = self.epoch.next();
        self.session = Some(session);
        self.agent = Some(agent);
        self.leased_at = now;
        self.started_at = None;
        self.ended = None;
        self.run_attempt = self.counters.attempt;
    }

    pub(super) fn start(&mut self, state: JobState, now: Timestamp) {
        self.state = state;
        self.started_at = Some(now);
    }

    /// Ends the run as the rules say; everything but the indexes.
    pub(super) fn end_run(&mut self, next: &mut Next, now: Timestamp) {
        self.counters = next.counters;
        self.ended = Some((next.end, now));
        self.output = next.output.take();
        let failure = next.failure.take();
        if failure.is_some() || self.rare.is_some() {
            let rare = self.rare();
            rare.failure = failure;
            rare.given_up = None;
        }
        if let Some(run_at) = next.run_at {
            self.run_at = run_at;
        }
    }

    /// Notes that the run which just ended was ended by its agent.
    pub(super) fn note_settled(&mut self) {
        self.settled = self.epoch;
    }

    /// Notes why it was given up without a run that could have failed.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.rare().given_up = Some(failure);
    }

    pub(super) fn set_progress(&mut self, progress: Progress) {
        self.rare().progress = Some(progress);
    }

    pub(super) fn cancel(&self) -> Option<&CancelRequest> {
        self.rare.as_ref().and_then(|rare| rare.cancel.as_ref())
    }

    /// Notes the first request only.
    pub(super) fn request_cancel(&mut self, request: &CancelRequest) {
        self.rare().cancel.get_or_insert_with(|| request.clone());
    }

    /// Forgets what redriving makes void.
    pub(super) fn start_afresh(&mut self, now: Timestamp) {
        self.counters = Counters::default();
        self.spec.deadline = None;
        self.run_at = now;
        self.finished_at = None;
        if let Some(rare) = &mut self.rare {
            rare.cancel = None;
        }
    }

    pub(super) fn log_mut(&mut self) -> &mut RunLog {
        let epoch = self.epoch;
        let logs = &mut self.rare().logs;
        if logs.last().is_none_or(|(last, _)| *last != epoch) {
            logs.push((epoch, RunLog::default()));
        }
        &mut logs.last_mut().expect("pushed above if there was none").1
    }

    pub(super) fn log(&self, epoch: Epoch) -> Option<&RunLog> {
        let logs = &self.rare.as_ref()?.logs;
        logs.iter().find(|(other, _)| *other == epoch).map(|(_, log)| log)
    }

    /// Keeps a settle that came too late, once a run and session.
    pub(super) fn keep_evidence(
        &mut self,
        run: RunRef,
        session: SessionId,
        agent: Option<AgentId>,
        outcome: Outcome,
        now: Timestamp,
    ) {
        let claimed = self.runs().find(|record| record.run == run);
        let (attempt, leased_at, started_at) = claimed
            .map_or((self.counters.attempt, now, None), |run| (run.attempt, run.leased_at, run.started_at));
        let late = &mut self.rare().late;
        let is_known = late.iter().any(|record| record.run == run && record.session == Some(session));
        if is_known || late.len() >= MAX_LATE {
            return;
        }
        let (end, failure) = match outcome {
            Outcome::Succeeded { .. } => (AttemptEnd::Succeeded, None),
            Outcome::Retry { failure, .. } => (AttemptEnd::Retried, Some(failure)),
            Outcome::Bury { failure } => (AttemptEnd::Buried, Some(failure)),
            Outcome::Snooze { .. } => (AttemptEnd::Snoozed, None),
            Outcome::Cancelled => (AttemptEnd::Cancelled, None),
        };
        late.push(AttemptRecord {
            run,
            attempt,
            session: Some(session),
            agent,
            leased_at,
            started_at,
            ended_at: Some(now),
            end: Some(end),
            failure,
            is_late: true,
        });
    }

    /// All runs, late evidence after the run it claims to be.
    pub(super) fn attempts(&self) -> Vec<AttemptRecord> {
        let late = self.rare.iter().flat_map(|rare| rare.late.iter().cloned());
        let mut all: Vec<AttemptRecord> = self.runs().chain(late).collect();
        all.sort_by_key(|record| (record.run.epoch, record.is_late));
        all
    }

    fn runs(&self) -> impl Iterator<Item = AttemptRecord> {
        self.rare.iter().flat_map(|rare| rare.history.iter().cloned()).chain(self.last_run())
    }

    fn last_run(&self) -> Option<AttemptRecord> {
        (self.epoch != Epoch::NEVER).then(|| AttemptRecord {
            run: self.run(),
            attempt: self.run_attempt,
            session: self.session,
            agent: self.agent.clone(),
            leased_at: self.leased_at,
            started_at: self.started_at,
            ended_at: self.ended.map(|(_, at)| at),
            end: self.ended.map(|(end, _)| end),
            failure: self.ended.and_then(|_| self.rare.as_ref()?.failure.clone()),
            is_late: false,
        })
    }

    pub(super) fn claimed(&self) -> ClaimedJob {
        ClaimedJob {
            run: self.run(),
            lane: self.spec.lane.id(),
            kind: self.spec.lane.kind().clone(),
            payload: self.spec.payload.clone(),
            counters: self.counters,
            timeout: self.spec.timeout,
            deadline: self.spec.deadline,
            ready_since: self.run_at,
            traceparent: self.spec.traceparent.clone(),
        }
    }

    pub(super) fn held(&self) -> HeldJob {
        HeldJob {
            claimed: self.claimed(),
            is_started: self.state == JobState::Running,
            cancel: self.cancel().cloned(),
        }
    }

    pub(super) fn record(&self) -> JobRecord {
        let rare = self.rare.as_deref();
        JobRecord {
            spec: self.spec.clone(),
            state: self.state,
            epoch: self.epoch,
            counters: self.counters,
            created_at: self.created_at,
            run_at: self.run_at,
            session: self.session,
            agent: self.agent.clone(),
            leased_at: (self.epoch != Epoch::NEVER).then_some(self.leased_at),
            started_at: self.started_at,
            finished_at: self.finished_at,
            cancel: rare.and_then(|rare| rare.cancel.clone()),
            progress: rare.and_then(|rare| rare.progress.clone()),
            output: self.output.clone(),
            failure: rare.and_then(|rare| rare.given_up.clone().or_else(|| rare.failure.clone())),
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_narrow() {
        // What `MemoryStore` documents, less its payload, its id and its places in the indexes.
        assert!(size_of::<Job>() <= 512, "{} bytes", size_of::<Job>());
    }
}
