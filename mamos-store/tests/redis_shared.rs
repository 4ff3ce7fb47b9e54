//! Several orchestrators on one Redis.

#![cfg(feature = "redis")]

#[path = "support/redis.rs"]
mod support;

use std::collections::HashMap;
use std::sync::Arc;

use mamos_core::JobState;
use mamos_core::job::{CancelRequest, NewJob};
use mamos_core::lease::Verdict;
use mamos_core::store::{JobFilter, JobStore, PageRequest, QueueStore};
use mamos_store::RedisStore;

use crate::support::{NOW, Prefix, TTL, claim, job, runs, session, settle};

const STORES: u8 = 4;
const JOBS: u128 = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_is_claimed_once_and_ends_once_however_many_orchestrators_there_are() {
    let prefix = Prefix::shared();
    let mut workers = Vec::new();
    for n in 1..=STORES {
        let store = Arc::new(RedisStore::open(prefix.settings()).await.unwrap());
        workers.push(tokio::spawn(async move {
            let session = session(&*store, n).await.unwrap();
            // All enqueue the same jobs, and none is stored twice.
            for first in (0..JOBS).step_by(100) {
                let jobs = (first..first + 100).map(|n| NewJob { deadline: Some(NOW + TTL), ..job(n) });
                store.enqueue(jobs.collect(), NOW).await.unwrap();
                store.sweep(100, NOW).await.unwrap();
            }
            let mut taken = Vec::new();
            loop {
                let claimed = runs(&claim(&*store, session, 37).await.unwrap());
                if claimed.is_empty() {
                    return taken;
                }
                let request = CancelRequest::new("a test", TTL);
                // Some are changed behind the back of what the store remembers.
                store.cancel(vec![claimed[0].job], request, NOW).await.unwrap();
                let writes = claimed.iter().map(|run| settle(session, *run)).collect();
                let reported = store.report(writes, NOW).await.unwrap();
                assert!(reported.iter().all(|reported| reported.verdict == Verdict::Applied));
                taken.extend(claimed);
            }
        }));
    }
    let mut claims = HashMap::new();
    for worker in workers {
        for run in worker.await.unwrap() {
            *claims.entry(run.job).or_insert(0) += 1;
            assert_eq!(run.epoch.number(), 1);
        }
    }
    assert_eq!(claims.len(), JOBS as usize);
    assert!(claims.values().all(|times| *times == 1));
    let store = RedisStore::open(prefix.settings()).await.unwrap();
    let queues = store.queues().await.unwrap();
    assert_eq!(queues[0].count(JobState::Succeeded), JOBS as u64);
    let swept = store.sweep(10, NOW + TTL * 2).await.unwrap();
    assert_eq!(swept.overdue, [], "an end takes the deadline away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pruned_leaves_no_key_behind() {
    let prefix = Prefix::shared();
    let store = RedisStore::open(prefix.settings()).await.unwrap();
    let session = session(&store, 1).await.unwrap();
    store.enqueue((0..500).map(job).collect(), NOW).await.unwrap();
    loop {
        let claimed = runs(&claim(&store, session, 100).await.unwrap());
        if claimed.is_empty() {
            break;
        }
        store.report(claimed.iter().map(|run| settle(session, *run)).collect(), NOW).await.unwrap();
    }
    let mut pruned = 0;
    while let count @ 1.. = store.prune(NOW + TTL, 70).await.unwrap() {
        pruned += count;
    }
    assert_eq!(pruned, 500);
    assert_eq!(store.jobs(JobFilter::default(), PageRequest::first(10)).await.unwrap().items, []);
    let keys: Vec<String> =
        prefix.keys().iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    for gone in ["jobs", "runs", "outputs", "order", "ended", "ready", "held:"] {
        let gone = prefix.key(gone);
        assert!(!keys.iter().any(|key| key.starts_with(&gone)), "{gone} is left: {keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_payloads_come_in_parts() {
    let prefix = Prefix::shared();
    let store = RedisStore::open(prefix.settings()).await.unwrap();
    let session = session(&store, 1).await.unwrap();
    let payload = bytes::Bytes::from(vec![b'x'; 1024 * 1024]);
    for n in 0..40 {
        let large = NewJob { payload: payload.clone(), ..job(n) };
        store.enqueue(vec![large], NOW).await.unwrap();
    }
    let first = claim(&store, session, 100).await.unwrap();
    assert!(first.has_more);
    let mut taken = runs(&first);
    assert!(!taken.is_empty() && taken.len() < 40, "{}", taken.len());
    taken.extend(runs(&claim(&store, session, 100).await.unwrap()));
    let ids: Vec<_> = taken.iter().map(|run| run.job).collect();
    assert_eq!(ids, (0..40).map(|n| job(n).id).collect::<Vec<_>>(), "in order, each once");
}
