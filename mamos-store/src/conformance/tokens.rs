//! Promises about registration tokens.

use std::sync::Arc;

use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::id::AgentKind;
use mamos_core::job::labels::Labels;
use mamos_core::{ErrorKind, Store};

use super::scene::{DAY, agent_id, agent_record, at, hash, public_key, token};

async fn is_denied(store: &Arc<dyn Store>, secret: u64, agent: u64, now: mamos_core::Timestamp) {
    let error = store.redeem(hash(secret), agent_record(agent), now).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(store.agent(&agent_id(agent)).await.unwrap(), None, "who is denied is not stored");
}

pub async fn a_token_admits_as_many_agents_as_it_has_uses(store: &Arc<dyn Store>) {
    store.create_token(token(1, 3)).await.unwrap();
    for n in 1..=3 {
        assert_eq!(store.redeem(hash(1), agent_record(n), at(1)).await.unwrap(), agent_record(n));
        let left: Vec<_> = store.tokens().await.unwrap().iter().map(|token| token.uses_left).collect();
        assert_eq!(left, if n == 3 { vec![] } else { vec![3 - n as u32] });
    }
    is_denied(store, 1, 4, at(1)).await;
}

pub async fn a_token_with_one_use_admits_one_of_many_at_once(store: &Arc<dyn Store>) {
    store.create_token(token(1, 1)).await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let store = Arc::clone(store);
            tokio::spawn(async move { store.redeem(hash(1), agent_record(n), at(1)).await })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Denied),
        }
    }
    assert_eq!(admitted, 1);
    assert_eq!(store.agents(Default::default()).await.unwrap().items.len(), 1);
}

pub async fn a_repeat_of_a_redeem_takes_no_use(store: &Arc<dyn Store>) {
    store.create_token(token(1, 2)).await.unwrap();
    for now in [at(1), at(2), at(DAY) - super::scene::SECOND] {
        assert_eq!(store.redeem(hash(1), agent_record(1), now).await.unwrap().id, agent_id(1));
    }
    assert_eq!(store.tokens().await.unwrap()[0].uses_left, 1);
    // A token that is over, or that there never was, is no repeat of anything.
    for (secret, now) in [(1, at(DAY)), (404, at(1))] {
        let error = store.redeem(hash(secret), agent_record(1), now).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    // With another key it is someone else who names that id.
    let mut other = agent_record(1);
    other.public_key = public_key(666);
    let error = store.redeem(hash(1), other, at(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let stored = store.agent(&agent_id(1)).await.unwrap().unwrap();
    assert_eq!(stored.public_key, agent_record(1).public_key);
    assert_eq!(store.tokens().await.unwrap()[0].uses_left, 1);
}

pub async fn a_token_that_does_not_fit_admits_nobody(store: &Arc<dyn Store>) {
    let of_kind =
        |n, kind: &str| RegistrationToken { agent_kind: Some(AgentKind::new(kind).unwrap()), ..token(n, 5) };
    store.create_token(of_kind(1, "security")).await.unwrap();
    store.create_token(of_kind(2, "kit")).await.unwrap();
    is_denied(store, 1, 1, at(1)).await;
    is_denied(store, 404, 1, at(1)).await;
    is_denied(store, 2, 1, at(DAY)).await;
    assert!(store.redeem(hash(2), agent_record(1), at(DAY) - super::scene::SECOND).await.is_ok());
    let mut listed = store.tokens().await.unwrap();
    listed.sort_by_key(|token| token.id);
    assert_eq!(listed, [of_kind(1, "security"), RegistrationToken { uses_left: 4, ..of_kind(2, "kit") }]);
}

pub async fn a_token_for_one_name_admits_no_other(store: &Arc<dyn Store>) {
    let named = |name: &str| {
        let mut agent = agent_record(1);
        agent.profile.name = name.to_owned();
        agent
    };
    let wanted = Some("rack 7".to_owned());
    store.create_token(RegistrationToken { agent_name: wanted, ..token(1, 5) }).await.unwrap();
    for name in ["", "rack", "rack 77", "Rack 7", "rack 7 "] {
        let error = store.redeem(hash(1), named(name), at(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{name:?}");
        assert_eq!(store.agent(&agent_id(1)).await.unwrap(), None, "who is denied is not stored");
    }
    assert_eq!(store.redeem(hash(1), named("rack 7"), at(1)).await.unwrap(), named("rack 7"));
    let listed = store.tokens().await.unwrap();
    let left = RegistrationToken { agent_name: Some("rack 7".to_owned()), uses_left: 4, ..token(1, 5) };
    assert_eq!(listed, [left]);
}

pub async fn a_new_agent_gets_the_labels_of_its_token(store: &Arc<dyn Store>) {
    let labels = Labels::new([("group", "web"), ("zone", "eu")]).unwrap();
    store.create_token(RegistrationToken { labels: labels.clone(), ..token(1, 5) }).await.unwrap();
    assert_eq!(store.tokens().await.unwrap()[0].labels, labels);
    let mut admitted = store.redeem(hash(1), agent_record(1), at(1)).await.unwrap();
    assert_eq!(admitted, AgentRecord { labels, ..agent_record(1) });
    assert_eq!(store.agent(&agent_id(1)).await.unwrap().as_ref(), Some(&admitted));
    // Later on they are the operator's, whom a repeat does not overrule.
    admitted.labels = Labels::default();
    let changed = store.update_agent(admitted, 1, at(2)).await.unwrap();
    assert_eq!(store.redeem(hash(1), agent_record(1), at(3)).await.unwrap(), changed);
}

pub async fn the_refusal_does_not_say_why(store: &Arc<dyn Store>) {
    store.create_token(token(1, 1)).await.unwrap();
    let kind = Some(AgentKind::new("security").unwrap());
    store.create_token(RegistrationToken { agent_kind: kind, ..token(2, 1) }).await.unwrap();
    let name = Some("someone else".to_owned());
    store.create_token(RegistrationToken { agent_name: name, ..token(3, 1) }).await.unwrap();
    store.redeem(hash(1), agent_record(1), at(1)).await.unwrap();
    let mut messages = Vec::new();
    for (secret, now) in [(1, at(1)), (2, at(1)), (2, at(2 * DAY)), (3, at(1)), (404, at(1))] {
        messages.push(store.redeem(hash(secret), agent_record(9), now).await.unwrap_err().to_string());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
}

pub async fn a_revoked_token_is_worthless(store: &Arc<dyn Store>) {
    store.create_token(token(1, 5)).await.unwrap();
    assert!(store.revoke_token(token(1, 5).id).await.unwrap());
    assert!(!store.revoke_token(token(1, 5).id).await.unwrap());
    assert!(!store.revoke_token(token(404, 5).id).await.unwrap());
    is_denied(store, 1, 1, at(1)).await;
    assert!(store.tokens().await.unwrap().is_empty());
}

pub async fn storing_a_token_again_does_not_refill_it(store: &Arc<dyn Store>) {
    store.create_token(token(1, 2)).await.unwrap();
    store.redeem(hash(1), agent_record(1), at(1)).await.unwrap();
    store.create_token(token(1, 2)).await.unwrap();
    assert_eq!(store.tokens().await.unwrap()[0].uses_left, 1);
    store.redeem(hash(1), agent_record(2), at(1)).await.unwrap();
    store.create_token(token(1, 2)).await.unwrap();
    is_denied(store, 1, 3, at(1)).await;
}
