//! The fault injector does what it says.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::time::Duration;

use mamos_core::clock::Timestamp;
use mamos_core::id::{JobKind, QueueName};
use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::store::JobStore;
use mamos_core::{ErrorKind, JobId};
use mamos_store::MemoryStore;
use mamos_store::faulty::{Faults, Faulty};

const NEVER: Faults =
    Faults { error_before: 0.0, error_after: 0.0, delay: 0.0, max_delay: Duration::from_secs(3600) };

fn job(n: u128) -> NewJob {
    let lane = Lane::new(QueueName::default_queue(), JobKind::new("k").unwrap(), Selector::any());
    NewJob::new(JobId::from_parts(Timestamp::EPOCH, n), lane.into(), Default::default())
}

async fn is_stored(store: &Faulty<MemoryStore>, n: u128) -> bool {
    store.inner().job(job(n).id).await.unwrap().is_some()
}

#[tokio::test]
async fn an_error_before_does_nothing_and_an_error_after_does_it() {
    let before = Faulty::new(MemoryStore::new(), Faults { error_before: 1.0, ..NEVER }, 1);
    let error = before.enqueue(vec![job(1)], Timestamp::EPOCH).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!is_stored(&before, 1).await);

    let after = Faulty::new(MemoryStore::new(), Faults { error_after: 1.0, ..NEVER }, 1);
    let error = after.enqueue(vec![job(1)], Timestamp::EPOCH).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(is_stored(&after, 1).await);
    assert_eq!((after.counts().errors_before, after.counts().errors_after), (0, 1));
}

#[tokio::test]
async fn faults_can_be_switched_off() {
    let store = Faulty::new(MemoryStore::new(), Faults { error_before: 1.0, ..NEVER }, 1);
    store.set_faults(false);
    assert!(store.enqueue(vec![job(1)], Timestamp::EPOCH).await.is_ok());
    store.set_faults(true);
    assert!(store.enqueue(vec![job(2)], Timestamp::EPOCH).await.is_err());
    assert_eq!((store.counts().calls, store.counts().errors_before), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_a_wait_of_the_timer() {
    let store = Faulty::new(MemoryStore::new(), Faults { delay: 1.0, ..NEVER }, 1);
    let begin = tokio::time::Instant::now();
    for n in 0..10 {
        store.enqueue(vec![job(n)], Timestamp::EPOCH).await.unwrap();
    }
    assert!(begin.elapsed() > Duration::from_secs(3600), "half an hour each, on average");
    assert_eq!(store.counts().delays, 10);
}

#[tokio::test(start_paused = true)]
async fn the_seed_decides_which_calls_fail() {
    let run = async |seed| {
        let store = Faulty::new(MemoryStore::new(), Faults { error_after: 0.3, ..Faults::default() }, seed);
        let mut failed = Vec::new();
        for n in 0..200 {
            failed.push(store.enqueue(vec![job(n)], Timestamp::EPOCH).await.is_err());
        }
        failed
    };
    let first = run(7).await;
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
    let failed = first.iter().filter(|failed| **failed).count();
    assert!((40..100).contains(&failed), "{failed} of 200");
}
