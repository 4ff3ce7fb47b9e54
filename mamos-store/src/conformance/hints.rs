//! Promises of a store that is shared: its clock and its hints. A store that has neither promises nothing here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::hint::{Heard, HintListener, MAX_HINT_BYTES};
use mamos_core::{ErrorKind, Store};

pub async fn the_time_of_a_shared_store_does_not_go_back(store: &Arc<dyn Store>) {
    let Some(mut last) = store.time().await.unwrap() else { return };
    for _ in 0..20 {
        let now = store.time().await.unwrap().expect("a store that has a clock keeps it");
        assert!(now >= last, "{now} came after {last}");
        last = now;
    }
}

pub async fn every_hint_is_heard_by_all_who_listen(store: &Arc<dyn Store>) {
    let Some(hints) = store.hints() else { return };
    let mut listeners = [hints.listen().await.unwrap(), hints.listen().await.unwrap()];
    // Any bytes, none, and the largest.
    let told = [Bytes::from_static(b"\0\xff'\\"), Bytes::new(), Bytes::from(vec![0xa5; MAX_HINT_BYTES])];
    hints.tell(told.to_vec()).await.unwrap();
    hints.tell(vec![Bytes::from_static(b"last")]).await.unwrap();
    for listener in &mut listeners {
        let heard = until_last(&mut **listener).await;
        for hint in &told {
            assert!(heard.contains(hint), "a hint of {} bytes was not heard", hint.len());
        }
    }
}

pub async fn a_hint_that_is_too_large_is_refused_and_none_of_its_batch_told(store: &Arc<dyn Store>) {
    let Some(hints) = store.hints() else { return };
    let mut listener = hints.listen().await.unwrap();
    let batch = vec![Bytes::from_static(b"small"), Bytes::from(vec![0; MAX_HINT_BYTES + 1])];
    assert_eq!(hints.tell(batch).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    hints.tell(vec![Bytes::from_static(b"last")]).await.unwrap();
    assert_eq!(until_last(&mut *listener).await, [Bytes::from_static(b"last")]);
}

/// What is heard up to the hint `last`, which is part of it.
async fn until_last(listener: &mut dyn HintListener) -> Vec<Bytes> {
    let mut all = Vec::new();
    loop {
        let heard = tokio::time::timeout(Duration::from_secs(30), listener.next()).await;
        match heard.expect("every hint is heard") {
            Heard::Hint(hint) => all.push(hint),
            heard => panic!("nothing was lost or closed, but the listener says {heard:?}"),
        }
        if all.last().is_some_and(|hint| hint == "last") {
            return all;
        }
    }
}
