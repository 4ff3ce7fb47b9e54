//! What the store says about a batch. Nothing here is remembered from the run itself.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use mamos_core::job::{AttemptEnd, AttemptRecord};
use mamos_core::store::{JobFilter, PageRequest};
use mamos_core::{JobId, JobState, Orchestrator};
use tokio::task::JoinSet;

use super::batch::{Batch, Killed};

/// How many histories are read at once: as many as the store has readers.
const READERS: usize = 4;

/// Counted over every accepted job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// In the state `succeeded`.
    pub(super) succeeded: usize,
    /// Not there, not succeeded, or without a run that succeeded.
    pub(super) lost: usize,
    /// With more than one run on record as succeeded.
    pub(super) duplicated: usize,
    /// Taken from the killed agent without having ended, and succeeded in a later run.
    pub(super) rescued: usize,
    /// Of those, started already when the agent was killed: a crash on the job's own count.
    pub(super) crashes: usize,
}

/// Reads every accepted job and its whole history.
pub(super) async fn measure(orchestrator: &Orchestrator, batch: &Batch, killed: &Killed) -> Result<Measured> {
    let states = Arc::new(states(orchestrator, batch).await?);
    let mut parts = JoinSet::new();
    for part in batch.accepted.chunks(batch.accepted.len().div_ceil(READERS).max(1)) {
        let (part, states) = (part.to_vec(), Arc::clone(&states));
        let (orchestrator, killed) = (orchestrator.clone(), killed.clone());
        parts.spawn(async move {
            let mut measured = Measured::default();
            for id in part {
                let attempts = orchestrator.attempts(id).await?;
                measured.count(states.get(&id).copied(), &attempts, &killed);
            }
            Ok::<_, mamos_core::Error>(measured)
        });
    }
    let mut sum = Measured::default();
    while let Some(part) = parts.join_next().await {
        sum.add(part.context("counting panicked")??);
    }
    Ok(sum)
}

async fn states(orchestrator: &Orchestrator, batch: &Batch) -> Result<HashMap<JobId, JobState>> {
    let filter = JobFilter { labels: batch.labels.clone(), ..JobFilter::default() };
    let mut states = HashMap::new();
    let mut page = PageRequest::first(1000);
    loop {
        let found = orchestrator.jobs(filter.clone(), page).await?;
        states.extend(found.items.iter().map(|job| (job.spec.id, job.state)));
        let Some(next) = found.next else { return Ok(states) };
        page = PageRequest { limit: 1000, after: Some(next) };
    }
}

impl Measured {
    fn count(&mut self, state: Option<JobState>, attempts: &[AttemptRecord], killed: &Killed) {
        let successes = attempts.iter().filter(|run| run.end == Some(AttemptEnd::Succeeded) && !run.is_late);
        let successes = successes.count();
        let is_succeeded = state == Some(JobState::Succeeded);
        self.succeeded += usize::from(is_succeeded);
        self.lost += usize::from(!is_succeeded || successes == 0);
        self.duplicated += usize::from(successes > 1);
        let taken = attempts.iter().find(|run| {
            run.agent.as_ref() == Some(&killed.agent)
                && run.ended_at.is_some_and(|at| at >= killed.at)
                && matches!(run.end, Some(AttemptEnd::Crashed | AttemptEnd::Returned))
        });
        if let (Some(taken), true) = (taken, is_succeeded) {
            self.rescued += 1;
            self.crashes += usize::from(taken.end == Some(AttemptEnd::Crashed));
        }
    }

    fn add(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.rescued += other.rescued;
        self.crashes += other.crashes;
    }
}

#[cfg(test)]
mod tests {
    use mamos_core::lease::{Epoch, RunRef};
    use mamos_core::{AgentId, AgentKind, Timestamp};

    use super::*;

    fn agent(number: u128) -> AgentId {
        AgentId::from_parts(AgentKind::new("test").unwrap(), Timestamp::EPOCH, number)
    }

    fn attempt(epoch: u64, by: u128, end: Option<AttemptEnd>) -> AttemptRecord {
        AttemptRecord {
            run: RunRef { job: JobId::from_key("job"), epoch: Epoch::from_number(epoch) },
            attempt: 1,
            session: None,
            agent: Some(agent(by)),
            leased_at: Timestamp::EPOCH,
            started_at: None,
            ended_at: end.map(|_| Timestamp::from_micros(10)),
            end,
            failure: None,
            is_late: false,
        }
    }

    fn counted(state: Option<JobState>, attempts: &[AttemptRecord]) -> Measured {
        let killed = Killed { agent: agent(1), at: Timestamp::from_micros(5), done: 0 };
        let mut measured = Measured::default();
        measured.count(state, attempts, &killed);
        measured
    }

    #[test]
    fn a_job_that_is_missing_open_or_without_a_successful_run_is_lost() {
        let lost = Measured { lost: 1, ..Measured::default() };
        assert_eq!(counted(None, &[]), lost);
        assert_eq!(counted(Some(JobState::Ready), &[attempt(1, 2, Some(AttemptEnd::Returned))]), lost);
        assert_eq!(counted(Some(JobState::Succeeded), &[]), Measured { succeeded: 1, ..lost });
    }

    #[test]
    fn two_successes_on_record_are_a_duplicate_and_late_evidence_is_not() {
        let once = attempt(1, 2, Some(AttemptEnd::Succeeded));
        let mut late = attempt(2, 2, Some(AttemptEnd::Succeeded));
        let twice = [once.clone(), late.clone()];
        assert_eq!(counted(Some(JobState::Succeeded), &twice).duplicated, 1);
        late.is_late = true;
        let fine = Measured { succeeded: 1, ..Measured::default() };
        assert_eq!(counted(Some(JobState::Succeeded), &[once, late]), fine);
    }

    #[test]
    fn a_rescue_is_a_run_of_the_killed_agent_that_another_one_replaced() {
        let again = attempt(2, 2, Some(AttemptEnd::Succeeded));
        let of = |run| counted(Some(JobState::Succeeded), &[run, again.clone()]);
        let fine = Measured { succeeded: 1, ..Measured::default() };
        assert_eq!(of(attempt(1, 1, Some(AttemptEnd::Returned))), Measured { rescued: 1, ..fine });
        assert_eq!(of(attempt(1, 1, Some(AttemptEnd::Crashed))), Measured { rescued: 1, crashes: 1, ..fine });
        assert_eq!(of(attempt(1, 2, Some(AttemptEnd::Crashed))), fine);
        let before = AttemptRecord {
            ended_at: Some(Timestamp::from_micros(4)),
            ..attempt(1, 1, Some(AttemptEnd::Returned))
        };
        assert_eq!(of(before), fine);
    }
}
