//! How topics and groups are named on the server.

use std::fmt::Write as _;

use mamos_core::id::{GroupName, TopicName};
use sha2::{Digest, Sha256};

/// The subjects and names of one topic.
#[derive(Debug, Clone)]
pub(super) struct Subjects {
    prefix: String,
    /// The topic as tokens. A dot separates tokens, so that permissions can name a whole branch; a token
    /// may not be empty, so an empty one is written with a character that topics do not have.
    tokens: String,
}

impl Subjects {
    pub(super) fn new(prefix: &str, topic: &TopicName) -> Self {
        let tokens: Vec<_> =
            topic.as_str().split('.').map(|token| if token.is_empty() { "~" } else { token }).collect();
        Self { prefix: prefix.to_owned(), tokens: tokens.join(".") }
    }

    /// For those who listen.
    pub(super) fn transient(&self) -> String {
        format!("{}.t.{}", self.prefix, self.tokens)
    }

    /// For the topic's stream, if it has one.
    pub(super) fn durable(&self) -> String {
        format!("{}.d.{}", self.prefix, self.tokens)
    }

    /// A part of a large message for those who listen; `*` for both is all of them.
    pub(super) fn transient_part(&self, id: &str, number: &str) -> String {
        format!("{}.t.{}.~p.{id}.{number}", self.prefix, self.tokens)
    }

    /// A part of a large message for the stream of parts.
    pub(super) fn durable_part(&self, id: &str, number: &str) -> String {
        format!("{}.d.{}.~p.{id}.{number}", self.prefix, self.tokens)
    }

    /// The topic's stream. Stream names allow less than topics do, hence a digest.
    pub(super) fn stream(&self) -> String {
        format!("{}_d_{}", self.prefix, digest(&[&self.tokens]))
    }

    /// The stream of the parts of its large messages.
    pub(super) fn parts_stream(&self) -> String {
        format!("{}_p_{}", self.prefix, digest(&[&self.tokens]))
    }

    /// Is this one of JetStream's subjects about the streams of the topic? They have the stream as a token:
    /// `$JS.API.STREAM.INFO.stream`, `$JS.ACK.stream.consumer.…`.
    pub(super) fn concern(&self, subject: &str) -> bool {
        let (stream, parts) = (self.stream(), self.parts_stream());
        subject.starts_with("$JS.") && subject.split('.').any(|token| token == stream || token == parts)
    }

    /// The consumer of a group.
    pub(super) fn consumer(&self, group: &GroupName) -> String {
        digest(&[&self.tokens, group.as_str()])
    }
}

/// 128 bits in hex, which no two names in use share.
pub(super) fn digest(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    let mut hex = String::with_capacity(32);
    for byte in &hash.finalize()[..16] {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_topic_has_a_valid_subject_of_its_own() {
        let topics = ["a", "a.", "a..", "a.b", "a..b", "a.b.", "a:b", "a/b", "a-b", "A", "a._"];
        let subjects: Vec<_> =
            topics.iter().map(|topic| Subjects::new("mamos", &TopicName::new(topic).unwrap())).collect();
        let distinct: HashSet<_> = subjects.iter().map(Subjects::transient).collect();
        let streams: HashSet<_> = subjects.iter().map(Subjects::stream).collect();
        assert_eq!((distinct.len(), streams.len()), (topics.len(), topics.len()));
        for subject in distinct {
            assert!(subject.split('.').all(|token| !token.is_empty()), "{subject}");
            assert!(!subject.contains(['*', '>', ' ']), "{subject}");
        }
    }

    #[test]
    fn permissions_can_name_a_link() {
        let subjects = Subjects::new("mamos", &TopicName::new("link.L.up").unwrap());
        assert_eq!(subjects.transient(), "mamos.t.link.L.up");
        assert_eq!(subjects.durable(), "mamos.d.link.L.up");
        assert_eq!(subjects.transient_part("*", "*"), "mamos.t.link.L.up.~p.*.*");
    }

    #[test]
    fn groups_do_not_run_into_topics() {
        let consumer = |topic: &str, group: &str| {
            Subjects::new("m", &TopicName::new(topic).unwrap()).consumer(&GroupName::new(group).unwrap())
        };
        assert_ne!(consumer("a.b", "c"), consumer("a", "b.c"));
    }
}
