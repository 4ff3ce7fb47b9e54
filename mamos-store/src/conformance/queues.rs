//! Promises about queues and lanes.

use std::collections::HashSet;
use std::sync::Arc;

use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::{JobState, QueueName, Store};

use super::scene::{
    at, cancel_request, claim, claim_all, enqueue, job, job_id, job_in, job_in_state, lane, main_lane,
    session,
};

fn name(text: &str) -> QueueName {
    text.parse().unwrap()
}

pub async fn queues_are_counted_by_state(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    for (n, state) in (1..).zip(JobState::ALL) {
        for (queue, offset) in [("b", 0), ("a", 100)] {
            // A lane of its own, so that what the scene claims is this job.
            let lane = lane(queue, &format!("kind-{n}"));
            job_in_state(store, session, job_in(n + offset, lane), state, at(n)).await;
        }
    }
    enqueue(store, vec![job_in(50, lane("b", "k"))], at(3)).await;
    let queues = store.queues().await.unwrap();
    assert_eq!(queues.iter().map(|queue| queue.queue.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    for state in JobState::ALL {
        let counts: Vec<_> = queues.iter().map(|queue| queue.count(state)).collect();
        assert_eq!(counts, if state == JobState::Ready { [1, 2] } else { [1, 1] }, "{state}");
    }
    assert!(queues.iter().all(|queue| !queue.is_paused));
}

pub async fn the_oldest_ready_job_is_told(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run_at = |n, seconds| NewJob { run_at: Some(at(seconds)), ..job(n) };
    enqueue(store, vec![run_at(1, 5), run_at(2, 3), run_at(3, 50)], at(9)).await;
    assert_eq!(store.queues().await.unwrap()[0].oldest_ready, Some(at(3)));
    claim(store, session, 2, at(9)).await;
    assert_eq!(store.queues().await.unwrap()[0].oldest_ready, None, "waiting and held jobs do not count");
}

pub async fn pausing_is_remembered_for_queues_without_jobs(store: &Arc<dyn Store>) {
    assert!(store.queues().await.unwrap().is_empty());
    for _ in 0..2 {
        store.set_paused(&name("empty"), true).await.unwrap();
        assert_eq!(store.paused_queues().await.unwrap(), [name("empty")]);
    }
    let queues = store.queues().await.unwrap();
    assert_eq!((queues.len(), queues[0].is_paused, queues[0].oldest_ready), (1, true, None));
    for _ in 0..2 {
        store.set_paused(&name("empty"), false).await.unwrap();
        assert!(store.paused_queues().await.unwrap().is_empty());
    }
    assert_eq!(store.queues().await.unwrap().len(), 1, "it was paused once");
}

pub async fn lanes_are_told_while_they_hold_a_ready_job(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let ready = async || -> HashSet<_> {
        let lanes = store.ready_lanes().await.unwrap();
        let ids: HashSet<_> = lanes.iter().map(|lane| lane.id()).collect();
        assert_eq!(ids.len(), lanes.len(), "each once");
        ids
    };
    assert!(ready().await.is_empty());
    let (a, b) = (lane("a", "k"), lane("b", "k"));
    let jobs = vec![
        job_in(1, Arc::clone(&a)),
        job_in(2, Arc::clone(&a)),
        NewJob { run_at: Some(at(5)), ..job_in(3, Arc::clone(&b)) },
    ];
    enqueue(store, jobs, at(0)).await;
    assert_eq!(ready().await, HashSet::from([a.id()]));
    store.set_paused(a.queue(), true).await.unwrap();
    store.sweep(10, at(5)).await.unwrap();
    assert_eq!(ready().await, HashSet::from([a.id(), b.id()]), "paused or not");
    store.set_paused(a.queue(), false).await.unwrap();
    claim_all(store, &[a.id()], &[(session, 1)], at(6)).await;
    assert_eq!(ready().await, HashSet::from([a.id(), b.id()]));
    store.cancel(vec![job_id(1), job_id(2)], cancel_request(), at(7)).await.unwrap();
    claim_all(store, &[b.id()], &[(session, 1)], at(7)).await;
    assert!(ready().await.is_empty());
}

pub async fn a_lane_reads_back_whole(store: &Arc<dyn Store>) {
    let selector: Selector = "zone=eu|us,gpu,!spot,tier!=test".parse().unwrap();
    let lane = Arc::new(Lane::new(name("q"), "command:disk-usage".parse().unwrap(), selector));
    enqueue(store, vec![job_in(1, Arc::clone(&lane)), job(2)], at(0)).await;
    let lanes = store.ready_lanes().await.unwrap();
    assert!(lanes.contains(&lane) && lanes.contains(&main_lane()), "{lanes:?}");
}
