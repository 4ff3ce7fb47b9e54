//! A long backlog is taken in order and whole, although claims do not begin at the front of the index each time.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::{NewJob, Priority};
use mamos_core::lease::SessionRef;
use mamos_core::store::{ClaimGroup, JobStore, Store, Taker};
use mamos_store::conformance::session_at;
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::PostgresSchema;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
/// In each of two lanes. Longer than a backlog need be for claims to begin behind its front.
const JOBS: u64 = 30_000;
const AT_ONCE: u32 = 700;

fn lane(n: u64) -> Arc<Lane> {
    Arc::new(Lane::new("main".parse().unwrap(), format!("kind-{n}").parse().unwrap(), Selector::any()))
}

/// Job `n` is due that many milliseconds after the others began.
fn job(n: u64, lane: &Arc<Lane>, priority: i16) -> NewJob {
    let payload = Bytes::from_static(b"payload");
    let mut job = NewJob::new(JobId::from_parts(NOW, u128::from(n)), Arc::clone(lane), payload);
    job.priority = Priority(priority);
    job.run_at = Some(NOW + Duration::from_millis(n));
    job
}

/// All that a claim gives, in order.
async fn claim(store: &PostgresStore, lanes: &[LaneId], session: SessionRef) -> Vec<JobId> {
    let group = ClaimGroup { lanes: lanes.to_vec(), takers: vec![Taker { session, limit: AT_ONCE }] };
    let claimed = store.claim(vec![group], NOW + Duration::from_secs(3000)).await.unwrap();
    claimed.jobs.into_iter().flat_map(|(_, jobs)| jobs).map(|job| job.run.job).collect()
}

/// Takes the backlog of two lanes among so many, with three priorities, while others add to it.
async fn taken_in_order(lanes: u64) {
    let schema = PostgresSchema::unique();
    let settings = || PostgresSettings::new(schema.url()).schema(schema.name()).connections(2);
    let store = PostgresStore::open(settings()).await.unwrap();
    let others = PostgresStore::open(settings()).await.unwrap();
    let all = JOBS * lanes.min(2);
    let lanes: Vec<Arc<Lane>> = (0..lanes).map(lane).collect();
    let ids: Vec<LaneId> = lanes.iter().map(|lane| lane.id()).collect();
    // All lanes are known to the store, but only some hold a backlog.
    let mut jobs: Vec<NewJob> = lanes.iter().zip(all..).map(|(lane, n)| job(n, lane, 0)).collect();
    // Most have one priority; the last third alternates with less urgent ones.
    let priority = |n: u64| if n > all * 2 / 3 { [0, -5, -9][n as usize % 3] } else { 0 };
    jobs.extend((0..all).map(|n| job(n, &lanes[n as usize % lanes.len().min(2)], priority(n))));
    let key: HashMap<JobId, (i16, Timestamp)> =
        jobs.iter().map(|job| (job.id, (-job.priority.0, job.run_at.unwrap()))).collect();
    let now = NOW + Duration::from_secs(3000);
    for jobs in jobs.chunks(5_000) {
        others.enqueue(jobs.to_vec(), now).await.unwrap();
    }
    let store = Arc::new(store);
    let session = session_at(&(Arc::clone(&store) as Arc<dyn Store>), 1, now).await;
    let mut taken: Vec<JobId> = Vec::new();
    let mut extra = Vec::new();
    let mut urgent_next = None;
    let mut overdue_since = None;
    loop {
        let claimed = claim(&store, &ids, session).await;
        if claimed.is_empty() {
            break;
        }
        if let Some(urgent) = urgent_next.take() {
            assert_eq!(claimed.first(), Some(&urgent), "after {} jobs", taken.len());
        }
        if let Some((overdue, since)) = overdue_since
            && claimed.contains(&overdue)
        {
            // Passed over for a tenth of a second at most, and what a busy machine adds.
            assert!(Instant::now().duration_since(since) < Duration::from_secs(2));
            overdue_since = None;
        }
        taken.extend(claimed);
        if taken.len() / 2_500 > extra.len() && overdue_since.is_none() {
            // Somebody else has something urgent: it comes next. And something that was due long ago.
            let n = 2 * all + extra.len() as u64;
            let (mut urgent, mut overdue) = (job(n, &lanes[0], i16::MAX), job(n + all, &lanes[0], 0));
            (urgent.run_at, overdue.run_at) = (Some(NOW), Some(NOW));
            (urgent_next, overdue_since) = (Some(urgent.id), Some((overdue.id, Instant::now())));
            extra.extend([urgent.id, overdue.id]);
            others.enqueue(vec![urgent, overdue], now).await.unwrap();
        }
    }
    assert_eq!(overdue_since, None, "the job that was due long ago came never");
    assert!(extra.len() >= 8, "{}", extra.len());
    let planned: Vec<_> = taken.iter().filter_map(|id| key.get(id)).collect();
    assert!(planned.is_sorted(), "the order of claims");
    let mut unique = taken.clone();
    unique.sort_unstable();
    unique.dedup();
    let stored = key.len() + extra.len();
    assert_eq!((unique.len(), taken.len()), (stored, stored), "each once");
    others.close().await;
    store.close().await;
}

#[tokio::test]
async fn one_lane_is_taken_in_order_and_whole() {
    taken_in_order(1).await;
}

#[tokio::test]
async fn a_few_lanes_are_taken_in_order_and_whole() {
    taken_in_order(3).await;
}

#[tokio::test]
async fn very_many_lanes_are_taken_in_order_and_whole() {
    taken_in_order(70).await;
}
