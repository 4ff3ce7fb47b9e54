//! The examples of `docs/protocol.md` are what the types say.

#![expect(clippy::unwrap_used, reason = "tests, and their helpers outside test functions")]

use std::collections::BTreeSet;

use mamos_core::auth::{Credentials, KeyPair};
use mamos_core::id::AgentId;
use mamos_core::protocol::{Envelope, FromAgent, ToAgent};
use mamos_core::transport::Encoding;
use serde::Serialize;
use serde::de::DeserializeOwned;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The fenced examples of one side.
fn examples(side: &str) -> Vec<&'static str> {
    let blocks = DOCUMENT.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.split_once('\n'));
    blocks.filter(|(info, _)| *info == format!("json {side}")).map(|(_, text)| text).collect()
}

/// All messages of one side's examples. Each is read, and survives both encodings.
fn messages<M: Serialize + DeserializeOwned + PartialEq + Clone + std::fmt::Debug>(side: &str) -> Vec<M> {
    let mut messages = Vec::new();
    for text in examples(side) {
        let envelope = Envelope::<M>::decode(Encoding::Text, text.as_bytes());
        let envelope = envelope.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        for encoding in [Encoding::Binary, Encoding::Text] {
            let bytes = envelope.encode(encoding).unwrap();
            assert_eq!(Envelope::<M>::decode(encoding, &bytes).unwrap(), envelope);
        }
        messages.extend(envelope.messages);
    }
    messages
}

/// The names of values of an enum, as the wire has them.
fn names(values: impl IntoIterator<Item = serde_json::Value>) -> BTreeSet<String> {
    let name = |value: serde_json::Value| match value {
        serde_json::Value::String(name) => name,
        value => value.as_object().unwrap().keys().next().unwrap().clone(),
    };
    values.into_iter().map(name).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn json(value: impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn every_example_says_whose_it_is() {
    let fences = DOCUMENT.matches("```json").count();
    assert_eq!(fences, examples("agent").len() + examples("orchestrator").len());
}

#[test]
fn every_message_of_an_agent_is_shown() {
    let messages: Vec<FromAgent> = messages("agent");
    assert_eq!(names(messages.iter().map(json)), set(["hello", "reports", "slots", "heartbeat", "bye"]));
    let reports = messages.iter().filter_map(|message| match message {
        FromAgent::Reports { reports, .. } => Some(reports),
        _ => None,
    });
    let events: Vec<serde_json::Value> = reports.flatten().map(|report| json(&report.event)).collect();
    assert_eq!(names(events.clone()), set(["started", "progress", "log", "ended", "released"]));
    let ends = events.iter().filter_map(|event| event.get("ended").cloned());
    assert_eq!(names(ends), set(["succeeded", "retry", "bury", "snooze", "cancelled"]));
}

#[test]
fn every_message_of_an_orchestrator_is_shown() {
    let messages: Vec<ToAgent> = messages("orchestrator");
    let expected = set([
        "challenge",
        "welcome",
        "refused",
        "dispatch",
        "recorded",
        "cancel",
        "kill",
        "retract",
        "token",
        "drain",
        "superseded",
    ]);
    assert_eq!(names(messages.iter().map(json)), expected);
}

/// The document says which private key made them; its proofs were made without this crate.
#[test]
fn the_proofs_and_the_id_are_those_of_the_key() {
    let key = KeyPair::from_seed(std::array::from_fn(|n| u8::try_from(n).unwrap())).unwrap();
    let nonce = messages::<ToAgent>("orchestrator").into_iter().find_map(|message| match message {
        ToAgent::Challenge { nonce } => Some(nonce),
        _ => None,
    });
    let nonce = nonce.unwrap();
    let mut shown = 0;
    for message in messages("agent") {
        let FromAgent::Hello(hello) = message else { continue };
        let (token, proof) = match hello.credentials {
            Credentials::Registration { token, key: public, proof } => {
                assert_eq!(public, key.public_key());
                (token, proof)
            }
            Credentials::Agent { token, proof } => (token, proof),
            other => panic!("{other:?}"),
        };
        assert_eq!(key.prove(&nonce, token.expose()), proof);
        shown += 1;
    }
    assert_eq!(shown, 2);
    let welcomed = messages::<ToAgent>("orchestrator").into_iter().find_map(|message| match message {
        ToAgent::Welcome(welcome) => Some(welcome.agent),
        _ => None,
    });
    let welcomed = welcomed.unwrap();
    let public = key.public_key();
    assert_eq!(welcomed, AgentId::from_public_key(welcomed.kind().clone(), public.as_bytes()));
}
