//! How topics and groups are named on the server.
//!
//! Names of topics and groups have no `|`, so a key says where one ends and the other begins.

use mamos_core::id::{GroupName, TopicName};

/// The channel of a topic.
pub(super) fn channel(prefix: &str, topic: &TopicName) -> String {
    format!("{prefix}:t:{topic}")
}

/// Who is alive in the transient groups of a topic: a sorted set of `group|member` by when it expires.
pub(super) fn members(prefix: &str, topic: &TopicName) -> String {
    format!("{prefix}:m:{topic}")
}

/// The list of what waits for a transient group; the name of the group is appended.
pub(super) fn lists(prefix: &str, topic: &TopicName) -> String {
    format!("{prefix}:q:{topic}|")
}

/// The stream of a durable topic.
pub(super) fn stream(prefix: &str, topic: &TopicName) -> String {
    format!("{prefix}:d:{topic}")
}

/// Who is alive in a durable group: a sorted set of consumers by when they expire.
pub(super) fn alive(prefix: &str, topic: &TopicName, group: &GroupName) -> String {
    format!("{prefix}:c:{topic}|{group}")
}

/// A small stream that wakes one member of a durable group when another has left.
pub(super) fn wake(prefix: &str, topic: &TopicName, group: &GroupName) -> String {
    format!("{prefix}:w:{topic}|{group}")
}
