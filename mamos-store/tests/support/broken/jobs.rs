//! Rows that cannot be understood end one job each, and large payloads come in parts.

use std::time::Duration;

use bytes::Bytes;
use mamos_core::id::JobId;
use mamos_core::job::labels::Labels;
use mamos_core::job::{AttemptEnd, NewJob, Outcome};
use mamos_core::lease::{RunRef, Verdict};
use mamos_core::store::{JobFilter, PageRequest};
use mamos_core::{ErrorKind, JobState};

use super::{Bed, Database, NOW, TTL, attach, ids, job, jobs};

pub(crate) async fn a_ready_job_that_cannot_be_understood_is_buried_and_the_others_are_claimed<
    D: Database,
>() {
    for (damage, column) in D::DAMAGE {
        let mut bed = Bed::<D>::new().await;
        bed.enqueue(3).await;
        bed.damage(damage).await;
        let claimed = bed.claim(10).await;
        assert!(claimed.has_more, "{damage}: another may be ready in its place");
        assert_eq!(ids(&jobs(claimed)), [job(1).id, job(3).id], "{damage}");
        assert_eq!(bed.state(2).await, 6, "{damage}: it is dead");
        let (code, message) = bed.failure(2).await;
        assert_eq!(code, "corrupt");
        assert!(message.contains(column), "{damage}: {message}");
        assert!(!bed.claim(10).await.has_more, "{damage}: it is over");
        // It goes the way of all that ended.
        let pruned = bed.store.prune(NOW + TTL, 10).await.unwrap();
        assert_eq!(pruned, 1, "{damage}");
    }
}

pub(crate) async fn a_broken_job_at_the_head_of_its_lane_does_not_stop_small_claims<D: Database>() {
    for (damage, _) in D::DAMAGE {
        let mut bed = Bed::<D>::new().await;
        bed.enqueue(2).await;
        bed.damage("UPDATE mamos_job SET priority = 9 WHERE seq = 2").await;
        bed.damage(damage).await;
        let mut claimed = bed.claim(1).await;
        if claimed.jobs.is_empty() {
            assert!(claimed.has_more, "{damage}");
            claimed = bed.claim(1).await;
        }
        assert_eq!(ids(&jobs(claimed)), [job(1).id], "{damage}");
    }
}

pub(crate) async fn people_see_why_a_job_with_broken_details_is_dead<D: Database>() {
    let mut bed = Bed::<D>::new().await;
    bed.enqueue(2).await;
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 2").await;
    assert_eq!(bed.store.job(job(2).id).await.unwrap_err().kind(), ErrorKind::Corrupt);
    bed.claim(10).await;
    let record = bed.store.job(job(2).id).await.unwrap().unwrap();
    assert_eq!((record.state, record.finished_at), (JobState::Dead, Some(NOW)));
    assert_eq!(record.failure.unwrap().code, "corrupt");
    assert!(bed.store.attempts(job(2).id).await.unwrap().is_empty(), "it never ran");
    // Made ready again, it is buried again, and the lane goes on.
    bed.store.redrive(vec![job(2).id], NOW).await.unwrap();
    assert_eq!(jobs(bed.claim(10).await).len(), 0);
    assert_eq!(bed.state(2).await, 6);
}

pub(crate) async fn lists_leave_out_only_what_cannot_be_understood<D: Database>() {
    let mut bed = Bed::<D>::new().await;
    bed.enqueue(3).await;
    bed.damage("UPDATE mamos_job SET state = 77 WHERE seq = 2").await;
    let page = bed.store.jobs(JobFilter::default(), PageRequest::first(2)).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.spec.id).collect::<Vec<_>>(), [job(3).id]);
    let next = PageRequest { limit: 2, after: page.next };
    let page = bed.store.jobs(JobFilter::default(), next).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.spec.id).collect::<Vec<_>>(), [job(1).id]);
    assert_eq!(bed.store.queues().await.unwrap()[0].count(JobState::Ready), 2);
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 1").await;
    let labels = Labels::new([("team", "a")]).unwrap();
    let filter = JobFilter { labels, ..JobFilter::default() };
    assert!(bed.store.jobs(filter, PageRequest::default()).await.unwrap().items.is_empty());
}

pub(crate) async fn a_report_about_a_broken_job_does_not_hold_up_the_others_of_its_batch<D: Database>() {
    let mut bed = Bed::<D>::new().await;
    bed.enqueue(3).await;
    let runs: Vec<RunRef> = jobs(bed.claim(10).await).iter().map(|job| job.run).collect();
    bed.damage("UPDATE mamos_job SET crashes = -3 WHERE seq = 2").await;
    let failure = mamos_core::job::Failure::new("exit_code", "1");
    let verdicts = bed.settle(&runs, Outcome::Retry { failure, after: None }).await;
    assert_eq!(verdicts, [Verdict::Applied, Verdict::Missing, Verdict::Applied]);
    assert_eq!(bed.state(2).await, 6);
    let (code, message) = bed.failure(2).await;
    assert_eq!(code, "corrupt");
    assert!(message.contains("crashes"), "{message}");
}

pub(crate) async fn broken_details_do_not_cost_a_run_that_goes_on_its_result<D: Database>() {
    let mut bed = Bed::<D>::new().await;
    bed.enqueue(2).await;
    let runs: Vec<RunRef> = jobs(bed.claim(10).await).iter().map(|job| job.run).collect();
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 2").await;
    let held = bed.store.held(bed.session.id).await.unwrap();
    assert_eq!(held.iter().map(|held| held.claimed.run).collect::<Vec<_>>(), [runs[0]]);
    // The agent comes back knowing both.
    let attached = attach(&*bed.store, &bed.agent, 2, runs.clone()).await;
    assert_eq!(attached.held.iter().map(|held| held.claimed.run).collect::<Vec<_>>(), [runs[0]]);
    assert_eq!((attached.returned.len(), attached.unknown.len()), (0, 0));
    bed.session = attached.session;
    let verdicts = bed.settle(&runs, Outcome::Succeeded { output: Bytes::new() }).await;
    assert_eq!(verdicts, [Verdict::Applied; 2]);
    assert_eq!(bed.state(2).await, 5);
}

pub(crate) async fn what_cannot_be_understood_is_buried_when_its_agent_comes_back<D: Database>() {
    let mut bed = Bed::<D>::new().await;
    bed.enqueue(2).await;
    let runs: Vec<RunRef> = jobs(bed.claim(10).await).iter().map(|job| job.run).collect();
    bed.damage("UPDATE mamos_job SET deliveries = -1 WHERE seq = 2").await;
    let attached = attach(&*bed.store, &bed.agent, 2, runs.clone()).await;
    assert_eq!(attached.held.iter().map(|held| held.claimed.run).collect::<Vec<_>>(), [runs[0]]);
    assert_eq!(attached.unknown, [runs[1]], "the agent must stop it");
    assert_eq!(bed.state(2).await, 6);
    bed.damage("UPDATE mamos_job SET deliveries = 0 WHERE seq = 2").await;
    let attempts = bed.store.attempts(job(2).id).await.unwrap();
    assert_eq!(attempts.len(), 1, "the run that it had is in its history");
    assert_eq!((attempts[0].run, attempts[0].end), (runs[1], Some(AttemptEnd::Buried)));
    assert_eq!(attempts[0].failure.as_ref().unwrap().code, "corrupt");
}

pub(crate) async fn a_sweep_gets_through_whatever_stands_in_the_rows<D: Database>() {
    let mut bed = Bed::<D>::new().await;
    let later = NOW + Duration::from_secs(5);
    let mut all: Vec<NewJob> = (1..=8).map(job).collect();
    for due in &mut all[4..6] {
        due.run_at = Some(later);
    }
    for overdue in &mut all[6..8] {
        overdue.deadline = Some(later);
    }
    bed.store.enqueue(all, NOW).await.unwrap();
    let held = jobs(bed.claim(4).await);
    assert_eq!(ids(&held), [job(1).id, job(2).id, job(3).id, job(4).id]);
    bed.damage("UPDATE mamos_spec SET details = '5' WHERE seq = 1").await;
    bed.damage("UPDATE mamos_job SET attempt = -1 WHERE seq = 2").await;
    bed.damage("UPDATE mamos_job SET crashes = -1 WHERE seq = 7").await;
    bed.damage("UPDATE mamos_agent SET profile = 'garbage'").await;
    let swept = bed.store.sweep(100, NOW + TTL).await.unwrap();
    assert_eq!(swept.promoted, 2);
    assert_eq!(swept.lost.len(), 1);
    let rescued: Vec<JobId> = swept.rescued.iter().map(|(run, _)| run.job).collect();
    assert_eq!(rescued, [job(1).id, job(3).id, job(4).id]);
    assert_eq!(swept.overdue.iter().map(|run| run.job).collect::<Vec<_>>(), [job(8).id]);
    assert!(!swept.has_more, "it does not go round and round");
    for seq in [2, 7] {
        assert_eq!(bed.state(seq).await, 6);
        assert_eq!(bed.failure(seq).await.0, "corrupt");
    }
}

pub(crate) async fn a_claim_of_large_payloads_gives_them_in_parts_and_says_so<D: Database>() {
    const MIB: usize = 1024 * 1024;
    let bed = Bed::<D>::new().await;
    // 70 MiB in all, so that three claims are needed, with small ones among the large.
    let payload = |n: u128| match n % 3 {
        0 => Bytes::from(format!("small {n}")),
        _ => Bytes::from(vec![n as u8; MIB]),
    };
    let all = (1..=105).map(|n| NewJob { payload: payload(n), ..job(n) }).collect();
    bed.store.enqueue(all, NOW).await.unwrap();
    let mut given = Vec::new();
    for has_more in [true, true, false] {
        let claimed = bed.claim(10_000).await;
        assert_eq!(claimed.has_more, has_more, "after {}", given.len());
        let part = jobs(claimed);
        let bytes: usize = part.iter().map(|job| job.payload.len()).sum();
        assert!(bytes <= 32 * MIB, "{bytes}");
        given.extend(part);
    }
    assert_eq!(ids(&given), (1..=105).map(|n| job(n).id).collect::<Vec<_>>(), "in order, each once");
    for (n, job) in (1..).zip(&given) {
        assert_eq!(job.payload, payload(n));
    }
    assert!(jobs(bed.claim(10_000).await).is_empty());
}
