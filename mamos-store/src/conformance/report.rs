//! Promises about what agents report of their runs.

use std::sync::Arc;

use mamos_core::job::Progress;
use mamos_core::lease::{RunRef, Verdict};
use mamos_core::store::Report;
use mamos_core::{JobState, Store};

use super::scene::{
    at, bury, cancel_request, claim, enqueue, epoch, job, job_id, leased, piece, record, report, retry,
    running, session, settle, succeeded, write,
};

fn every_report() -> [Report; 7] {
    [
        Report::Started,
        Report::Progress(Progress::new(Some(50.0), "half")),
        Report::Log(piece(0, "a line")),
        Report::Settle(succeeded()),
        Report::Settle(retry()),
        Report::Settle(bury()),
        Report::Release,
    ]
}

pub async fn a_started_run_is_running(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = leased(store, session, job(1), at(0)).await;
    for now in [at(1), at(2)] {
        let started = report(store, session, run, Report::Started, now).await;
        assert_eq!((started.verdict, started.state), (Verdict::Applied, Some(JobState::Running)));
        // The repeat changes nothing.
        let read = record(store, job_id(1)).await;
        assert_eq!((read.state, read.started_at), (JobState::Running, Some(at(1))));
    }
}

pub async fn progress_is_the_newest_that_was_said(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    for (percent, note) in [(Some(10.0), "begun"), (None, "who knows"), (Some(99.5), "nearly")] {
        let progress = Progress::new(percent, note);
        let reported = report(store, session, run, Report::Progress(progress.clone()), at(1)).await;
        assert_eq!((reported.verdict, reported.state), (Verdict::Applied, Some(JobState::Running)));
        assert_eq!(record(store, job_id(1)).await.progress, Some(progress));
    }
}

pub async fn a_new_run_has_said_nothing_yet(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    report(store, session, run, Report::Progress(Progress::new(None, "old")), at(1)).await;
    report(store, session, run, Report::Release, at(2)).await;
    assert!(record(store, job_id(1)).await.progress.is_some(), "it is of the last run");
    claim(store, session, 1, at(3)).await;
    let read = record(store, job_id(1)).await;
    assert_eq!((read.progress, read.started_at, read.leased_at), (None, None, Some(at(3))));
}

/// The heart of the contract. The session is the same, so that only the epoch can tell.
pub async fn a_stale_epoch_changes_nothing(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let old = running(store, session, job(1), at(0)).await;
    report(store, session, old, Report::Release, at(1)).await;
    let new = claim(store, session, 1, at(2)).await[0].run;
    assert!(new.epoch > old.epoch);
    let before = record(store, job_id(1)).await;
    let ahead = RunRef { epoch: new.epoch.next(), ..new };
    let never = RunRef { epoch: epoch(0), ..new };
    for stale in [old, ahead, never] {
        for what in every_report() {
            let reported = report(store, session, stale, what.clone(), at(3)).await;
            assert_eq!(reported.verdict, Verdict::Stale, "{stale} {what:?}");
            assert_eq!((reported.state, reported.run_at), (Some(JobState::Leased), None));
            assert_eq!(record(store, job_id(1)).await, before, "{stale} {what:?}");
        }
        assert!(store.log(stale, 0, 100).await.unwrap().is_empty());
    }
    assert_eq!(settle(store, session, new, succeeded(), at(4)).await.verdict, Verdict::Applied);
}

pub async fn a_stale_epoch_changes_nothing_after_the_end(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let old = running(store, session, job(1), at(0)).await;
    report(store, session, old, Report::Release, at(1)).await;
    let new = claim(store, session, 1, at(2)).await[0].run;
    settle(store, session, new, succeeded(), at(3)).await;
    let before = record(store, job_id(1)).await;
    for what in every_report() {
        let reported = report(store, session, old, what.clone(), at(4)).await;
        assert_eq!(
            (reported.verdict, reported.state),
            (Verdict::Stale, Some(JobState::Succeeded)),
            "{what:?}"
        );
        assert_eq!(record(store, job_id(1)).await, before, "{what:?}");
    }
}

pub async fn the_report_of_another_session_changes_nothing(store: &Arc<dyn Store>) {
    let (owner, other) = (session(store, 1).await, session(store, 2).await);
    let run = leased(store, owner, job(1), at(0)).await;
    let before = record(store, job_id(1)).await;
    for what in every_report() {
        let reported = report(store, other, run, what.clone(), at(1)).await;
        assert_eq!((reported.verdict, reported.state), (Verdict::Stale, Some(JobState::Leased)), "{what:?}");
        assert_eq!(record(store, job_id(1)).await, before, "{what:?}");
    }
    assert_eq!(settle(store, owner, run, succeeded(), at(2)).await.verdict, Verdict::Applied);
}

pub async fn a_report_about_an_unknown_job_is_missing(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = RunRef { job: job_id(404), epoch: epoch(1) };
    for what in every_report() {
        let reported = report(store, session, run, what, at(0)).await;
        assert_eq!((reported.verdict, reported.state, reported.run_at), (Verdict::Missing, None, None));
    }
    assert!(store.job(job_id(404)).await.unwrap().is_none());
}

pub async fn a_job_that_was_never_claimed_takes_no_report(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    enqueue(store, vec![job(1)], at(0)).await;
    let before = record(store, job_id(1)).await;
    for number in [0, 1] {
        let run = RunRef { job: job_id(1), epoch: epoch(number) };
        for what in every_report() {
            assert_eq!(report(store, session, run, what, at(1)).await.verdict, Verdict::Stale);
        }
    }
    assert_eq!(record(store, job_id(1)).await, before);
}

pub async fn verdicts_stand_in_the_order_of_the_reports(store: &Arc<dyn Store>) {
    let (one, two) = (session(store, 1).await, session(store, 2).await);
    let a = leased(store, one, job(1), at(0)).await;
    let b = leased(store, two, job(2), at(0)).await;
    let missing = RunRef { job: job_id(404), epoch: epoch(1) };
    let old = RunRef { epoch: epoch(9), ..b };
    let writes = vec![
        write(one, missing, Report::Started),
        write(one, a, Report::Started),
        write(two, a, Report::Settle(succeeded())),
        write(two, old, Report::Started),
        write(two, b, Report::Settle(retry())),
        write(one, a, Report::Settle(succeeded())),
        write(two, b, Report::Started),
    ];
    let answers = store.report(writes, at(10)).await.unwrap();
    let seen: Vec<_> = answers.iter().map(|answer| (answer.verdict, answer.state, answer.run_at)).collect();
    let wanted = [
        (Verdict::Missing, None, None),
        (Verdict::Applied, Some(JobState::Running), None),
        (Verdict::Stale, Some(JobState::Running), None),
        (Verdict::Stale, Some(JobState::Leased), None),
        (Verdict::Applied, Some(JobState::Scheduled), Some(at(20))),
        (Verdict::Applied, Some(JobState::Succeeded), None),
        (Verdict::Stale, Some(JobState::Scheduled), None),
    ];
    assert_eq!(seen, wanted);
}

pub async fn a_batch_is_written_in_order_even_when_items_repeat(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = leased(store, session, job(1), at(0)).await;
    let writes = vec![
        write(session, run, Report::Started),
        write(session, run, Report::Started),
        write(session, run, Report::Log(piece(0, "ab"))),
        write(session, run, Report::Log(piece(2, "cd"))),
        write(session, run, Report::Log(piece(0, "ab"))),
        write(session, run, Report::Settle(succeeded())),
        write(session, run, Report::Settle(succeeded())),
        write(session, run, Report::Started),
    ];
    let answers = store.report(writes, at(1)).await.unwrap();
    let verdicts: Vec<_> = answers.iter().map(|answer| answer.verdict).collect();
    assert_eq!(verdicts[..7], [Verdict::Applied; 7]);
    assert_eq!(verdicts[7..], [Verdict::Stale]);
    let log = store.log(run, 0, 100).await.unwrap();
    assert_eq!(log.iter().flat_map(|piece| piece.bytes.to_vec()).collect::<Vec<_>>(), b"abcd");
    assert_eq!(store.attempts(job_id(1)).await.unwrap().len(), 1);
}

pub async fn a_run_that_is_to_be_cancelled_hears_of_it_with_every_report(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = leased(store, session, job(1), at(0)).await;
    store.cancel(vec![job_id(1)], cancel_request(), at(1)).await.unwrap();
    let told =
        [Report::Started, Report::Progress(Progress::new(None, "still here")), Report::Log(piece(0, "bye"))];
    for what in told {
        let reported = report(store, session, run, what, at(2)).await;
        assert_eq!((reported.verdict, reported.state), (Verdict::CancelRequested, Some(JobState::Running)));
    }
    // It is on record all the same.
    assert_eq!(store.log(run, 0, 100).await.unwrap().len(), 1);
    assert!(record(store, job_id(1)).await.progress.is_some());
    let settled = settle(store, session, run, mamos_core::job::Outcome::Cancelled, at(3)).await;
    assert_eq!((settled.verdict, settled.state), (Verdict::Applied, Some(JobState::Cancelled)));
}
