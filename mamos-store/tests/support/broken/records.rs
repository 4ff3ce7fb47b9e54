//! Agents, tokens and documents whose rows cannot be understood leave the others alone.

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::id::AgentId;
use mamos_core::store::{DocumentChange, DocumentFilter, DocumentWrite, Expected, PageRequest, Written};

use super::{Bed, Database, NOW, agent, token};

/// The ids of all agents, through pages of that size.
async fn agents<D>(bed: &Bed<D>, limit: u32) -> Vec<AgentId> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = bed.store.agents(PageRequest { limit, after }).await.unwrap();
        ids.extend(page.items.into_iter().map(|agent| agent.id));
        after = page.next;
        if after.is_none() {
            return ids;
        }
    }
}

/// The keys of all notes, in pages of one.
async fn notes<D>(bed: &Bed<D>, is_descending: bool) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let collection = "notes".to_owned();
        let filter = DocumentFilter { collection, prefix: String::new(), is_descending };
        let page = bed.store.documents(filter, PageRequest { limit: 1, after }, NOW).await.unwrap();
        keys.extend(page.items.into_iter().map(|document| document.key));
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
}

fn put(key: &str, expected: Expected) -> DocumentWrite {
    DocumentWrite {
        collection: "notes".to_owned(),
        key: key.to_owned(),
        expected,
        change: DocumentChange::Put { value: Bytes::from_static(b"x"), expires_at: None },
    }
}

pub(crate) async fn a_broken_agent_leaves_the_others_alone<D: Database>() {
    for damage in D::BROKEN_AGENT {
        let mut bed = Bed::<D>::empty().await;
        bed.store.create_token(token(1)).await.unwrap();
        for n in 1..=4 {
            bed.store.redeem([1; 32], agent(n), NOW).await.unwrap();
        }
        let second = "uuid = (SELECT uuid FROM mamos_agent ORDER BY uuid LIMIT 1 OFFSET 1)";
        bed.damage(&format!("UPDATE mamos_agent SET {damage} WHERE {second}")).await;
        for limit in [1, 2, 100] {
            let listed = agents(&bed, limit).await;
            assert_eq!(listed, [1, 3, 4].map(|n| agent(n).id), "{damage}, pages of {limit}");
        }
        let error = bed.store.agent(&agent(2).id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}");
    }
}

pub(crate) async fn a_broken_token_admits_nobody_and_leaves_the_others_alone<D: Database>() {
    let mut bed = Bed::<D>::empty().await;
    bed.store.create_token(token(1)).await.unwrap();
    bed.store.create_token(token(2)).await.unwrap();
    let last = "id = (SELECT id FROM mamos_token ORDER BY id DESC LIMIT 1)";
    bed.damage(&format!("UPDATE mamos_token SET labels = 'garbage' WHERE {last}")).await;
    assert_eq!(bed.store.tokens().await.unwrap(), [token(1)]);
    let (bad, good) =
        tokio::join!(bed.store.redeem([2; 32], agent(2), NOW), bed.store.redeem([1; 32], agent(1), NOW));
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(good.is_ok());
    assert_eq!(agents(&bed, 9).await, [agent(1).id]);
}

pub(crate) async fn a_broken_document_leaves_the_others_alone_and_can_be_written_over<D: Database>() {
    for damage in D::BROKEN_DOCUMENT {
        let mut bed = Bed::<D>::empty().await;
        let writes = ["1", "2", "3", "4"].map(|key| put(key, Expected::Absent));
        bed.store.write_documents(writes.to_vec(), NOW).await.unwrap();
        bed.damage(&format!("UPDATE mamos_document SET {damage} WHERE key = {}", D::KEY_2)).await;
        assert_eq!(notes(&bed, false).await, ["1", "3", "4"], "{damage}");
        assert_eq!(notes(&bed, true).await, ["4", "3", "1"], "{damage}");
        let error = bed.store.document("notes", "2", NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}");
        let with_another = vec![put("5", Expected::Any), put("2", Expected::Absent)];
        let error = bed.store.write_documents(with_another, NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}: nobody knows what it was");
        assert_eq!(notes(&bed, false).await, ["1", "3", "4"], "{damage}");
        let mended = bed.store.write_documents(vec![put("2", Expected::Any)], NOW).await.unwrap();
        assert_eq!(mended, [Written::Done(1)], "{damage}");
        assert_eq!(notes(&bed, false).await, ["1", "2", "3", "4"], "{damage}");
    }
}

pub(crate) async fn a_key_that_is_no_text_is_left_out<D: Database>() {
    let mut bed = Bed::<D>::empty().await;
    let writes = ["1", "2", "3"].map(|key| put(key, Expected::Absent));
    bed.store.write_documents(writes.to_vec(), NOW).await.unwrap();
    bed.damage(&format!("UPDATE mamos_document SET key = {} WHERE key = {}", D::NO_KEY, D::KEY_2)).await;
    assert_eq!(notes(&bed, false).await, ["1", "3"]);
    assert_eq!(notes(&bed, true).await, ["3", "1"]);
}
