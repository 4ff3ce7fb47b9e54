//! Promises about how attempts end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::rules::{RunFacts, after_release, after_settle};
use mamos_core::job::{Counters, NewJob, Outcome};
use mamos_core::lease::Verdict;
use mamos_core::store::Report;
use mamos_core::{JobState, Store};

use super::scene::{
    SECOND, at, bury, cancel_request, claim, failure, job, job_id, leased, piece, record, report, retry,
    running, session, session_at, settle, succeeded, write,
};

pub async fn a_success_ends_the_job_with_its_output(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let output = Bytes::from_static(b"\x00\xff\x80");
    let settled = settle(store, session, run, Outcome::Succeeded { output: output.clone() }, at(5)).await;
    assert_eq!((settled.verdict, settled.state), (Verdict::Applied, Some(JobState::Succeeded)));
    assert_eq!(settled.run_at, None);
    let read = record(store, job_id(1)).await;
    assert_eq!((read.state, read.finished_at), (JobState::Succeeded, Some(at(5))));
    assert_eq!((read.output, read.failure), (Some(output), None));
    assert_eq!((read.session, read.started_at, read.run_at), (Some(session.id), Some(at(0)), at(0)));
    assert!(store.held(session.id).await.unwrap().is_empty());
}

pub async fn a_run_may_succeed_before_it_was_said_to_start(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = leased(store, session, job(1), at(0)).await;
    let settled = settle(store, session, run, succeeded(), at(1)).await;
    assert_eq!((settled.verdict, settled.state), (Verdict::Applied, Some(JobState::Succeeded)));
    assert_eq!(record(store, job_id(1)).await.started_at, None);
}

pub async fn a_failed_attempt_is_tried_again_after_its_delay(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let settled = settle(store, session, run, retry(), at(2)).await;
    assert_eq!((settled.verdict, settled.state), (Verdict::Applied, Some(JobState::Scheduled)));
    assert_eq!(settled.run_at, Some(at(12)));
    let read = record(store, job_id(1)).await;
    assert_eq!((read.state, read.run_at, read.finished_at), (JobState::Scheduled, at(12), None));
    assert_eq!(read.counters, Counters { attempt: 2, crashes: 0, deliveries: 0 });
    assert_eq!(read.failure, Some(failure()));
    assert!(claim(store, session, 1, at(3)).await.is_empty());
    store.sweep(10, at(12)).await.unwrap();
    let claimed = claim(store, session, 1, at(13)).await;
    assert_eq!((claimed[0].counters.attempt, claimed[0].run.epoch), (2, run.epoch.next()));
}

pub async fn the_agent_may_name_the_delay(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let outcome = Outcome::Retry { failure: failure(), after: Some(Duration::from_millis(1500)) };
    let settled = settle(store, session, run, outcome, at(2)).await;
    assert_eq!(settled.run_at, Some(at(2) + Duration::from_millis(1500)));
}

pub async fn the_jitter_of_a_retry_is_that_of_the_run(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let policy = RetryPolicy { jitter: 1.0, ..RetryPolicy::fixed(5, 1000 * SECOND) };
    let run = running(store, session, NewJob { retry: policy, ..job(1) }, at(0)).await;
    let settled = settle(store, session, run, retry(), at(0)).await;
    assert_eq!(settled.run_at, Some(at(0) + policy.delay_after(1, run.jitter())));
}

pub async fn the_last_failed_attempt_buries_the_job(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let once = NewJob { retry: RetryPolicy::never(), ..job(1) };
    let run = running(store, session, once, at(0)).await;
    let settled = settle(store, session, run, retry(), at(1)).await;
    assert_eq!((settled.state, settled.run_at), (Some(JobState::Dead), None));
    let read = record(store, job_id(1)).await;
    assert_eq!((read.counters.attempt, read.finished_at), (1, Some(at(1))));
    assert_eq!(read.failure, Some(failure()));
}

pub async fn a_buried_job_is_not_tried_again(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let settled = settle(store, session, run, bury(), at(1)).await;
    assert_eq!((settled.state, settled.run_at), (Some(JobState::Dead), None));
    assert_eq!(record(store, job_id(1)).await.failure, Some(failure()));
    store.sweep(10, at(2)).await.unwrap();
    assert!(claim(store, session, 1, at(3)).await.is_empty());
}

pub async fn a_snooze_does_not_count_as_an_attempt(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let mut run = running(store, session, job(1), at(0)).await;
    for n in 0..5 {
        let settled = settle(store, session, run, Outcome::Snooze { delay: SECOND }, at(2 * n)).await;
        assert_eq!((settled.state, settled.run_at), (Some(JobState::Scheduled), Some(at(2 * n + 1))));
        assert_eq!(record(store, job_id(1)).await.counters, Counters::default());
        store.sweep(1, at(2 * n + 1)).await.unwrap();
        run = claim(store, session, 1, at(2 * n + 1)).await[0].run;
    }
}

pub async fn a_cancelled_outcome_ends_the_job(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let settled = settle(store, session, run, Outcome::Cancelled, at(1)).await;
    assert_eq!((settled.verdict, settled.state), (Verdict::Applied, Some(JobState::Cancelled)));
    assert_eq!(record(store, job_id(1)).await.finished_at, Some(at(1)));
}

/// Each outcome in each held state, with and without a cancel request, as the rules decide.
pub async fn every_outcome_does_what_the_rules_say(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let snooze = Outcome::Snooze { delay: 7 * SECOND };
    let outcomes =
        [Some(succeeded()), Some(retry()), Some(bury()), Some(snooze), Some(Outcome::Cancelled), None];
    let mut n = 0;
    for outcome in outcomes {
        for (is_running, is_cancel_requested) in [(false, false), (false, true), (true, false), (true, true)]
        {
            n += 1;
            let run = leased(store, session, job(n), at(1)).await;
            if is_running {
                report(store, session, run, Report::Started, at(2)).await;
            }
            if is_cancel_requested {
                store.cancel(vec![run.job], cancel_request(), at(3)).await.unwrap();
            }
            let facts: RunFacts = record(store, run.job).await.run_facts();
            let (next, what) = match outcome.clone() {
                Some(outcome) => {
                    (after_settle(&facts, outcome.clone(), at(4), run.jitter()), Report::Settle(outcome))
                }
                None => (after_release(&facts, at(4)), Report::Release),
            };
            let case = format!("{what:?}, running {is_running}, cancel {is_cancel_requested}");
            let reported = report(store, session, run, what, at(4)).await;
            assert_eq!((reported.verdict, reported.state), (Verdict::Applied, Some(next.state)), "{case}");
            assert_eq!(reported.run_at, next.run_at, "{case}");
            let read = record(store, run.job).await;
            assert_eq!((read.state, read.counters), (next.state, next.counters), "{case}");
            assert_eq!((read.output, read.failure), (next.output, next.failure), "{case}");
            assert_eq!(read.finished_at, next.state.is_final().then_some(at(4)), "{case}");
            let history = store.attempts(run.job).await.unwrap();
            assert_eq!(history.last().and_then(|attempt| attempt.end), Some(next.end), "{case}");
            // Out of the way of the next case.
            store.cancel(vec![run.job], cancel_request(), at(5)).await.unwrap();
        }
    }
    assert!(store.held(session.id).await.unwrap().is_empty());
}

pub async fn settling_the_same_run_again_changes_nothing(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let mut n = 0;
    for outcome in [succeeded(), retry(), bury(), Outcome::Snooze { delay: SECOND }, Outcome::Cancelled] {
        n += 1;
        let run = running(store, session, job(n), at(0)).await;
        settle(store, session, run, outcome.clone(), at(1)).await;
        let (before, history) = (record(store, run.job).await, store.attempts(run.job).await.unwrap());
        // With the same outcome after a lost answer, or with another one from a confused agent.
        for again in [outcome, bury(), succeeded()] {
            let repeated = settle(store, session, run, again, at(2)).await;
            assert_eq!((repeated.verdict, repeated.state), (Verdict::Applied, Some(before.state)));
            assert_eq!(record(store, run.job).await, before);
            assert_eq!(store.attempts(run.job).await.unwrap(), history);
        }
    }
}

pub async fn a_repeated_settle_is_applied_from_the_next_session_too(store: &Arc<dyn Store>) {
    let first = session(store, 1).await;
    let run = running(store, first, job(1), at(0)).await;
    settle(store, first, run, succeeded(), at(1)).await;
    // The answer was lost with the link; the agent sends it again from its new session.
    let next = super::scene::attach(store, super::scene::attach_request(1, 11), at(2)).await.session;
    let before = store.attempts(run.job).await.unwrap();
    assert_eq!(settle(store, next, run, succeeded(), at(3)).await.verdict, Verdict::Applied);
    assert_eq!(store.attempts(run.job).await.unwrap(), before);
}

pub async fn an_end_cannot_be_changed(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    for (n, outcome) in [(1, succeeded()), (2, bury()), (3, Outcome::Cancelled)] {
        let run = running(store, session, job(n), at(0)).await;
        settle(store, session, run, outcome, at(1)).await;
        let before = record(store, run.job).await;
        for what in [Report::Started, Report::Release, Report::Log(piece(0, "x")), Report::Settle(retry())] {
            report(store, session, run, what, at(2)).await;
        }
        store.cancel(vec![run.job], cancel_request(), at(3)).await.unwrap();
        store.approve(vec![run.job], at(3)).await.unwrap();
        store.sweep(100, at(4)).await.unwrap();
        assert_eq!(record(store, run.job).await, before);
    }
    assert!(claim(store, session, 9, at(5)).await.is_empty());
}

pub async fn a_released_job_is_ready_at_once(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = leased(store, session, job(1), at(0)).await;
    let released = report(store, session, run, Report::Release, at(1)).await;
    assert_eq!((released.verdict, released.state), (Verdict::Applied, Some(JobState::Ready)));
    assert_eq!(released.run_at, Some(at(1)));
    let read = record(store, job_id(1)).await;
    assert_eq!((read.counters, read.run_at), (Counters { attempt: 1, crashes: 0, deliveries: 1 }, at(1)));
    // A repeat is about a run that is over.
    assert_eq!(report(store, session, run, Report::Release, at(2)).await.verdict, Verdict::Stale);
    assert_eq!(record(store, job_id(1)).await, read);
    let run = claim(store, session, 1, at(2)).await[0].run;
    report(store, session, run, Report::Started, at(3)).await;
    report(store, session, run, Report::Release, at(4)).await;
    assert_eq!(record(store, job_id(1)).await.counters.deliveries, 1, "only runs that never started count");
}

pub async fn only_one_of_many_settles_at_once_ends_the_run(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let tasks: Vec<_> = (0..20_u8)
        .map(|n| {
            let store = Arc::clone(store);
            let outcome = Outcome::Succeeded { output: Bytes::from(vec![n]) };
            tokio::spawn(async move {
                store.report(vec![write(session, run, Report::Settle(outcome))], at(1)).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap()[0].verdict, Verdict::Applied);
    }
    assert_eq!(store.attempts(run.job).await.unwrap().len(), 1);
    assert_eq!(record(store, run.job).await.output.unwrap().len(), 1);
}

/// Calls come from orchestrators and with agents whose clocks are a day apart, in both directions.
pub async fn clocks_that_jump_a_day_corrupt_nothing(store: &Arc<dyn Store>) {
    let day = super::scene::DAY;
    let mut n = 0;
    for (early, late) in [(at(day), at(0)), (at(0), at(day)), (at(3 * day), at(day))] {
        n += 1;
        let session = session_at(store, n, early).await;
        super::scene::enqueue(store, vec![job(n)], late).await;
        store.renew(vec![session], 2 * day as u32 * SECOND, early).await.unwrap();
        let run = claim(store, session, 1, late).await[0].run;
        report(store, session, run, Report::Started, early).await;
        let settled = settle(store, session, run, retry(), late).await;
        assert_eq!((settled.verdict, settled.run_at), (Verdict::Applied, Some(late + 10 * SECOND)));
        // Sweeping with the earlier clock afterwards may be too early, never wrong.
        let first = early.min(late);
        store.sweep(10, first).await.unwrap();
        store.sweep(10, late + 10 * SECOND).await.unwrap();
        let again = claim(store, session, 1, first).await;
        assert_eq!((again[0].run.job, again[0].run.epoch), (run.job, run.epoch.next()));
        let settled = settle(store, session, again[0].run, succeeded(), first).await;
        assert_eq!(settled.state, Some(JobState::Succeeded));
        assert_eq!(settle(store, session, run, bury(), early).await.state, Some(JobState::Succeeded));
        assert_eq!(record(store, run.job).await.counters.attempt, 2);
    }
}
