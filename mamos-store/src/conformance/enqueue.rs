//! Promises about storing jobs.

use std::sync::Arc;

use bytes::Bytes;
use mamos_core::job::labels::Labels;
use mamos_core::job::{Counters, NewJob, Priority, UniqueKey};
use mamos_core::lease::Epoch;
use mamos_core::store::{ChangeVerdict, EnqueueResult, JobFilter, PageRequest};
use mamos_core::{JobState, Store};

use super::scene::{
    SECOND, at, bury, cancel_request, claim, enqueue, job, job_id, job_in, lane, leased, record, session,
    settle, state, succeeded,
};

fn keyed(n: u64) -> NewJob {
    NewJob { unique_key: Some(UniqueKey::new("order-4711").unwrap()), ..job(n) }
}

pub async fn a_job_is_stored_in_its_first_state(store: &Arc<dyn Store>) {
    let jobs = vec![
        job(1),
        NewJob { run_at: Some(at(11)), ..job(2) },
        NewJob { run_at: Some(at(10)), ..job(3) },
        NewJob { needs_approval: true, run_at: Some(at(11)), ..job(4) },
    ];
    let stored = [JobState::Ready, JobState::Scheduled, JobState::Ready, JobState::Blocked];
    assert_eq!(enqueue(store, jobs, at(10)).await, stored.map(EnqueueResult::Stored));
    for (n, wanted) in (1..).zip(stored) {
        assert_eq!(state(store, job_id(n)).await, wanted);
    }
}

pub async fn a_stored_job_reads_back_as_it_was_given(store: &Arc<dyn Store>) {
    let full = NewJob {
        payload: Bytes::from_static(b"\x00\xff not text"),
        priority: Priority(-7),
        run_at: Some(at(5)),
        deadline: Some(at(500)),
        timeout: Some(90 * SECOND),
        max_crashes: 9,
        unique_key: Some(UniqueKey::new("k").unwrap()),
        labels: Labels::new([("zone", "eu"), ("tier", "")]).unwrap(),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        ..job(1)
    };
    enqueue(store, vec![full.clone()], at(1)).await;
    let read = record(store, job_id(1)).await;
    assert_eq!(read.spec, full);
    assert_eq!((read.state, read.epoch), (JobState::Scheduled, Epoch::NEVER));
    assert_eq!(read.counters, Counters::default());
    assert_eq!((read.created_at, read.run_at), (at(1), at(5)));
    assert_eq!((read.leased_at, read.started_at, read.finished_at), (None, None, None));
    assert_eq!((read.session, read.agent, read.cancel), (None, None, None));
    assert_eq!((read.progress, read.output, read.failure), (None, None, None));
}

pub async fn every_job_of_a_batch_is_stored(store: &Arc<dyn Store>) {
    let answers = enqueue(store, (0..500).map(job).collect(), at(0)).await;
    assert!(answers.iter().all(|answer| *answer == EnqueueResult::Stored(JobState::Ready)));
    for n in 0..500 {
        assert_eq!(record(store, job_id(n)).await.spec.payload, job(n).payload);
    }
}

pub async fn an_empty_batch_changes_nothing(store: &Arc<dyn Store>) {
    assert_eq!(enqueue(store, Vec::new(), at(0)).await, []);
    assert!(store.report(Vec::new(), at(0)).await.unwrap().is_empty());
    assert!(store.claim(Vec::new(), at(0)).await.unwrap().jobs.is_empty());
    assert!(store.jobs(JobFilter::default(), PageRequest::default()).await.unwrap().items.is_empty());
}

pub async fn storing_a_job_again_changes_nothing(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    enqueue(store, vec![job(1)], at(0)).await;
    let before = record(store, job_id(1)).await;
    let later = NewJob { priority: Priority(9), run_at: Some(at(99)), ..job(1) };
    assert_eq!(enqueue(store, vec![later], at(9)).await, [EnqueueResult::Repeat(JobState::Ready)]);
    assert_eq!(record(store, job_id(1)).await, before);

    let run = claim(store, session, 1, at(1)).await[0].run;
    assert_eq!(enqueue(store, vec![job(1)], at(2)).await, [EnqueueResult::Repeat(JobState::Leased)]);
    settle(store, session, run, succeeded(), at(3)).await;
    assert_eq!(enqueue(store, vec![job(1)], at(4)).await, [EnqueueResult::Repeat(JobState::Succeeded)]);
    assert!(claim(store, session, 9, at(5)).await.is_empty());
}

pub async fn a_job_that_is_twice_in_a_batch_is_stored_once(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let answers = enqueue(store, vec![job(1), job(2), job(1)], at(0)).await;
    let (stored, repeat) = (EnqueueResult::Stored(JobState::Ready), EnqueueResult::Repeat(JobState::Ready));
    assert_eq!(answers, [stored, stored, repeat]);
    assert_eq!(claim(store, session, 9, at(1)).await.len(), 2);
}

pub async fn an_id_that_is_taken_by_another_job_is_refused(store: &Arc<dyn Store>) {
    enqueue(store, vec![job(1)], at(0)).await;
    let other_payload = NewJob { payload: Bytes::from_static(b"other"), ..job(1) };
    let other_lane = job_in(1, lane("other", "kit.work"));
    let answers = enqueue(store, vec![other_payload, other_lane, job(2)], at(1)).await;
    let stored = EnqueueResult::Stored(JobState::Ready);
    assert_eq!(answers, [EnqueueResult::IdTaken, EnqueueResult::IdTaken, stored]);
    assert_eq!(record(store, job_id(1)).await.spec, job(1));
}

pub async fn a_unique_key_is_held_until_its_job_ends(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let (stored, taken) =
        (EnqueueResult::Stored(JobState::Ready), EnqueueResult::UniqueKeyTaken { by: job_id(1) });
    // Within the batch too; the others of the batch are stored.
    let answers = enqueue(store, vec![keyed(1), keyed(2), job(3)], at(0)).await;
    assert_eq!(answers, [stored, taken, stored]);
    assert!(store.job(job_id(2)).await.unwrap().is_none());

    let claimed = claim(store, session, 1, at(1)).await;
    assert_eq!(enqueue(store, vec![keyed(2)], at(2)).await, [taken]);
    settle(store, session, claimed[0].run, succeeded(), at(3)).await;
    assert_eq!(enqueue(store, vec![keyed(2)], at(4)).await, [stored]);
    // A repeat is a repeat, whoever has the key now.
    assert_eq!(enqueue(store, vec![keyed(1)], at(5)).await, [EnqueueResult::Repeat(JobState::Succeeded)]);

    store.cancel(vec![job_id(2)], cancel_request(), at(6)).await.unwrap();
    assert_eq!(enqueue(store, vec![keyed(4)], at(7)).await, [stored]);
}

pub async fn a_unique_key_counts_within_its_kind_only(store: &Arc<dyn Store>) {
    let stored = EnqueueResult::Stored(JobState::Ready);
    let of_kind = |n, kind| NewJob { lane: lane("main", kind), ..keyed(n) };
    assert_eq!(enqueue(store, vec![of_kind(1, "a"), of_kind(2, "b")], at(0)).await, [stored, stored]);
    // In another queue it is the same kind still.
    let elsewhere = NewJob { lane: lane("other", "a"), ..keyed(3) };
    let taken = EnqueueResult::UniqueKeyTaken { by: job_id(1) };
    assert_eq!(enqueue(store, vec![elsewhere], at(1)).await, [taken]);
}

pub async fn a_redrive_is_refused_while_another_has_the_unique_key(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = leased(store, session, keyed(1), at(0)).await;
    settle(store, session, run, bury(), at(1)).await;
    enqueue(store, vec![keyed(2)], at(2)).await;
    let answers = store.redrive(vec![job_id(1)], at(3)).await.unwrap();
    assert_eq!(answers, [ChangeVerdict::UniqueKeyTaken { by: job_id(2) }]);
    assert_eq!(state(store, job_id(1)).await, JobState::Dead);

    store.cancel(vec![job_id(2)], cancel_request(), at(4)).await.unwrap();
    let lane = job(1).lane.id();
    assert_eq!(store.redrive(vec![job_id(1)], at(5)).await.unwrap(), [ChangeVerdict::Ready(lane)]);
    // And the key is held again.
    let taken = EnqueueResult::UniqueKeyTaken { by: job_id(1) };
    assert_eq!(enqueue(store, vec![keyed(3)], at(6)).await, [taken]);
}

pub async fn many_enqueues_at_once_store_a_unique_key_once(store: &Arc<dyn Store>) {
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = Arc::clone(store);
            tokio::spawn(async move { enqueue(&store, vec![keyed(n)], at(0)).await[0] })
        })
        .collect();
    let mut stored = 0;
    for task in tasks {
        match task.await.unwrap() {
            EnqueueResult::Stored(_) => stored += 1,
            other => assert!(matches!(other, EnqueueResult::UniqueKeyTaken { .. }), "{other:?}"),
        }
    }
    assert_eq!(stored, 1);
}
