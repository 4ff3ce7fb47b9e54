//! The audit log.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::audit::{AuditEntry, AuditFilter, AuditLog, AuditOutcome, AuditRecord};
use mamos_core::store::{Page, PageRequest};
use mamos_core::{Store, Timestamp};
use mamos_store::MemoryStore;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(1_790_000_000_000_000 + millis * 1000)
}

fn log(keep: Option<Duration>) -> AuditLog {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    AuditLog::new(store, keep)
}

fn entry(principal: &str, action: &str, target: &str, outcome: AuditOutcome) -> AuditEntry {
    AuditEntry { outcome, ..AuditEntry::done(principal, action, target) }
}

fn targets(page: &Page<AuditRecord>) -> Vec<&str> {
    page.items.iter().map(|record| record.entry.target.as_str()).collect()
}

#[tokio::test]
async fn records_are_listed_newest_first_in_the_order_in_which_they_were_written() {
    let log = log(None);
    let written = |numbers: std::ops::Range<usize>| {
        numbers.map(|number| AuditEntry::done("host", "test", number.to_string())).collect::<Vec<_>>()
    };
    // Two batches within one millisecond.
    log.append(written(0..20), at(0)).await.unwrap();
    log.append(written(20..40), at(0) + Duration::from_micros(1)).await.unwrap();
    log.append(written(40..41), at(1)).await.unwrap();
    let page = log.list(&AuditFilter::default(), PageRequest::first(100), at(1)).await.unwrap();
    let expected: Vec<String> = (0..41).rev().map(|number| number.to_string()).collect();
    assert_eq!(targets(&page), expected);
    assert_eq!((page.items[0].at, page.items[40].at), (at(1), at(0)));
}

#[tokio::test]
async fn a_filter_lets_through_what_fits_all_of_it() {
    use AuditOutcome::{Denied, Done, Failed};
    let log = log(None);
    let entries = [
        entry("user:ann", "agent.drain", "a", Done),
        entry("user:ann", "agent.revoke", "b", Denied),
        entry("user:bob", "agent.drain", "c", Failed),
        entry("user:bob", "agents", "d", Done),
        entry("user:bobby", "job.cancel", "a", Done),
    ];
    for (index, entry) in entries.into_iter().enumerate() {
        log.append(vec![entry], at(index as i64)).await.unwrap();
    }
    let text = |text: &str| Some(text.to_owned());
    let any = AuditFilter::default;
    for (filter, expected) in [
        (any(), vec!["a", "d", "c", "b", "a"]),
        (AuditFilter { principal: text("user:bob"), ..any() }, vec!["d", "c"]),
        (AuditFilter { action: text("agent.drain"), ..any() }, vec!["c", "a"]),
        (AuditFilter { action: text("agent."), ..any() }, vec!["c", "b", "a"]),
        (AuditFilter { action: text("agent"), ..any() }, vec![]),
        (AuditFilter { target: text("a"), ..any() }, vec!["a", "a"]),
        (AuditFilter { outcome: Some(Denied), ..any() }, vec!["b"]),
        (AuditFilter { principal: text("user:ann"), outcome: Some(Done), ..any() }, vec!["a"]),
    ] {
        let page = log.list(&filter, PageRequest::first(10), at(9)).await.unwrap();
        assert_eq!(targets(&page), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn a_rare_record_is_found_in_steps_that_are_bounded() {
    let log = log(None);
    log.append(vec![AuditEntry::done("user:ann", "rare", "the one")], at(0)).await.unwrap();
    for batch in 1..=7 {
        let entries = (0..1000).map(|_| AuditEntry::done("user:bob", "often", "")).collect();
        log.append(entries, at(batch)).await.unwrap();
    }
    let filter = AuditFilter { principal: Some("user:ann".to_owned()), ..AuditFilter::default() };
    let first = log.list(&filter, PageRequest::first(500), at(9)).await.unwrap();
    assert!(first.items.is_empty() && first.next.is_some(), "7001 are more than one call looks at");
    let rest = PageRequest { limit: 500, after: first.next };
    let second = log.list(&filter, rest, at(9)).await.unwrap();
    assert_eq!(targets(&second), ["the one"]);
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn pages_join_without_a_gap_or_a_repeat() {
    let log = log(None);
    for number in 0..100 {
        let principal = if number % 3 == 0 { "user:ann" } else { "user:bob" };
        let entry = AuditEntry::done(principal, "test", number.to_string());
        log.append(vec![entry], at(number)).await.unwrap();
    }
    let filter = AuditFilter { principal: Some("user:ann".to_owned()), ..AuditFilter::default() };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = log.list(&filter, PageRequest { limit: 7, after }, at(999)).await.unwrap();
        assert!(page.items.len() <= 7);
        found.extend(page.items.into_iter().map(|record| record.entry.target));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<String> =
        (0..100).rev().filter(|number| number % 3 == 0).map(|n| n.to_string()).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn long_texts_are_cut_between_characters() {
    let log = log(None);
    let long = "ä".repeat(1000);
    let entry = AuditEntry {
        detail: format!("x{long}"),
        peer: long.clone(),
        ..AuditEntry::done(&*long, "test", &*long)
    };
    log.append(vec![entry], at(0)).await.unwrap();
    let page = log.list(&AuditFilter::default(), PageRequest::first(1), at(0)).await.unwrap();
    let entry = &page.items[0].entry;
    assert_eq!(entry.principal, "ä".repeat(256));
    assert_eq!((entry.target.len(), entry.peer.len()), (512, 512));
    assert_eq!(entry.detail, format!("x{}", "ä".repeat(255)));
}

#[tokio::test]
async fn records_are_kept_as_long_as_they_should_be() {
    for (keep, there) in [(None, 1), (Some(Duration::from_secs(60)), 0)] {
        let log = log(keep);
        log.append(vec![AuditEntry::done("host", "test", "")], at(0)).await.unwrap();
        let count = async |now| {
            log.list(&AuditFilter::default(), PageRequest::first(1), now).await.unwrap().items.len()
        };
        assert_eq!(count(at(59_999)).await, 1);
        assert_eq!(count(at(60_000)).await, there, "{keep:?}");
    }
}
