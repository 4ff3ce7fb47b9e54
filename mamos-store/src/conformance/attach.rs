//! Promises about agents that come, come back and move.

use std::collections::HashSet;
use std::sync::Arc;

use mamos_core::agent::AgentProfile;
use mamos_core::agent::state::AgentState;
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{Attach, Report, SessionEnd};
use mamos_core::{ErrorKind, JobState, Store};

use super::scene::{
    SECOND, TTL, admit, agent_id, at, attach, attach_request, claim, enqueue, epoch, job, job_id, leased,
    record, report, running, session, session_id, settle, succeeded,
};

pub async fn a_new_session_is_open_and_makes_its_agent_run(store: &Arc<dyn Store>) {
    admit(store, 1).await;
    let profile = AgentProfile { slots: 8, version: "1.2".to_owned(), ..super::scene::profile() };
    let request = Attach { profile: profile.clone(), ..attach_request(1, 10) };
    let attached = attach(store, request, at(5)).await;
    assert_eq!(attached.session, SessionRef { id: session_id(10), link: 1 });
    assert!(!attached.is_resumed);
    assert!(attached.superseded.is_empty() && attached.held.is_empty());
    assert!(attached.returned.is_empty() && attached.unknown.is_empty());

    let read = store.session(session_id(10)).await.unwrap().unwrap();
    assert_eq!((read.session, &read.agent), (attached.session, &agent_id(1)));
    assert_eq!((read.opened_at, read.expires_at, read.end), (at(5), at(5) + TTL, None));
    assert_eq!(read.orchestrator, "kit");
    assert_eq!(store.sessions().await.unwrap(), [read]);

    let agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
    assert_eq!((agent.state, agent.changed_at, agent.profile), (AgentState::Running, at(5), profile));
    assert!(agent.revision > super::scene::agent_record(1).revision);
}

pub async fn a_resumed_session_gets_its_next_link(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let waiting = leased(store, session, job(2), at(0)).await;
    for n in 1..=3 {
        let request = Attach {
            resume: Some(session.id),
            known: vec![waiting, run],
            orchestrator: format!("kit-{n}"),
            ..attach_request(1, 10 + n)
        };
        let attached = attach(store, request, at(n)).await;
        assert_eq!(attached.session, SessionRef { id: session.id, link: 1 + n as u32 });
        assert!(attached.is_resumed && attached.superseded.is_empty());
        assert!(attached.returned.is_empty() && attached.unknown.is_empty());
        let held: Vec<_> = attached.held.iter().map(|held| (held.claimed.run, held.is_started)).collect();
        assert_eq!(held, [(run, true), (waiting, false)]);
        let read = store.session(session.id).await.unwrap().unwrap();
        assert_eq!((read.expires_at, read.opened_at), (at(n) + TTL, at(0)));
        assert_eq!(read.orchestrator, format!("kit-{n}"));
        assert!(store.session(session_id(10 + n)).await.unwrap().is_none(), "the fresh id was not needed");
    }
    // Its runs go on as if nothing had happened.
    assert_eq!(settle(store, session, run, succeeded(), at(9)).await.verdict, Verdict::Applied);
}

pub async fn a_newer_session_supersedes_the_older_one(store: &Arc<dyn Store>) {
    let old = session(store, 1).await;
    let run = running(store, old, job(1), at(0)).await;
    let known = Attach { known: vec![run], ..attach_request(1, 11) };
    let attached = attach(store, known, at(1)).await;
    assert_eq!(attached.superseded, [old.id]);
    let new = attached.session;
    assert_eq!(store.session(old.id).await.unwrap().unwrap().end, Some(SessionEnd::Superseded));
    let open = store.sessions().await.unwrap();
    assert_eq!(open.iter().map(|session| session.session).collect::<Vec<_>>(), [new]);

    // What the agent holds belongs to the new session, under the same epoch.
    assert_eq!(attached.held[0].claimed.run, run);
    assert_eq!(store.held(new.id).await.unwrap(), attached.held);
    assert!(store.held(old.id).await.unwrap().is_empty());
    let read = record(store, job_id(1)).await;
    assert_eq!((read.state, read.session, read.epoch), (JobState::Running, Some(new.id), run.epoch));

    // The old one can do nothing any more.
    enqueue(store, vec![job(2)], at(2)).await;
    assert!(claim(store, old, 1, at(2)).await.is_empty());
    assert_eq!(store.renew(vec![old], TTL, at(2)).await.unwrap(), [Verdict::Stale]);
    assert_eq!(store.detach(old, at(2)).await.unwrap(), Verdict::Stale);
    assert_eq!(settle(store, old, run, succeeded(), at(2)).await.verdict, Verdict::Stale);
    assert_eq!(settle(store, new, run, succeeded(), at(3)).await.verdict, Verdict::Applied);
}

pub async fn what_the_agent_does_not_know_is_given_back(store: &Arc<dyn Store>) {
    let old = session(store, 1).await;
    let started = running(store, old, job(1), at(0)).await;
    let waiting = leased(store, old, job(2), at(0)).await;
    let kept = leased(store, old, job(3), at(0)).await;
    let lane = job(1).lane.id();
    for (n, resume) in [(1, Some(old.id)), (2, None)] {
        let request = Attach { resume, known: vec![kept], ..attach_request(1, 10 + n) };
        let attached = attach(store, request, at(n)).await;
        let returned: HashSet<_> = attached.returned.iter().copied().collect();
        let wanted = HashSet::from([(started, lane, JobState::Ready), (waiting, lane, JobState::Ready)]);
        // The second time there is nothing left to give back.
        assert_eq!(returned, if n == 1 { wanted } else { HashSet::new() });
        assert_eq!(attached.held.iter().map(|held| held.claimed.run).collect::<Vec<_>>(), [kept]);
    }
    assert_eq!(record(store, job_id(1)).await.counters.crashes, 1);
    assert_eq!(record(store, job_id(2)).await.counters.deliveries, 1);
    assert_eq!(record(store, job_id(3)).await.counters.deliveries, 0);
}

pub async fn runs_that_the_agent_does_not_hold_are_named(store: &Arc<dyn Store>) {
    let (one, two) = (session(store, 1).await, session(store, 2).await);
    let ended = running(store, one, job(1), at(0)).await;
    settle(store, one, ended, succeeded(), at(0)).await;
    let mine = running(store, one, job(2), at(0)).await;
    let of_another = running(store, two, job(3), at(0)).await;
    let old_epoch = RunRef { epoch: epoch(77), ..mine };
    let unheard_of = RunRef { job: job_id(404), epoch: epoch(1) };
    let known = vec![unheard_of, mine, of_another, old_epoch, ended];
    let attached = attach(store, Attach { known, ..attach_request(1, 11) }, at(1)).await;
    let unknown: HashSet<_> = attached.unknown.iter().copied().collect();
    assert_eq!(unknown, HashSet::from([unheard_of, of_another, old_epoch, ended]));
    assert_eq!(attached.held.len(), 1);
    assert_eq!(store.held(two.id).await.unwrap().len(), 1, "nobody takes what another agent holds");
}

pub async fn only_the_agents_own_open_session_is_resumed(store: &Arc<dyn Store>) {
    let (one, two) = (session(store, 1).await, session(store, 2).await);
    let run = running(store, two, job(1), at(0)).await;
    let theirs = Attach { resume: Some(two.id), known: vec![run], ..attach_request(1, 11) };
    let attached = attach(store, theirs, at(1)).await;
    assert_eq!((attached.session.id, attached.is_resumed), (session_id(11), false));
    assert_eq!(attached.superseded, [one.id]);
    assert_eq!(attached.unknown, [run]);
    let other = store.session(two.id).await.unwrap().unwrap();
    assert_eq!((other.session, other.end), (two, None));

    store.detach(attached.session, at(2)).await.unwrap();
    for (n, resume) in [(12, session_id(11)), (13, session_id(404))] {
        let again = attach(store, Attach { resume: Some(resume), ..attach_request(1, n) }, at(3)).await;
        assert_eq!((again.session.id, again.is_resumed), (session_id(n), false));
    }
}

pub async fn a_lost_session_is_not_resumed(store: &Arc<dyn Store>) {
    let old = session(store, 1).await;
    let run = running(store, old, job(1), at(0)).await;
    store.sweep(10, at(0) + TTL).await.unwrap();
    let request = Attach { resume: Some(old.id), known: vec![run], ..attach_request(1, 11) };
    let attached = attach(store, request, at(31)).await;
    assert!(!attached.is_resumed && attached.held.is_empty());
    assert_eq!(attached.unknown, [run]);
    assert_eq!(attached.session, SessionRef { id: session_id(11), link: 1 });
    let agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
    assert_eq!(agent.state, AgentState::Running);
}

pub async fn an_earlier_link_can_neither_claim_nor_renew_nor_detach(store: &Arc<dyn Store>) {
    let first = session(store, 1).await;
    let request = Attach { resume: Some(first.id), ..attach_request(1, 11) };
    let second = attach(store, request, at(1)).await.session;
    enqueue(store, vec![job(1)], at(1)).await;
    assert!(claim(store, first, 1, at(2)).await.is_empty());
    let verdicts = store.renew(vec![first, second, first], TTL, at(2)).await.unwrap();
    assert_eq!(verdicts, [Verdict::Stale, Verdict::Applied, Verdict::Stale]);
    assert_eq!(store.detach(first, at(2)).await.unwrap(), Verdict::Stale);
    assert_eq!(claim(store, second, 1, at(3)).await.len(), 1);
}

pub async fn attaching_again_after_a_lost_answer_leaves_one_session(store: &Arc<dyn Store>) {
    let old = session(store, 1).await;
    let run = running(store, old, job(1), at(0)).await;
    let request = Attach { known: vec![run], ..attach_request(1, 11) };
    attach(store, request.clone(), at(1)).await;
    let again = attach(store, request, at(2)).await;
    assert_eq!(again.session.id, session_id(11));
    assert_eq!(again.held.len(), 1);
    assert_eq!(store.sessions().await.unwrap().len(), 1);
    let write = report(store, again.session, run, Report::Started, at(3)).await;
    assert_eq!(write.verdict, Verdict::Applied);
    assert_eq!(store.renew(vec![again.session], TTL, at(3)).await.unwrap(), [Verdict::Applied]);
}

pub async fn an_agent_that_nobody_knows_gets_no_session(store: &Arc<dyn Store>) {
    let error = store.attach(attach_request(404, 1), at(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(store.sessions().await.unwrap().is_empty());
}

pub async fn a_decommissioned_agent_gets_no_session(store: &Arc<dyn Store>) {
    admit(store, 1).await;
    let mut agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
    agent.state = AgentState::Decommissioned;
    let revision = agent.revision;
    store.update_agent(agent, revision, at(1)).await.unwrap();
    let error = store.attach(attach_request(1, 1), at(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(store.sessions().await.unwrap().is_empty());
    let agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
    assert_eq!(agent.state, AgentState::Decommissioned);
}

pub async fn many_attaches_at_once_leave_one_open_session(store: &Arc<dyn Store>) {
    let first = session(store, 1).await;
    let run = running(store, first, job(1), at(0)).await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = Arc::clone(store);
            let request = Attach { known: vec![run], ..attach_request(1, 100 + n) };
            tokio::spawn(async move { store.attach(request, at(1) + n as u32 * SECOND).await.unwrap() })
        })
        .collect();
    for task in tasks {
        let attached = task.await.unwrap();
        assert_eq!(attached.superseded.len(), 1, "each ends exactly the one before");
        assert_eq!(attached.held.len(), 1, "and takes over what that held");
    }
    let open = store.sessions().await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(store.held(open[0].session.id).await.unwrap().len(), 1);
}
