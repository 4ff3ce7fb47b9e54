//! Who gets what, and what is taken back.

use super::link::FIRST_JOBS;
use super::*;
use crate::agent::AgentProfile;
use crate::id::{AgentKind, InstanceId, JobId};
use crate::lease::Epoch;

fn lane(kind: &str, selector: &str) -> Arc<Lane> {
    Arc::new(Lane::new(QueueName::default_queue(), kind.parse().unwrap(), selector.parse().unwrap()))
}

fn new_link(key: &str, kinds: &[&str], labels: &[(&str, &str)], slots: u32) -> NewLink {
    let kind = AgentKind::new("test").unwrap();
    let mut profile = AgentProfile::new(kind.clone(), key);
    profile.kinds = kinds.iter().map(|kind| kind.parse().unwrap()).collect();
    profile.slots = slots;
    let mut hash = [0; 32];
    hash[..key.len()].copy_from_slice(key.as_bytes());
    NewLink {
        session: SessionRef { id: SessionId::from_key(key), link: 1 },
        agent: AgentId::from_public_key(kind, &hash),
        outbox: Arc::default(),
        profile,
        labels: Labels::new(labels.iter().copied()).unwrap(),
        prefetch: 0,
        is_draining: false,
        held: Vec::new(),
        instance: InstanceId::from_key(key),
        hello_number: 1,
        renew_at: None,
        now: Timestamp::EPOCH,
    }
}

fn run(n: u32) -> RunRef {
    RunRef { job: JobId::from_key(&n.to_string()), epoch: Epoch::from_number(1) }
}

fn takers(groups: &[ClaimGroup]) -> Vec<(SessionId, u32)> {
    groups.iter().flat_map(|group| &group.takers).map(|taker| (taker.session.id, taker.limit)).collect()
}

#[test]
fn a_claim_names_only_lanes_and_links_that_fit() {
    let mut registry = Registry::default();
    registry.connect(new_link("eu", &["mail"], &[("zone", "eu")], 2));
    registry.connect(new_link("us", &["mail", "scan"], &[("zone", "us")], 3));
    registry.lane_ready(&lane("mail", "zone=eu"));
    registry.lane_ready(&lane("other", ""));
    let groups = registry.plan();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].lanes, [lane("mail", "zone=eu").id()]);
    assert_eq!(takers(&groups), [(SessionId::from_key("eu"), 2)]);
    assert!(registry.plan().is_empty(), "the lane counts as empty until someone says otherwise");
}

#[test]
fn a_lane_that_was_there_before_its_agents_is_found() {
    let mut registry = Registry::default();
    registry.lane_ready(&lane("mail", ""));
    assert!(registry.plan().is_empty());
    registry.connect(new_link("a", &["mail"], &[], 1));
    assert_eq!(takers(&registry.plan()).len(), 1);
}

#[test]
fn credit_is_slots_and_prefetch_less_what_is_held() {
    let mut registry = Registry::default();
    registry.connect(NewLink { prefetch: 1, ..new_link("a", &["mail"], &[], 2) });
    let (mail, session) = (lane("mail", ""), SessionId::from_key("a"));
    let reference = SessionRef { id: session, link: 1 };
    registry.lane_ready(&mail);
    // The slots first, the prefetch when nobody has a free slot.
    assert_eq!(takers(&registry.plan()), [(session, 2)]);
    registry.dispatched(reference, (0..3).map(|n| (run(n), mail.id(), 10)));
    registry.lane_ready(&mail);
    assert!(registry.plan().is_empty());
    assert!(!registry.matching.could_plan());
    assert_eq!(registry.ended(session, RunRef { epoch: Epoch::from_number(9), ..run(1) }), None);
    assert_eq!(registry.ended(session, run(1)).map(|held| held.lane), Some(mail.id()));
    assert!(registry.matching.could_plan());
    assert_eq!(takers(&registry.plan()), [(session, 1)]);
}

#[test]
fn all_links_are_served_in_turn() {
    let mut registry = Registry::default();
    for n in 0..100 {
        registry.connect(new_link(&n.to_string(), &["mail"], &[], 1));
    }
    let mail = lane("mail", "");
    let mut served = BTreeSet::new();
    for _ in 0..4 {
        registry.lane_ready(&mail);
        let takers = takers(&registry.plan());
        assert!(takers.len() <= 32);
        served.extend(takers.into_iter().map(|(session, _)| session));
    }
    assert_eq!(served.len(), 100);
}

#[test]
fn draining_suspect_and_uncertain_links_get_nothing() {
    let mut registry = Registry::default();
    let link = new_link("a", &["mail"], &[], 1);
    let session = link.session;
    registry.connect(link);
    let mail = lane("mail", "");
    registry.lane_ready(&mail);
    for change in [
        (|link: &mut Link| link.is_draining = true) as fn(&mut Link),
        |link| link.is_suspect = true,
        |link| link.slots = 0,
    ] {
        registry.change(session, change);
        assert!(registry.plan().is_empty());
        registry.change(session, |link| {
            (link.is_draining, link.is_suspect, link.slots) = (false, false, 1);
        });
    }
    let groups = registry.plan();
    registry.claim_failed(&groups);
    assert!(registry.plan().is_empty());
    assert_eq!(registry.uncertain(), [(session, vec![])]);
    registry.certain(session);
    assert_eq!(takers(&registry.plan()).len(), 1);
}

#[test]
fn large_payloads_leave_less_room() {
    let mut registry = Registry::default();
    let link = new_link("a", &["mail"], &[], 1000);
    let session = link.session;
    registry.connect(link);
    let mail = lane("mail", "");
    registry.lane_ready(&mail);
    assert_eq!(takers(&registry.plan())[0].1, FIRST_JOBS, "nobody knows yet how large they are");
    registry.dispatched(session, (0..8).map(|n| (run(n), mail.id(), 1 << 20)));
    registry.lane_ready(&mail);
    assert_eq!(takers(&registry.plan())[0].1, 24, "of a megabyte each");
    registry.dispatched(session, (8..32).map(|n| (run(n), mail.id(), 1 << 20)));
    registry.lane_ready(&mail);
    assert!(registry.plan().is_empty());
    registry.ended(session.id, run(3));
    assert_eq!(takers(&registry.plan())[0].1, 1);
}

#[test]
fn a_newer_link_replaces_an_older_one_but_not_the_other_way_round() {
    let mut registry = Registry::default();
    registry.connect(new_link("a", &["mail"], &[], 1));
    let older = SessionRef { id: SessionId::from_key("a"), link: 1 };
    let newer = SessionRef { link: 2, ..older };
    let replaced = registry.connect(NewLink { session: newer, ..new_link("a", &["mail"], &[], 1) });
    assert_eq!(replaced.len(), 1);
    assert!(registry.disconnect(older).is_none());
    assert!(registry.disconnect(newer).is_some());
}

#[test]
fn what_one_agent_cannot_start_is_taken_back_for_an_idle_one() {
    let mut registry = Registry::default();
    let mail = lane("mail", "");
    registry.connect(NewLink { prefetch: 4, ..new_link("busy", &["mail"], &[], 1) });
    let busy = SessionRef { id: SessionId::from_key("busy"), link: 1 };
    registry.lane_ready(&mail);
    registry.plan();
    registry.dispatched(busy, (0..5).map(|n| (run(n), mail.id(), 10)));
    registry.started(busy.id, run(0), Timestamp::EPOCH);
    assert!(registry.rebalance().is_empty(), "nobody is idle");
    registry.connect(new_link("idle", &["mail"], &[], 2));
    let retracted = registry.rebalance();
    assert_eq!(retracted.len(), 1);
    assert_eq!(retracted[0].1.len(), 2);
    assert!(!retracted[0].1.contains(&run(0)), "it was started");
}

#[test]
fn a_surplus_is_taken_back_for_an_agent_of_another_class_that_fits() {
    let mut registry = Registry::default();
    let (all, own) = (lane("mail", ""), lane("mail", "host=a"));
    registry.connect(NewLink { prefetch: 4, ..new_link("busy", &["mail"], &[("host", "a")], 1) });
    registry.connect(new_link("idle", &["mail"], &[("host", "b")], 3));
    let busy = SessionRef { id: SessionId::from_key("busy"), link: 1 };
    registry.lane_ready(&all);
    registry.lane_ready(&own);
    while !registry.plan().is_empty() {}
    registry.dispatched(busy, (0..5).map(|n| (run(n), if n < 3 { own.id() } else { all.id() }, 10)));
    let mut expected = vec![run(3), run(4)];
    expected.sort();
    let mut retracted = registry.rebalance().remove(0).1;
    retracted.sort();
    assert_eq!(retracted, expected, "only what the idle one can run");
}

#[test]
fn the_next_run_of_a_job_takes_the_place_of_the_one_whose_end_was_not_heard_of() {
    let mut registry = Registry::default();
    registry.connect(new_link("a", &["mail"], &[], 4));
    let session = SessionRef { id: SessionId::from_key("a"), link: 1 };
    let (lane, first) = (lane("mail", ""), run(0));
    let next = RunRef { epoch: first.epoch.next(), ..first };
    registry.dispatched(session, [(first, lane.id(), 10)].into_iter());
    let link = registry.link(session.id).unwrap();
    assert!(!link.is_news(first) && link.is_news(next) && link.is_news(run(1)));
    registry.dispatched(session, [(next, lane.id(), 30)].into_iter());
    let link = registry.link(session.id).unwrap();
    assert!(!link.is_news(first) && !link.is_news(next));
    assert_eq!((link.held_count(), link.held_bytes, link.usual_bytes), (1, 30, Some(30)));
    assert_eq!(registry.ended(session.id, first), None, "that was the earlier one");
    assert!(registry.ended(session.id, next).is_some());
    assert_eq!(registry.link(session.id).unwrap().held_bytes, 0);
}

#[test]
fn whoever_got_something_waits_behind_those_who_did_not() {
    let mut registry = Registry::default();
    let mail = lane("mail", "");
    for key in ["a", "b", "c"] {
        registry.connect(new_link(key, &["mail"], &[], 9));
    }
    let mut got = Vec::new();
    for n in 0..6 {
        registry.lane_ready(&mail);
        // One job comes at a time, and the first taker gets it.
        let first = registry.plan()[0].takers[0].session;
        registry.dispatched(first, [(run(n), mail.id(), 10)].into_iter());
        got.push(first.id);
    }
    let each_once: BTreeSet<SessionId> = got[..3].iter().copied().collect();
    assert_eq!(each_once.len(), 3);
    assert_eq!(got[..3], got[3..]);
}
