//! Promises about what people do to jobs: cancel, redrive, approve, prune.

use std::sync::Arc;

use mamos_core::job::rules::after_rescue;
use mamos_core::job::{CancelRequest, Counters, NewJob};
use mamos_core::store::{CancelVerdict, ChangeVerdict};
use mamos_core::{JobState, Store};

use super::scene::{
    SECOND, at, bury, cancel_request, claim, enqueue, job, job_id, job_in_state, leased, piece, record,
    report, retry, running, session, settle, state, succeeded,
};

pub async fn every_state_is_cancelled_as_it_must_be(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    for (n, before) in (1..).zip(JobState::ALL) {
        job_in_state(store, session, job(n), before, at(0)).await;
        let old = record(store, job_id(n)).await;
        let verdict = store.cancel(vec![job_id(n)], cancel_request(), at(9)).await.unwrap();
        let read = record(store, job_id(n)).await;
        match before {
            JobState::Blocked | JobState::Scheduled | JobState::Ready => {
                assert_eq!(verdict, [CancelVerdict::Cancelled], "{before}");
                assert_eq!((read.state, read.finished_at), (JobState::Cancelled, Some(at(9))));
                assert_eq!(read.cancel, Some(cancel_request()));
                // Asking again finds it ended.
                let again = store.cancel(vec![job_id(n)], cancel_request(), at(9)).await.unwrap();
                assert_eq!(again, [CancelVerdict::AlreadyEnded(JobState::Cancelled)]);
            }
            JobState::Leased | JobState::Running => {
                let run = mamos_core::lease::RunRef { job: job_id(n), epoch: read.epoch };
                assert_eq!(verdict, [CancelVerdict::Requested { run, session: session.id }], "{before}");
                assert_eq!((read.state, read.cancel), (before, Some(cancel_request())));
            }
            JobState::Succeeded | JobState::Dead | JobState::Cancelled => {
                assert_eq!(verdict, [CancelVerdict::AlreadyEnded(before)]);
                assert_eq!(read, old, "{before}");
            }
        }
        if let Some(held) = store.held(session.id).await.unwrap().pop() {
            settle(store, session, held.claimed.run, bury(), at(9)).await;
        }
    }
}

pub async fn cancel_verdicts_stand_in_the_order_of_the_jobs(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    enqueue(store, vec![job(2)], at(0)).await;
    let ids = [404, 2, 1, 2].map(job_id).to_vec();
    let wanted = [
        CancelVerdict::Missing,
        CancelVerdict::Cancelled,
        CancelVerdict::Requested { run, session: session.id },
        CancelVerdict::AlreadyEnded(JobState::Cancelled),
    ];
    assert_eq!(store.cancel(ids, cancel_request(), at(1)).await.unwrap(), wanted);
}

pub async fn the_first_cancel_request_stays(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let first = CancelRequest::new("first", 3 * SECOND);
    let second = CancelRequest::new("second", 9 * SECOND);
    for request in [&first, &second, &first] {
        let verdict = store.cancel(vec![job_id(1)], request.clone(), at(1)).await.unwrap();
        assert_eq!(verdict, [CancelVerdict::Requested { run, session: session.id }]);
    }
    assert_eq!(record(store, job_id(1)).await.cancel, Some(first.clone()));
    assert_eq!(store.held(session.id).await.unwrap()[0].cancel, Some(first));
}

pub async fn a_cancelled_run_that_comes_back_is_not_tried_again(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    store.cancel(vec![job_id(1)], cancel_request(), at(1)).await.unwrap();
    let facts = record(store, job_id(1)).await.run_facts();
    assert_eq!(after_rescue(&facts, at(2)).state, JobState::Cancelled);
    let settled = settle(store, session, run, retry(), at(2)).await;
    assert_eq!((settled.state, settled.run_at), (Some(JobState::Cancelled), None));
}

pub async fn work_that_was_done_before_the_cancel_arrived_counts(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    store.cancel(vec![job_id(1)], cancel_request(), at(1)).await.unwrap();
    assert_eq!(settle(store, session, run, succeeded(), at(2)).await.state, Some(JobState::Succeeded));
}

pub async fn a_redriven_job_starts_afresh_but_keeps_its_epoch(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let spec = NewJob { deadline: Some(at(20)), max_crashes: 1, ..job(1) };
    let run = running(store, session, spec, at(0)).await;
    store.cancel(vec![job_id(1)], cancel_request(), at(1)).await.unwrap();
    settle(store, session, run, bury(), at(2)).await;
    let lane = job(1).lane.id();
    assert_eq!(store.redrive(vec![job_id(1)], at(3)).await.unwrap(), [ChangeVerdict::Ready(lane)]);
    let read = record(store, job_id(1)).await;
    assert_eq!((read.state, read.epoch, read.run_at), (JobState::Ready, run.epoch, at(3)));
    assert_eq!((read.counters, read.finished_at), (Counters::default(), None));
    assert_eq!((read.spec.deadline, read.cancel), (None, None));
    // The deadline that was is not met again.
    assert!(store.sweep(10, at(25)).await.unwrap().overdue.is_empty());
    let claimed = claim(store, session, 1, at(25)).await;
    assert_eq!((claimed[0].run.epoch, claimed[0].deadline), (run.epoch.next(), None));
    // Runs from before stay fenced.
    let late = report(store, session, run, mamos_core::store::Report::Log(piece(0, "late")), at(26)).await;
    assert_eq!(late.verdict, mamos_core::lease::Verdict::Stale);
}

pub async fn only_dead_jobs_are_redriven_and_only_blocked_ones_approved(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    for (n, before) in (1..).zip(JobState::ALL) {
        job_in_state(store, session, job(n), before, at(0)).await;
        let old = record(store, job_id(n)).await;
        if before != JobState::Dead {
            let verdict = store.redrive(vec![job_id(n)], at(1)).await.unwrap();
            assert_eq!(verdict, [ChangeVerdict::Refused(before)]);
        }
        if before != JobState::Blocked {
            let verdict = store.approve(vec![job_id(n)], at(1)).await.unwrap();
            assert_eq!(verdict, [ChangeVerdict::Refused(before)]);
        }
        assert_eq!(record(store, job_id(n)).await, old, "{before}");
        store.cancel(vec![job_id(n)], cancel_request(), at(2)).await.unwrap();
    }
    assert_eq!(store.redrive(vec![job_id(404)], at(3)).await.unwrap(), [ChangeVerdict::Missing]);
    assert_eq!(store.approve(vec![job_id(404)], at(3)).await.unwrap(), [ChangeVerdict::Missing]);
}

pub async fn an_approved_job_is_ready_now_whatever_its_time_was(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let spec = NewJob { needs_approval: true, run_at: Some(at(9999)), ..job(1) };
    enqueue(store, vec![spec], at(0)).await;
    let verdicts = store.approve(vec![job_id(1), job_id(1)], at(5)).await.unwrap();
    let wanted = [ChangeVerdict::Ready(job(1).lane.id()), ChangeVerdict::Refused(JobState::Ready)];
    assert_eq!(verdicts, wanted);
    assert_eq!(record(store, job_id(1)).await.run_at, at(5));
    assert_eq!(claim(store, session, 1, at(6)).await.len(), 1);
}

pub async fn prune_removes_what_ended_before_and_nothing_else(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let runs = [running(store, session, job(1), at(0)).await, running(store, session, job(2), at(0)).await];
    report(store, session, runs[0], mamos_core::store::Report::Log(piece(0, "x")), at(0)).await;
    settle(store, session, runs[0], succeeded(), at(5)).await;
    settle(store, session, runs[1], bury(), at(6)).await;
    leased(store, session, job(3), at(0)).await;
    enqueue(store, vec![job(4)], at(0)).await;

    assert_eq!(store.prune(at(5), 100).await.unwrap(), 0, "ended at that moment is not before it");
    assert_eq!(store.prune(at(6), 100).await.unwrap(), 1);
    assert!(store.job(job_id(1)).await.unwrap().is_none());
    assert!(store.attempts(job_id(1)).await.unwrap().is_empty());
    assert!(store.log(runs[0], 0, 100).await.unwrap().is_empty());
    assert_eq!(state(store, job_id(2)).await, JobState::Dead);
    assert_eq!(store.prune(at(9999), 100).await.unwrap(), 1);
    assert_eq!(state(store, job_id(3)).await, JobState::Leased);
    assert_eq!(state(store, job_id(4)).await, JobState::Ready);
}

pub async fn prune_keeps_to_its_limit(store: &Arc<dyn Store>) {
    enqueue(store, (0..10).map(job).collect(), at(0)).await;
    store.cancel((0..10).map(job_id).collect(), cancel_request(), at(1)).await.unwrap();
    assert_eq!(store.prune(at(2), 4).await.unwrap(), 4);
    assert_eq!(store.prune(at(2), 4).await.unwrap(), 4);
    assert_eq!(store.prune(at(2), 4).await.unwrap(), 2);
    assert_eq!(store.prune(at(2), 4).await.unwrap(), 0);
}
