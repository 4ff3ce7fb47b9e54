//! How links and their topics are called.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mamos_core::id::TopicName;
use mamos_core::{Error, ErrorKind, Result};

use super::secrets::random;

/// The longest name of a link, in bytes: its topics fit into a [`TopicName`] with what is added.
const MAX_NAME_BYTES: usize = 64;

/// The name of an agent's links, for example its user at the broker.
///
/// 1 to 64 bytes of `A-Z a-z 0-9 _ -`, beginning with a letter or digit: it is one part of a topic, so that
/// a broker can keep the user to topics that begin with `link.` and this name and a dot. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkName(Arc<str>);

impl LinkName {
    /// Checks and takes a name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if it is not one.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !begins_well || text.len() > MAX_NAME_BYTES || !text.bytes().all(is_allowed) {
            let message = format!(
                "{:?} is no name of a link: write 1 to {MAX_NAME_BYTES} bytes of A-Z a-z 0-9 _ -, beginning with a \
                 letter or digit",
                text.chars().take(MAX_NAME_BYTES).collect::<String>()
            );
            return Err(Error::new(ErrorKind::Config, "link.name", message));
        }
        Ok(Self(text.into()))
    }

    /// A name that nobody else has.
    pub(super) fn fresh() -> Result<Self> {
        Ok(Self(format!("any-{}", ConnectionId(random()?)).into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LinkName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// Tells the connections of a link apart. Random, made by the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId(pub(super) [u8; 16]);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the agent to the orchestrator.
    Up,
    /// From the orchestrator to the agent.
    Down,
}

/// The topic of one direction of a connection: `link.<name>.<id>.up` or `.down`.
pub(super) fn topic(name: &LinkName, id: ConnectionId, direction: Direction) -> Result<TopicName> {
    let last = match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    };
    Ok(TopicName::new(format!("link.{name}.{id}.{last}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_begin_with_the_name_and_the_longest_fits() {
        let name = LinkName::new("x".repeat(MAX_NAME_BYTES)).unwrap();
        let topic = topic(&name, ConnectionId([0xab; 16]), Direction::Down).unwrap();
        assert!(
            topic.as_str().starts_with(&format!("link.{name}.abab")) && topic.as_str().ends_with(".down")
        );
        assert_ne!(LinkName::fresh().unwrap(), LinkName::fresh().unwrap());
    }

    /// A dot would reach into the topics of another link, a `*` or `>` into those of all.
    #[test]
    fn what_brokers_give_a_meaning_to_is_no_name() {
        for wrong in ["", "a.b", "*", ">", "#", "-a", "a b", "ä", "a/b", "a:b", &"x".repeat(65)] {
            assert_eq!(LinkName::new(wrong).unwrap_err().kind(), ErrorKind::Config, "{wrong}");
        }
    }
}
