use std::sync::Arc;

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::auth::link_key;
use mamos_core::clock::Timestamp;
use mamos_core::store::{
    DocumentChange, DocumentFilter, DocumentStore, DocumentWrite, Expected, PageRequest,
};
use mamos_store::MemoryStore;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn orchestrators_that_race_agree_on_one_key() {
    let store = Arc::new(MemoryStore::new());
    assert!(link_key::find(&*store, NOW).await.unwrap().is_none(), "looking makes none");
    let racers = (0..32).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { link_key::find_or_make(&*store, NOW).await.unwrap().public_key() })
    });
    let mut keys = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        keys.push(racer.await.unwrap());
    }
    keys.dedup();
    assert_eq!(keys.len(), 1);
    let kept = link_key::find(&*store, NOW).await.unwrap().unwrap();
    assert_eq!(kept.public_key(), keys[0], "and the next start finds it");
}

#[tokio::test]
async fn what_is_no_key_is_refused_and_neither_shown_nor_replaced() {
    let store = MemoryStore::new();
    link_key::find_or_make(&store, NOW).await.unwrap();
    let filter =
        DocumentFilter { collection: "link_keys".to_owned(), prefix: String::new(), is_descending: false };
    let kept = store.documents(filter, PageRequest::first(10), NOW).await.unwrap().items.remove(0);
    for value in ["", "{}", r#"{"seed":"hush"}"#, r#"{"seed":["hush"]}"#] {
        let write = DocumentWrite {
            collection: "link_keys".to_owned(),
            key: kept.key.clone(),
            expected: Expected::Any,
            change: DocumentChange::Put { value: Bytes::from_static(value.as_bytes()), expires_at: None },
        };
        store.write_documents(vec![write], NOW).await.unwrap();
        let error = link_key::find_or_make(&store, NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{value}");
        assert!(error.to_string().contains("remove it"), "{error}");
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
}
