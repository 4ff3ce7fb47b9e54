//! Promises about documents.

use std::sync::Arc;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::store::{
    Document, DocumentChange, DocumentFilter, DocumentWrite, Expected, MAX_DOCUMENT_BYTES,
    MAX_DOCUMENT_NAME_BYTES, PageRequest, Written,
};
use mamos_core::{ErrorKind, Store};

use super::scene::{at, document_keys, put, put_until, remove, write_documents};

async fn write(store: &Arc<dyn Store>, write: DocumentWrite, now: Timestamp) -> Written {
    write_documents(store, vec![write], now).await.remove(0)
}

/// The document with that key of the collection `notes`.
async fn note(store: &Arc<dyn Store>, key: &str, now: Timestamp) -> Option<Document> {
    store.document("notes", key, now).await.unwrap()
}

fn document(key: &str, revision: u64, value: &'static str, expires_at: Option<Timestamp>) -> Document {
    Document { key: key.to_owned(), revision, value: Bytes::from_static(value.as_bytes()), expires_at }
}

fn notes(prefix: &str, is_descending: bool) -> DocumentFilter {
    DocumentFilter { collection: "notes".to_owned(), prefix: prefix.to_owned(), is_descending }
}

/// Puts a note under each of the keys.
async fn put_notes(store: &Arc<dyn Store>, keys: &[&str]) {
    let writes: Vec<_> = keys.iter().map(|key| put(key, Expected::Absent, "x")).collect();
    for written in write_documents(store, writes, at(0)).await {
        assert_eq!(written, Written::Done(1));
    }
}

pub async fn a_written_document_reads_back_as_it_was_given(store: &Arc<dyn Store>) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let value = Bytes::from(every_byte);
    let change = DocumentChange::Put { value: value.clone(), expires_at: Some(at(9)) };
    let binary = DocumentWrite { change, ..put("bin/\u{0}/ä/%", Expected::Absent, "") };
    let empty = put("empty", Expected::Any, "");
    assert_eq!(
        write_documents(store, vec![binary, empty], at(0)).await,
        [Written::Done(1), Written::Done(1)]
    );
    let wanted = Document { key: "bin/\u{0}/ä/%".to_owned(), revision: 1, value, expires_at: Some(at(9)) };
    assert_eq!(note(store, &wanted.key, at(1)).await, Some(wanted.clone()));
    assert_eq!(note(store, "empty", at(1)).await, Some(document("empty", 1, "", None)));
    let listed = store.documents(notes("", false), PageRequest::default(), at(1)).await.unwrap();
    assert_eq!(listed.items, [wanted, document("empty", 1, "", None)]);
    assert_eq!(note(store, "missing", at(1)).await, None);
    assert!(store.write_documents(Vec::new(), at(1)).await.unwrap().is_empty());
}

pub async fn each_change_of_a_document_raises_its_revision(store: &Arc<dyn Store>) {
    let conditions = [Expected::Absent, Expected::Revision(1), Expected::Any, Expected::Any];
    for (revision, expected) in (1..).zip(conditions) {
        assert_eq!(write(store, put("a", expected, "same"), at(0)).await, Written::Done(revision));
        assert_eq!(note(store, "a", at(0)).await, Some(document("a", revision, "same", None)));
    }
}

pub async fn a_condition_that_does_not_hold_changes_nothing(store: &Arc<dyn Store>) {
    put_notes(store, &["a"]).await;
    let stored = document("a", 1, "x", None);
    for expected in [Expected::Absent, Expected::Revision(2), Expected::Revision(0)] {
        let written = write(store, put("a", expected, "other"), at(1)).await;
        assert_eq!(written, Written::Conflict(Some(stored.clone())), "{expected:?}");
        let removed = write(store, remove("a", expected), at(1)).await;
        assert_eq!(removed, Written::Conflict(Some(stored.clone())), "{expected:?}");
    }
    assert_eq!(write(store, put("b", Expected::Revision(1), "x"), at(1)).await, Written::Conflict(None));
    assert_eq!(note(store, "a", at(1)).await, Some(stored));
    assert_eq!(note(store, "b", at(1)).await, None);
}

pub async fn a_repeated_write_of_a_document_counts_as_written(store: &Arc<dyn Store>) {
    let first = put_until("a", Expected::Absent, "one", Some(at(99)));
    let second = put("a", Expected::Revision(1), "two");
    for _ in 0..2 {
        assert_eq!(write(store, first.clone(), at(0)).await, Written::Done(1));
    }
    let both = write_documents(store, vec![second.clone(), second.clone()], at(1)).await;
    assert_eq!(both, [Written::Done(2), Written::Done(2)], "within a batch too");
    assert_eq!(write(store, second.clone(), at(2)).await, Written::Done(2));
    let stored = document("a", 2, "two", None);
    assert_eq!(note(store, "a", at(2)).await, Some(stored.clone()));
    // Neither another wish nor one that was overtaken is a repeat.
    let others = [
        put("a", Expected::Revision(1), "TWO"),
        put_until("a", Expected::Revision(1), "two", Some(at(99))),
        put("a", Expected::Absent, "two"),
        put("a", Expected::Revision(0), "two"),
        first,
    ];
    for other in others {
        let written = write(store, other.clone(), at(3)).await;
        assert_eq!(written, Written::Conflict(Some(stored.clone())), "{other:?}");
    }
}

pub async fn removing_a_document_that_is_gone_counts_as_removed(store: &Arc<dyn Store>) {
    put_notes(store, &["a"]).await;
    assert_eq!(write(store, remove("a", Expected::Revision(1)), at(1)).await, Written::Done(0));
    for expected in [Expected::Revision(1), Expected::Any, Expected::Absent] {
        assert_eq!(write(store, remove("a", expected), at(1)).await, Written::Done(0), "{expected:?}");
    }
    assert_eq!(note(store, "a", at(1)).await, None);
    assert_eq!(document_keys(store, notes("", false), 10, at(1)).await, Vec::<String>::new());
    // Whoever changed what is gone now is told so.
    assert_eq!(write(store, put("a", Expected::Revision(1), "y"), at(1)).await, Written::Conflict(None));
    assert_eq!(write(store, put("a", Expected::Absent, "y"), at(1)).await, Written::Done(1));
}

pub async fn an_expired_document_is_gone_for_every_method(store: &Arc<dyn Store>) {
    write(store, put_until("a", Expected::Absent, "one", Some(at(10))), at(0)).await;
    put_notes(store, &["b"]).await;
    let (before, then) = (at(10) - super::scene::SECOND, at(10));
    assert!(note(store, "a", before).await.is_some());
    assert_eq!(document_keys(store, notes("", false), 10, before).await, ["a", "b"]);
    assert_eq!(note(store, "a", then).await, None);
    for is_descending in [false, true] {
        for size in [1, 10] {
            assert_eq!(document_keys(store, notes("", is_descending), size, then).await, ["b"]);
        }
    }
    assert_eq!(write(store, put("a", Expected::Revision(1), "two"), then).await, Written::Conflict(None));
    assert_eq!(write(store, remove("a", Expected::Revision(7)), then).await, Written::Done(0));
}

pub async fn a_write_over_an_expired_document_begins_again(store: &Arc<dyn Store>) {
    for expected in [Expected::Absent, Expected::Any] {
        for _ in 0..3 {
            write(store, put_until("a", Expected::Any, "old", Some(at(10))), at(0)).await;
        }
        assert_eq!(write(store, put("a", expected, "new"), at(10)).await, Written::Done(1));
        assert_eq!(note(store, "a", at(10)).await, Some(document("a", 1, "new", None)));
        assert_eq!(store.prune_documents(at(99), 10).await.unwrap(), 0, "the old expiry is forgotten");
        write(store, remove("a", Expected::Any), at(10)).await;
    }
}

pub async fn what_expired_before_it_was_written_is_gone(store: &Arc<dyn Store>) {
    put_notes(store, &["a"]).await;
    for (key, expected) in [("a", Expected::Revision(1)), ("b", Expected::Absent)] {
        let late = put_until(key, expected, "late", Some(at(10)));
        for _ in 0..2 {
            assert_eq!(write(store, late.clone(), at(10)).await, Written::Done(0));
        }
        assert_eq!(note(store, key, at(10)).await, None);
    }
}

pub async fn documents_of_a_batch_are_written_in_order(store: &Arc<dyn Store>) {
    let writes = vec![
        put("a", Expected::Absent, "1"),
        put("a", Expected::Revision(1), "2"),
        put("b", Expected::Revision(5), "never"),
        put("a", Expected::Absent, "never"),
        remove("a", Expected::Revision(2)),
        put("a", Expected::Absent, "3"),
        put("c", Expected::Absent, "gone"),
        remove("c", Expected::Any),
    ];
    let answers = write_documents(store, writes, at(0)).await;
    let wanted = [
        Written::Done(1),
        Written::Done(2),
        Written::Conflict(None),
        Written::Conflict(Some(document("a", 2, "2", None))),
        Written::Done(0),
        Written::Done(1),
        Written::Done(1),
        Written::Done(0),
    ];
    assert_eq!(answers, wanted);
    assert_eq!(note(store, "a", at(0)).await, Some(document("a", 1, "3", None)));
    assert_eq!(document_keys(store, notes("", false), 10, at(0)).await, ["a"]);
}

pub async fn a_batch_of_documents_with_one_out_of_bounds_writes_nothing(store: &Arc<dyn Store>) {
    put_notes(store, &["kept"]).await;
    let long = "x".repeat(MAX_DOCUMENT_NAME_BYTES);
    let large = |bytes| DocumentChange::Put { value: vec![7; bytes].into(), expires_at: None };
    let bad = [
        put("", Expected::Any, "x"),
        put(&format!("{long}x"), Expected::Any, "x"),
        DocumentWrite { collection: String::new(), ..put("a", Expected::Any, "x") },
        DocumentWrite { collection: format!("{long}x"), ..put("a", Expected::Any, "x") },
        DocumentWrite { change: large(MAX_DOCUMENT_BYTES + 1), ..put("a", Expected::Any, "") },
        remove("", Expected::Any),
    ];
    for bad in bad {
        let writes = vec![put("before", Expected::Any, "x"), bad, remove("kept", Expected::Any)];
        let error = store.write_documents(writes, at(0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert_eq!(document_keys(store, notes("", false), 10, at(0)).await, ["kept"]);
    }
    let largest = DocumentWrite {
        collection: long.clone(),
        change: large(MAX_DOCUMENT_BYTES),
        ..put(&long, Expected::Absent, "")
    };
    assert_eq!(write(store, largest, at(0)).await, Written::Done(1));
    let stored = store.document(&long, &long, at(0)).await.unwrap().unwrap();
    assert!(stored.value.len() == MAX_DOCUMENT_BYTES && stored.value.iter().all(|byte| *byte == 7));
}

pub async fn one_of_many_writers_with_the_same_revision_wins(store: &Arc<dyn Store>) {
    put_notes(store, &["a"]).await;
    let tasks: Vec<_> = (0..30)
        .map(|n: u8| {
            let store = Arc::clone(store);
            let change = DocumentChange::Put { value: vec![n].into(), expires_at: None };
            let wish = DocumentWrite { change, ..put("a", Expected::Revision(1), "") };
            tokio::spawn(async move { (n, write(&store, wish, at(1)).await) })
        })
        .collect();
    let (mut winners, mut told) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            (n, Written::Done(2)) => winners.push(n),
            (_, answer) => told.push(answer),
        }
    }
    let stored = note(store, "a", at(1)).await.unwrap();
    assert_eq!((stored.revision, winners), (2, stored.value.to_vec()));
    assert!(told.iter().all(|answer| *answer == Written::Conflict(Some(stored.clone()))), "{told:?}");
}

/// Keys in the order of their bytes.
const SORTED: [&str; 16] = [
    "%",
    "A",
    "Z",
    "_",
    "a",
    "a%",
    "a%b",
    "a/",
    "aB",
    "a_",
    "ab",
    "a\u{10FFFF}",
    "b",
    "ä",
    "\u{FFFF}",
    "\u{10FFFF}",
];

pub async fn documents_are_listed_by_the_bytes_of_their_keys(store: &Arc<dyn Store>) {
    let mut shuffled = SORTED;
    shuffled.sort_by_key(|key| (key.len() * 7 + usize::from(key.as_bytes()[key.len() - 1])) % 5);
    put_notes(store, &shuffled).await;
    let backwards: Vec<&str> = SORTED.iter().rev().copied().collect();
    for size in [1, 2, 3, 8, 16, 17] {
        assert_eq!(document_keys(store, notes("", false), size, at(1)).await, SORTED, "pages of {size}");
        assert_eq!(document_keys(store, notes("", true), size, at(1)).await, backwards, "pages of {size}");
    }
    let page = store.documents(notes("", false), PageRequest::first(16), at(1)).await.unwrap();
    assert_eq!(page.next, None, "a full page at the end is the last one");
    let page = store.documents(notes("", false), PageRequest::first(0), at(1)).await.unwrap();
    assert_eq!((page.items.len(), page.next.is_some()), (1, true));
}

pub async fn the_prefix_of_a_list_of_documents_is_taken_literally(store: &Arc<dyn Store>) {
    put_notes(store, &SORTED).await;
    let cases = [
        ("a", vec!["a", "a%", "a%b", "a/", "aB", "a_", "ab", "a\u{10FFFF}"]),
        ("a%", vec!["a%", "a%b"]),
        ("a_", vec!["a_"]),
        ("_", vec!["_"]),
        ("%", vec!["%"]),
        ("z", vec![]),
        ("a\u{10FFFF}", vec!["a\u{10FFFF}"]),
        ("\u{10FFFF}", vec!["\u{10FFFF}"]),
        ("b/", vec![]),
    ];
    for (prefix, mut wanted) in cases {
        for size in [1, 3, 100] {
            assert_eq!(document_keys(store, notes(prefix, false), size, at(1)).await, wanted, "{prefix:?}");
        }
        wanted.reverse();
        for size in [1, 3, 100] {
            assert_eq!(document_keys(store, notes(prefix, true), size, at(1)).await, wanted, "{prefix:?}");
        }
    }
}

pub async fn a_list_of_documents_does_not_repeat_or_miss_any_while_it_changes(store: &Arc<dyn Store>) {
    for is_descending in [false, true] {
        let writes: Vec<_> = (10..30).step_by(2).map(|n| put(&n.to_string(), Expected::Any, "x")).collect();
        write_documents(store, writes, at(0)).await;
        let first = store.documents(notes("", is_descending), PageRequest::first(4), at(1)).await.unwrap();
        let mut keys: Vec<String> = first.items.iter().map(|document| document.key.clone()).collect();
        // On both sides of the cursor; and the cursor's own document goes.
        let added = ["09", "11", "99"].map(|key| put(key, Expected::Any, "x"));
        write_documents(store, added.to_vec(), at(1)).await;
        let gone = [keys[3].as_str(), "18"].map(|key| remove(key, Expected::Any));
        write_documents(store, gone.to_vec(), at(1)).await;
        let rest = PageRequest { limit: 100, after: first.next };
        let rest = store.documents(notes("", is_descending), rest, at(2)).await.unwrap();
        keys.extend(rest.items.into_iter().map(|document| document.key));
        let wanted: &[&str] = match is_descending {
            false => &["10", "12", "14", "16", "20", "22", "24", "26", "28", "99"],
            true => &["28", "26", "24", "22", "20", "16", "14", "12", "11", "10", "09"],
        };
        assert_eq!(keys, wanted);
        let all = document_keys(store, notes("", false), 100, at(2)).await;
        write_documents(store, all.iter().map(|key| remove(key, Expected::Any)).collect(), at(2)).await;
    }
}

pub async fn collections_of_documents_are_apart(store: &Arc<dyn Store>) {
    let within = |collection: &str, key: &str| DocumentWrite {
        collection: collection.to_owned(),
        ..put(key, Expected::Absent, "x")
    };
    let writes =
        vec![within("notes", "a"), within("note", "sa"), within("Notes", "a"), within("notes/", "b")];
    assert_eq!(write_documents(store, writes, at(0)).await, vec![Written::Done(1); 4]);
    assert_eq!(document_keys(store, notes("", false), 1, at(0)).await, ["a"]);
    write(store, remove("a", Expected::Any), at(1)).await;
    assert!(note(store, "a", at(1)).await.is_none());
    assert!(store.document("Notes", "a", at(1)).await.unwrap().is_some());
}

pub async fn pruning_removes_only_documents_that_expired(store: &Arc<dyn Store>) {
    let mut writes: Vec<_> =
        (0..7).map(|n| put_until(&format!("old {n}"), Expected::Absent, "x", Some(at(10)))).collect();
    writes.push(put_until("young", Expected::Absent, "x", Some(at(11))));
    writes.push(put("kept", Expected::Absent, "x"));
    write_documents(store, writes, at(0)).await;
    assert_eq!(store.prune_documents(at(9), 100).await.unwrap(), 0);
    assert_eq!(store.prune_documents(at(10), 0).await.unwrap(), 0);
    assert_eq!(store.prune_documents(at(10), 5).await.unwrap(), 5);
    // Whoever has a slow clock sees what is left.
    assert_eq!(document_keys(store, notes("old", false), 100, at(9)).await.len(), 2);
    assert_eq!(store.prune_documents(at(10), 5).await.unwrap(), 2);
    assert_eq!(store.prune_documents(at(10), 5).await.unwrap(), 0);
    assert_eq!(document_keys(store, notes("", false), 100, at(9)).await, ["kept", "young"]);
}
