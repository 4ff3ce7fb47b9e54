//! Promises about agents.

use std::sync::Arc;

use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentRecord, Revocation};
use mamos_core::id::InstanceId;
use mamos_core::job::labels::Labels;
use mamos_core::store::{Cursor, DocumentFilter, PageRequest};
use mamos_core::{ErrorKind, Store};

use super::scene::{admit, agent_id, agent_record, at, attach, attach_request, public_key, session};

pub async fn an_admitted_agent_reads_back_as_it_was_given(store: &Arc<dyn Store>) {
    admit(store, 1).await;
    assert_eq!(store.agent(&agent_id(1)).await.unwrap(), Some(agent_record(1)));
    assert_eq!(store.agent(&agent_id(404)).await.unwrap(), None);
}

pub async fn an_update_takes_what_operators_decide_and_nothing_else(store: &Arc<dyn Store>) {
    session(store, 1).await;
    let before = store.agent(&agent_id(1)).await.unwrap().unwrap();
    let mut wanted = before.clone();
    wanted.labels = Labels::new([("rack", "7")]).unwrap();
    wanted.is_draining = true;
    wanted.instance = Some(InstanceId::from_key("a life"));
    wanted.revocation = Some(Revocation::new(at(8), "its disk was stolen"));
    wanted.state = AgentState::Decommissioned;
    let mut sent = wanted.clone();
    sent.profile.slots = 999;
    sent.public_key = public_key(77);
    sent.registered_at = at(77);
    sent.changed_at = at(78);
    let updated = store.update_agent(sent, before.revision, at(9)).await.unwrap();
    wanted.revision = before.revision + 1;
    // Another life is a change of its session; the rest is not.
    wanted.changed_at = at(9);
    assert_eq!(updated, wanted);
    let again = store.update_agent(wanted.clone(), wanted.revision, at(10)).await.unwrap();
    assert_eq!(again, AgentRecord { revision: wanted.revision + 1, ..wanted });
    assert_eq!(store.agent(&agent_id(1)).await.unwrap(), Some(again));
}

pub async fn an_update_of_an_older_revision_is_refused(store: &Arc<dyn Store>) {
    admit(store, 1).await;
    let first = store.agent(&agent_id(1)).await.unwrap().unwrap();
    let mut draining = first.clone();
    draining.is_draining = true;
    let second = store.update_agent(draining, first.revision, at(1)).await.unwrap();
    let error = store.update_agent(first.clone(), first.revision, at(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(store.agent(&agent_id(1)).await.unwrap(), Some(second.clone()));
    // A session that comes or goes is a change too.
    attach(store, attach_request(1, 1), at(3)).await;
    let error = store.update_agent(second.clone(), second.revision, at(4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let error = store.update_agent(agent_record(404), 1, at(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

pub async fn an_agent_keeps_its_life_and_revocation_until_they_are_changed(store: &Arc<dyn Store>) {
    admit(store, 1).await;
    let mut agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
    let longest = Revocation::new(at(1), &"x".repeat(9999));
    for (life, revocation) in [("one", None), ("one", Some(longest)), ("two", None)] {
        agent.instance = Some(InstanceId::from_key(life));
        agent.revocation = revocation.clone();
        agent = store.update_agent(agent.clone(), agent.revision, at(2)).await.unwrap();
        attach(store, attach_request(1, agent.revision), at(3)).await;
        agent = store.agent(&agent_id(1)).await.unwrap().unwrap();
        assert_eq!(agent.instance, Some(InstanceId::from_key(life)), "a session is no change of it");
        assert_eq!(agent.revocation, revocation);
        assert_eq!(agent.public_key, public_key(1));
    }
}

pub async fn agents_are_listed_by_id_each_once(store: &Arc<dyn Store>) {
    for n in [5, 3, 9, 1, 7, 2, 8] {
        admit(store, n).await;
    }
    for size in [1, 2, 3, 7, 100] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.agents(PageRequest { limit: size, after }).await.unwrap();
            assert!(page.items.len() <= size as usize);
            listed.extend(page.items.into_iter().map(|agent| agent.id));
            after = page.next;
            if after.is_none() {
                break;
            }
            assert!(listed.len() < 20, "the pages come to an end");
        }
        assert_eq!(listed, [1, 2, 3, 5, 7, 8, 9].map(agent_id), "pages of {size}");
    }
}

pub async fn a_cursor_from_elsewhere_is_invalid(store: &Arc<dyn Store>) {
    admit(store, 1).await;
    for text in ["", "\u{0}", "not a cursor", "'; DROP TABLE jobs; --"] {
        let page = PageRequest { limit: 1, after: Some(Cursor(text.to_owned())) };
        let error = store.agents(page.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text:?}");
        let error = store.jobs(Default::default(), page).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text:?}");
        let page = PageRequest { limit: 1, after: Some(Cursor(text.to_owned())) };
        let filter =
            DocumentFilter { collection: "notes".to_owned(), prefix: String::new(), is_descending: false };
        let error = store.documents(filter, page, at(0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text:?}");
    }
}
