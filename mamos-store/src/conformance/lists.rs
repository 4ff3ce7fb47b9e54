//! Promises about lists of jobs.

use std::sync::Arc;

use mamos_core::job::NewJob;
use mamos_core::job::labels::Labels;
use mamos_core::store::{JobFilter, PageRequest};
use mamos_core::{JobId, JobState, Store};

use super::scene::{
    agent_id, at, cancel_request, claim, enqueue, job, job_id, job_in, lane, report, session,
};

async fn listed(store: &Arc<dyn Store>, filter: JobFilter, size: u32) -> Vec<JobId> {
    let (mut ids, mut after) = (Vec::new(), None);
    for _ in 0..1000 {
        let page = store.jobs(filter.clone(), PageRequest { limit: size, after }).await.unwrap();
        assert!(page.items.len() <= size as usize);
        ids.extend(page.items.iter().map(|record| record.spec.id));
        after = page.next;
        if after.is_none() {
            return ids;
        }
    }
    panic!("the pages do not come to an end");
}

pub async fn jobs_are_listed_newest_first_each_once(store: &Arc<dyn Store>) {
    // Two a moment, so that the time alone does not tell them apart.
    for n in 0..10 {
        enqueue(store, vec![job(2 * n), job(2 * n + 1)], at(n)).await;
    }
    for size in [1, 2, 3, 7, 20, 21, 1000] {
        let ids = listed(store, JobFilter::default(), size).await;
        assert_eq!(ids, (0..20).rev().map(job_id).collect::<Vec<_>>(), "pages of {size}");
    }
}

pub async fn a_list_does_not_repeat_or_miss_jobs_while_it_changes(store: &Arc<dyn Store>) {
    enqueue(store, (0..10).map(job).collect(), at(0)).await;
    let first = store.jobs(JobFilter::default(), PageRequest::first(4)).await.unwrap();
    enqueue(store, (10..15).map(job).collect(), at(1)).await;
    store.cancel(vec![job_id(9), job_id(3)], cancel_request(), at(2)).await.unwrap();
    let request = PageRequest { limit: 100, after: first.next };
    let rest = store.jobs(JobFilter::default(), request).await.unwrap();
    let ids: Vec<_> = first.items.iter().chain(&rest.items).map(|record| record.spec.id).collect();
    assert_eq!(ids, (0..10).rev().map(job_id).collect::<Vec<_>>());
    assert_eq!(rest.next, None);
}

pub async fn a_filter_gives_exactly_what_fits(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let labels = |pairs: &[(&str, &str)]| Labels::new(pairs.iter().copied()).unwrap();
    let jobs = vec![
        job_in(1, lane("a", "x")),
        NewJob { labels: labels(&[("zone", "eu"), ("tier", "1")]), ..job_in(2, lane("a", "y")) },
        NewJob { labels: labels(&[("zone", "us")]), ..job_in(3, lane("b", "x")) },
        NewJob { needs_approval: true, labels: labels(&[("zone", "eu")]), ..job_in(4, lane("b", "x")) },
        job(5),
    ];
    enqueue(store, jobs, at(0)).await;
    claim(store, session, 1, at(1)).await;
    let all = JobFilter::default;
    let cases = [
        (all(), vec![5, 4, 3, 2, 1]),
        (JobFilter { states: vec![JobState::Ready], ..all() }, vec![3, 2, 1]),
        (JobFilter { states: vec![JobState::Blocked, JobState::Leased], ..all() }, vec![5, 4]),
        (JobFilter { states: vec![JobState::Dead], ..all() }, vec![]),
        (JobFilter { queue: Some("a".parse().unwrap()), ..all() }, vec![2, 1]),
        (JobFilter { kind: Some("x".parse().unwrap()), ..all() }, vec![4, 3, 1]),
        (JobFilter { agent: Some(agent_id(1)), ..all() }, vec![5]),
        (JobFilter { agent: Some(agent_id(404)), ..all() }, vec![]),
        (JobFilter { labels: labels(&[("zone", "eu")]), ..all() }, vec![4, 2]),
        (JobFilter { labels: labels(&[("zone", "eu"), ("tier", "1")]), ..all() }, vec![2]),
        (
            JobFilter {
                queue: Some("b".parse().unwrap()),
                kind: Some("x".parse().unwrap()),
                states: vec![JobState::Ready],
                labels: labels(&[("zone", "us")]),
                agent: None,
            },
            vec![3],
        ),
    ];
    for (filter, wanted) in cases {
        for size in [1, 2, 100] {
            let ids = listed(store, filter.clone(), size).await;
            assert_eq!(ids, wanted.iter().copied().map(job_id).collect::<Vec<_>>(), "{filter:?}");
        }
    }
}

pub async fn the_agent_that_held_a_job_last_finds_it(store: &Arc<dyn Store>) {
    let (one, two) = (session(store, 1).await, session(store, 2).await);
    let run = super::scene::leased(store, one, job(1), at(0)).await;
    report(store, one, run, mamos_core::store::Report::Release, at(1)).await;
    let of = |n| JobFilter { agent: Some(agent_id(n)), ..JobFilter::default() };
    assert_eq!(listed(store, of(1), 10).await, [job_id(1)]);
    claim(store, two, 1, at(2)).await;
    assert!(listed(store, of(1), 10).await.is_empty());
    assert_eq!(listed(store, of(2), 10).await, [job_id(1)]);
}

pub async fn the_size_of_a_page_is_brought_within_its_bounds(store: &Arc<dyn Store>) {
    enqueue(store, (0..1001).map(job).collect(), at(0)).await;
    let page = store.jobs(JobFilter::default(), PageRequest::first(0)).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let page = store.jobs(JobFilter::default(), PageRequest::first(u32::MAX)).await.unwrap();
    assert_eq!(page.items.len(), 1000);
    assert!(page.next.is_some());
}

pub async fn a_listed_job_is_the_stored_one(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = super::scene::running(store, session, job(1), at(0)).await;
    super::scene::settle(store, session, run, super::scene::retry(), at(1)).await;
    let page = store.jobs(JobFilter::default(), PageRequest::default()).await.unwrap();
    assert_eq!(page.items, [super::scene::record(store, job_id(1)).await]);
}
