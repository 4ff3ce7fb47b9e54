//! Promises about the history of a job.

use std::sync::Arc;

use mamos_core::Store;
use mamos_core::job::AttemptEnd;
use mamos_core::lease::{RunRef, Verdict};
use mamos_core::store::Report;

use super::scene::{
    TTL, agent_id, at, bury, claim, enqueue, epoch, failure, job, job_id, leased, report, retry, running,
    session, session_at, settle, succeeded,
};

pub async fn a_job_that_was_never_claimed_has_no_history(store: &Arc<dyn Store>) {
    enqueue(store, vec![job(1)], at(0)).await;
    assert!(store.attempts(job_id(1)).await.unwrap().is_empty());
    assert!(store.attempts(job_id(404)).await.unwrap().is_empty());
}

pub async fn the_current_run_is_part_of_the_history(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = leased(store, session, job(1), at(1)).await;
    report(store, session, run, Report::Started, at(2)).await;
    let history = store.attempts(job_id(1)).await.unwrap();
    assert_eq!(history.len(), 1);
    let current = &history[0];
    assert_eq!((current.run, current.attempt, current.is_late), (run, 1, false));
    assert_eq!((current.session, &current.agent), (Some(session.id), &Some(agent_id(1))));
    assert_eq!((current.leased_at, current.started_at), (at(1), Some(at(2))));
    assert_eq!((current.ended_at, current.end, &current.failure), (None, None, &None));
}

pub async fn every_run_stays_in_the_history(store: &Arc<dyn Store>) {
    let first = session(store, 1).await;
    let run = running(store, first, job(1), at(0)).await;
    store.sweep(10, at(0) + TTL).await.unwrap();
    let second = session_at(store, 2, at(31)).await;
    let released = claim(store, second, 1, at(32)).await[0].run;
    report(store, second, released, Report::Release, at(33)).await;
    let failed = claim(store, second, 1, at(34)).await[0].run;
    report(store, second, failed, Report::Started, at(35)).await;
    settle(store, second, failed, retry(), at(36)).await;
    store.sweep(10, at(46)).await.unwrap();
    let last = claim(store, second, 1, at(47)).await[0].run;
    settle(store, second, last, succeeded(), at(48)).await;

    let history = store.attempts(job_id(1)).await.unwrap();
    let seen: Vec<_> = history.iter().map(|a| (a.run, a.attempt, a.end, a.session)).collect();
    let wanted = [
        (run, 1, Some(AttemptEnd::Crashed), Some(first.id)),
        (released, 1, Some(AttemptEnd::Returned), Some(second.id)),
        (failed, 1, Some(AttemptEnd::Retried), Some(second.id)),
        (last, 2, Some(AttemptEnd::Succeeded), Some(second.id)),
    ];
    assert_eq!(seen, wanted);
    let times: Vec<_> = history.iter().map(|a| (a.leased_at, a.started_at, a.ended_at)).collect();
    let wanted = [
        (at(0), Some(at(0)), Some(at(30))),
        (at(32), None, Some(at(33))),
        (at(34), Some(at(35)), Some(at(36))),
        (at(47), None, Some(at(48))),
    ];
    assert_eq!(times, wanted);
    let codes: Vec<_> = history.iter().map(|a| a.failure.as_ref().map(|f| f.code.as_str())).collect();
    assert_eq!(codes, [Some("crashed"), None, Some("smtp"), None]);
    assert!(history.iter().all(|a| !a.is_late));
}

pub async fn a_late_settle_is_kept_as_evidence(store: &Arc<dyn Store>) {
    let (one, two) = (session(store, 1).await, session_at(store, 2, at(20)).await);
    let old = running(store, one, job(1), at(0)).await;
    store.sweep(10, at(0) + TTL).await.unwrap();
    let new = claim(store, two, 1, at(31)).await[0].run;
    assert_eq!(settle(store, one, old, bury(), at(32)).await.verdict, Verdict::Stale);

    let history = store.attempts(job_id(1)).await.unwrap();
    let seen: Vec<_> = history.iter().map(|a| (a.run, a.is_late, a.end)).collect();
    let wanted =
        [(old, false, Some(AttemptEnd::Crashed)), (old, true, Some(AttemptEnd::Buried)), (new, false, None)];
    assert_eq!(seen, wanted, "after the run it claims to be");
    assert_eq!((history[1].ended_at, &history[1].failure), (Some(at(32)), &Some(failure())));
    assert_eq!((history[1].session, &history[1].agent), (Some(one.id), &Some(agent_id(1))));
}

pub async fn late_evidence_is_bounded(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    for n in 100..150 {
        let made_up = RunRef { epoch: epoch(n), ..run };
        assert_eq!(settle(store, session, made_up, succeeded(), at(1)).await.verdict, Verdict::Stale);
    }
    let history = store.attempts(job_id(1)).await.unwrap();
    assert_eq!(history.iter().filter(|attempt| attempt.is_late).count(), 16);
    assert_eq!(history.iter().filter(|attempt| !attempt.is_late).count(), 1);
}

pub async fn a_run_that_moved_is_in_the_history_of_its_last_session(store: &Arc<dyn Store>) {
    let old = session(store, 1).await;
    let run = running(store, old, job(1), at(0)).await;
    let request = mamos_core::store::Attach { known: vec![run], ..super::scene::attach_request(1, 11) };
    let new = super::scene::attach(store, request, at(1)).await.session;
    settle(store, new, run, succeeded(), at(2)).await;
    let history = store.attempts(job_id(1)).await.unwrap();
    assert_eq!((history.len(), history[0].session), (1, Some(new.id)));
}
