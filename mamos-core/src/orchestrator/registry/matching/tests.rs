//! Lanes, classes and lines without links.

use super::*;
use crate::lease::SessionRef;

fn lane(kind: &str, selector: &str) -> Arc<Lane> {
    Arc::new(Lane::new(QueueName::default_queue(), kind.parse().unwrap(), selector.parse().unwrap()))
}

fn session(n: usize) -> SessionId {
    SessionId::from_key(&n.to_string())
}

fn join(matching: &mut Matching, n: usize, labels: &[(&str, &str)]) {
    matching.join(session(n), &["mail".parse().unwrap()], &Labels::new(labels.iter().copied()).unwrap());
    matching.stand(session(n), Some(Line::Free));
}

fn plan(matching: &mut Matching) -> Vec<ClaimGroup> {
    matching.plan(|id, _| Taker { session: SessionRef { id, link: 1 }, limit: 1 })
}

#[test]
fn more_busy_lanes_than_a_plan_names_are_all_served_in_turn() {
    let mut matching = Matching::default();
    join(&mut matching, 0, &[]);
    let lanes: Vec<Arc<Lane>> = (0..3 * MAX_LANES).map(|n| lane("mail", &format!("!x{n}"))).collect();
    let mut named = BTreeSet::new();
    for _ in 0..3 {
        // As if every claim filled all takers: all lanes stay ready.
        lanes.iter().for_each(|lane| matching.lane_ready(lane, LaneNews::Own));
        named.extend(plan(&mut matching).into_iter().flat_map(|group| group.lanes));
    }
    assert_eq!(named.len(), lanes.len());
}

#[test]
fn ten_thousand_agents_with_labels_of_their_own_are_one_class_for_a_lane_that_fits_all() {
    let mut matching = Matching::default();
    for n in 0..10_000 {
        join(&mut matching, n, &[("host", &n.to_string())]);
    }
    matching.lane_ready(&lane("mail", ""), LaneNews::Own);
    assert_eq!(matching.classes.len(), 1);
    let groups = plan(&mut matching);
    assert_eq!((groups.len(), groups[0].takers.len()), (1, MAX_TAKERS));
}

#[test]
fn classes_that_differ_in_other_lanes_share_a_group() {
    let mut matching = Matching::default();
    for n in 0..100 {
        join(&mut matching, n, &[("host", &n.to_string())]);
        matching.lane_ready(&lane("mail", &format!("host={n}")), LaneNews::Own);
    }
    while !plan(&mut matching).is_empty() {}
    assert_eq!(matching.classes.len(), 100);
    let all = lane("mail", "");
    let mut served = BTreeSet::new();
    for _ in 0..10 {
        matching.lane_ready(&all, LaneNews::Own);
        let groups = plan(&mut matching);
        assert_eq!(groups.len(), 1, "one statement for all of them");
        served.extend(groups[0].takers.iter().map(|taker| taker.session.id));
    }
    assert_eq!(served.len(), 100, "in turn");
}

#[test]
fn whoever_leaves_takes_along_what_only_it_needed() {
    let mut matching = Matching::default();
    for n in 0..100 {
        join(&mut matching, n, &[("host", &n.to_string())]);
        matching.lane_ready(&lane("mail", &format!("host={n}")), LaneNews::Own);
    }
    (0..100).for_each(|n| matching.leave(session(n)));
    assert!(matching.classes.is_empty() && matching.class_of.is_empty() && matching.free.is_empty());
    for n in 0..2 * MAX_KNOWN_LANES {
        matching.lane_ready(&lane("mail", &format!("x={n}")), LaneNews::Own);
        matching.ready.clear();
    }
    assert!(matching.lanes.len() <= MAX_KNOWN_LANES);
}

#[test]
fn a_prefetch_waits_while_anybody_who_fits_has_a_free_slot() {
    let mut matching = Matching::default();
    join(&mut matching, 0, &[("host", "a")]);
    join(&mut matching, 1, &[("host", "b")]);
    matching.lane_ready(&lane("mail", "host=a"), LaneNews::Own);
    matching.lane_ready(&lane("mail", ""), LaneNews::Own);
    matching.stand(session(0), Some(Line::Roomy));
    let groups = plan(&mut matching);
    let shared = groups.iter().find(|group| group.lanes == [lane("mail", "").id()]).unwrap();
    assert_eq!(shared.takers.iter().map(|taker| taker.session.id).collect::<Vec<_>>(), [session(1)]);
    let own = groups.iter().find(|group| group.lanes == [lane("mail", "host=a").id()]).unwrap();
    assert_eq!(own.takers[0].session.id, session(0));
}

#[test]
fn a_lane_without_a_free_slot_is_told_once_until_there_is_news() {
    let mut matching = Matching::default();
    let mail = lane("mail", "");
    matching.lane_ready(&mail, LaneNews::Own);
    assert_eq!(matching.short_lanes(), [mail.id()], "nobody is here");
    assert!(matching.short_lanes().is_empty());
    matching.lane_ready(&mail, LaneNews::Heard);
    assert!(matching.short_lanes().is_empty(), "that is what was told");
    matching.lane_ready(&mail, LaneNews::Own);
    assert_eq!(matching.short_lanes(), [mail.id()]);
    matching.lane_ready(&mail, LaneNews::Own);
    join(&mut matching, 0, &[]);
    assert!(matching.short_lanes().is_empty(), "somebody here has a free slot");
}

#[test]
fn news_from_elsewhere_is_not_told_on() {
    let mut matching = Matching::default();
    let mail = lane("mail", "");
    matching.lane_ready(&mail, LaneNews::Heard);
    assert!(matching.short_lanes().is_empty());
    // Own news that was not told yet is not forgotten over what is heard.
    matching.lane_ready(&mail, LaneNews::Own);
    matching.lane_ready(&mail, LaneNews::Heard);
    assert_eq!(matching.short_lanes(), [mail.id()]);
}

#[test]
fn nothing_is_prefetched_while_somebody_elsewhere_is_idle() {
    let mut matching = Matching::default();
    let mail = lane("mail", "");
    join(&mut matching, 0, &[]);
    matching.stand(session(0), Some(Line::Roomy));
    matching.lane_ready(&mail, LaneNews::Own);
    let idle = BTreeMap::from([("mail".parse().unwrap(), 1)]);
    assert!(!matching.set_idle_elsewhere(idle));
    assert!(plan(&mut matching).is_empty());
    assert_eq!(matching.short_lanes(), [mail.id()]);
    assert!(matching.set_idle_elsewhere(BTreeMap::from([("fax".parse().unwrap(), 1)])));
    assert_eq!(plan(&mut matching).len(), 1);
}

#[test]
fn whoever_has_nothing_to_do_is_named_by_kind() {
    let mut matching = Matching::default();
    join(&mut matching, 0, &[]);
    join(&mut matching, 1, &[]);
    matching.stand(session(1), None);
    let idle: Vec<_> = matching.idle_kinds().map(|(kind, session)| (kind.to_string(), session)).collect();
    assert_eq!(idle, [("mail".to_owned(), session(0))]);
    matching.lane_ready(&lane("mail", ""), LaneNews::Own);
    assert_eq!(matching.idle_kinds().count(), 0);
}
