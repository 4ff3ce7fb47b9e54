//! Reads the store after a measure: what reached its end, and how often.

use std::collections::HashSet;

use mamos_core::store::{JobFilter, PageRequest};
use mamos_core::{JobId, JobState, Orchestrator};

use crate::agents::Tally;
use crate::figures::Findings;

/// Counts what the store has of these jobs, and adds what is wrong to the findings.
///
/// `tally` is what the agents saw, if the jobs were to be run.
pub(crate) async fn check(
    orchestrator: &Orchestrator,
    ids: &[JobId],
    tally: Option<&Tally>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let wanted = if tally.is_some() { JobState::Succeeded } else { JobState::Ready };
    let mut missing: HashSet<JobId> = ids.iter().copied().collect();
    let mut page = PageRequest::first(1000);
    let mut duplicated = 0;
    loop {
        let found = orchestrator.jobs(JobFilter::default(), page).await?;
        for job in &found.items {
            // A job that nobody stored, one that is listed twice, or one that was claimed again.
            let is_known = missing.contains(&job.spec.id);
            let is_over = job.epoch.number() > u64::from(tally.is_some());
            duplicated += u64::from(!is_known || is_over);
            if job.state == wanted {
                missing.remove(&job.spec.id);
            }
        }
        let Some(next) = found.next else { break };
        page = PageRequest { limit: 1000, after: Some(next) };
    }
    findings.lost += missing.len() as u64;
    findings.duplicated += duplicated;
    // What the store counts itself has to agree with the jobs one by one.
    let counted = in_state(orchestrator, wanted).await?;
    let accepted = ids.len() as u64;
    if missing.is_empty() && duplicated == 0 {
        compare(counted, accepted, tally, findings);
    }
    Ok(())
}

/// The same by counting alone, for backlogs that are too long to be read.
pub(crate) async fn count(
    orchestrator: &Orchestrator,
    accepted: u64,
    tally: &Tally,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let counted = in_state(orchestrator, JobState::Succeeded).await?;
    compare(counted, accepted, Some(tally), findings);
    Ok(())
}

fn compare(counted: u64, accepted: u64, tally: Option<&Tally>, findings: &mut Findings) {
    let again = tally.map_or(0, |tally| tally.dispatched().saturating_sub(accepted).max(tally.exceptions()));
    findings.lost += accepted.saturating_sub(counted);
    findings.duplicated += counted.saturating_sub(accepted).max(again);
}

async fn in_state(orchestrator: &Orchestrator, state: JobState) -> anyhow::Result<u64> {
    Ok(orchestrator.queues().await?.iter().map(|queue| queue.count(state)).sum())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mamos_store::MemoryStore;

    use super::*;
    use crate::measures::{jobs, store_all};

    async fn three_jobs() -> (Orchestrator, Vec<JobId>) {
        let orchestrator = Orchestrator::builder(Arc::new(MemoryStore::new())).build().unwrap();
        let jobs = jobs(3, 2).unwrap();
        let ids = jobs.iter().map(|job| job.id).collect();
        store_all(&orchestrator, jobs).await.unwrap();
        (orchestrator, ids)
    }

    #[tokio::test]
    async fn what_is_stored_once_is_neither_lost_nor_duplicated() {
        let (orchestrator, ids) = three_jobs().await;
        let mut findings = Findings::default();
        check(&orchestrator, &ids, None, &mut findings).await.unwrap();
        assert_eq!((findings.lost, findings.duplicated), (0, 0));
    }

    #[tokio::test]
    async fn jobs_that_did_not_end_are_lost() {
        let (orchestrator, ids) = three_jobs().await;
        let mut findings = Findings::default();
        check(&orchestrator, &ids, Some(&Tally::default()), &mut findings).await.unwrap();
        assert_eq!((findings.lost, findings.duplicated), (3, 0));
        let mut findings = Findings::default();
        count(&orchestrator, 3, &Tally::default(), &mut findings).await.unwrap();
        assert_eq!(findings.lost, 3);
    }

    #[tokio::test]
    async fn an_id_that_was_accepted_and_is_not_stored_is_lost_and_a_stranger_is_a_duplicate() {
        let (orchestrator, mut ids) = three_jobs().await;
        ids[0] = JobId::from_key("nobody stored this");
        let mut findings = Findings::default();
        check(&orchestrator, &ids, None, &mut findings).await.unwrap();
        assert_eq!((findings.lost, findings.duplicated), (1, 1));
    }
}
