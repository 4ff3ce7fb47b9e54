//! Names and numbers that identify things, and the rules for what a name may be.
//!
//! Ids are made from a [`Timestamp`] and random bits given by the caller, or derived from a key:
//! nothing in this module reads a clock or a random source.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Timestamp;

/// The longest name, in bytes, of a queue, job kind, agent kind, command, topic or group.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a text is not a valid id or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {reason}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    reason: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, text: &str, reason: &'static str) -> Self {
        // Hostile input may be megabytes long; an error message is not.
        let text = text.chars().take(MAX_NAME_BYTES).collect();
        Self { what, text, reason }
    }
}

macro_rules! uuid_id {
    ($(#[$docs:meta])* $name:ident, $what:literal) => {
        $(#[$docs])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a time-ordered id (UUID version 7) from the time and 128 random bits.
            pub fn from_parts(now: Timestamp, random: u128) -> Self {
                let millis = (now.as_micros().max(0) / 1000) as u128;
                let bits = (millis << 80) | (random & 0x0fff_3fff_ffff_ffff_ffff);
                Self(Uuid::from_u128((bits & !(0xf << 76)) | (0x7 << 76) | (0b10 << 62)))
            }

            /// Takes a UUID made elsewhere.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Derives the same id from the same text each time (UUID version 8, from SHA-256).
            pub fn from_key(key: &str) -> Self {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&Sha256::digest(key.as_bytes())[..16]);
                Self(uuid::Builder::from_bytes(bytes)
                    .with_version(uuid::Version::Custom)
                    .with_variant(uuid::Variant::RFC4122)
                    .into_uuid())
            }

            /// The UUID inside.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }

            /// The 16 bytes of the UUID, in the order in which ids sort.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| InvalidName::new($what, text, "expected a UUID"))
            }
        }
    };
}

uuid_id! {
    /// Identifies a job, and makes enqueueing idempotent: the enqueuer may choose it.
    JobId, "job id"
}
uuid_id! {
    /// Identifies one life of an agent's program: made when it starts, known to nobody but it and the
    /// orchestrator.
    InstanceId, "instance id"
}
uuid_id! {
    /// Identifies a record of the audit log.
    AuditId, "audit id"
}
uuid_id! {
    /// Identifies one session of an agent.
    SessionId, "session id"
}
uuid_id! {
    /// Identifies a registration token. Not secret: the token itself is.
    TokenId, "token id"
}

macro_rules! name {
    ($(#[$docs:meta])* $name:ident, $what:literal) => {
        $(#[$docs])*
        ///
        /// 1 to 128 bytes of `A-Z a-z 0-9 . _ : / -`, beginning with a letter or digit. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            ///
            /// [`InvalidName`] says which rule the text breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                check_name($what, text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The stable name of a type of job, for example `mail.send`. Stored, so never renamed.
    JobKind, "job kind"
}
name! {
    /// The name of a queue: a line of jobs that can be paused and counted together.
    QueueName, "queue name"
}
name! {
    /// The type of an agent, for example `security`. The first part of an [`AgentId`].
    AgentKind, "agent kind"
}
name! {
    /// The id of a whitelisted command, for example `disk-usage`.
    CommandId, "command id"
}
name! {
    /// The name of a topic on a [bus](crate::bus).
    TopicName, "topic"
}
name! {
    /// The name of a group of subscribers that share the messages of a topic.
    GroupName, "group"
}

impl JobKind {
    /// The kind of the jobs that run the given command: `command:` and its id.
    pub fn of_command(command: &CommandId) -> Self {
        Self(format!("{COMMAND_PREFIX}{command}").into())
    }

    /// The command that jobs of this kind run, or `None` for a typed job.
    pub fn command(&self) -> Option<CommandId> {
        self.0.strip_prefix(COMMAND_PREFIX).and_then(|id| CommandId::new(id).ok())
    }
}

impl QueueName {
    /// The queue of jobs that name none: `default`.
    pub fn default_queue() -> Self {
        Self("default".into())
    }
}

/// Identifies an agent: `{kind}-{uuid}`. Never reused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId {
    kind: AgentKind,
    uuid: Uuid,
}

impl AgentId {
    /// Makes a time-ordered id from the agent's kind, the time and 128 random bits.
    pub fn from_parts(kind: AgentKind, now: Timestamp, random: u128) -> Self {
        Self { kind, uuid: *JobId::from_parts(now, random).as_uuid() }
    }

    /// Derives the id of an agent from the public key that it registers with, so that registering twice
    /// with one key makes one agent.
    pub fn from_public_key(kind: AgentKind, key: &[u8; 32]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(key)[..16]);
        let uuid = uuid::Builder::from_bytes(bytes)
            .with_version(uuid::Version::Custom)
            .with_variant(uuid::Variant::RFC4122)
            .into_uuid();
        Self { kind, uuid }
    }

    /// The type of the agent.
    pub fn kind(&self) -> &AgentKind {
        &self.kind
    }

    /// The part that tells agents of one kind apart.
    pub fn uuid(&self) -> &Uuid {
        &self.uuid
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.uuid)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AgentId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("agent id", text, "expected {kind}-{uuid}");
        // A UUID is 36 ASCII characters; the kind itself may contain dashes.
        let split = text.len().checked_sub(37).ok_or_else(invalid)?;
        let (kind, uuid) = text.split_at_checked(split).ok_or_else(invalid)?;
        let uuid = uuid.strip_prefix('-').ok_or_else(invalid)?;
        Ok(Self { kind: AgentKind::new(kind)?, uuid: Uuid::parse_str(uuid).map_err(|_| invalid())? })
    }
}

impl TryFrom<String> for AgentId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<AgentId> for String {
    fn from(id: AgentId) -> String {
        id.to_string()
    }
}

const COMMAND_PREFIX: &str = "command:";

fn check_name(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'/' | b'-');
    let reason = match text.as_bytes() {
        [] => "it is empty",
        bytes if bytes.len() > MAX_NAME_BYTES => "it is longer than 128 bytes",
        [first, ..] if !first.is_ascii_alphanumeric() => "it must begin with a letter or digit",
        bytes if !bytes.iter().all(|c| allowed(*c)) => "only letters, digits and . _ : / - are allowed",
        _ => return Ok(()),
    };
    Err(InvalidName::new(what, text, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_made_later_sort_later() {
        let early = JobId::from_parts(Timestamp::from_micros(1_000_000), u128::MAX);
        let late = JobId::from_parts(Timestamp::from_micros(1_001_000), 0);
        assert!(early < late);
        assert_eq!(early.as_uuid().get_version_num(), 7);
        assert_eq!(late.as_uuid().get_variant(), uuid::Variant::RFC4122);
    }

    #[test]
    fn the_time_of_a_version_7_id_is_where_rfc_9562_puts_it() {
        // The example of RFC 9562, appendix A.6: 2022-02-22 19:22:22 UTC.
        let id =
            JobId::from_parts(Timestamp::from_micros(0x017F_22E2_79B0 * 1000), 0x0CC3_18C4_DC0C_0C07_398F);
        assert_eq!(id.to_string(), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    }

    #[test]
    fn the_same_key_gives_the_same_id() {
        assert_eq!(JobId::from_key("order-4711"), JobId::from_key("order-4711"));
        assert_ne!(JobId::from_key("order-4711"), JobId::from_key("order-4712"));
    }

    #[test]
    fn an_agent_id_survives_text_even_when_its_kind_has_dashes() {
        let kind = AgentKind::new("edge-security").unwrap();
        let id = AgentId::from_parts(kind, Timestamp::from_micros(5), 7);
        assert_eq!(id.to_string().parse::<AgentId>().unwrap(), id);
    }

    #[test]
    fn hostile_names_are_refused_with_a_short_message() {
        for text in ["", " ", "-a", "a b", "a\0", "ä", "../x", &"a".repeat(129)] {
            assert!(QueueName::new(text).is_err(), "{text:?}");
        }
        let error = QueueName::new("x".repeat(1_000_000)).unwrap_err().to_string();
        assert!(error.len() < 300, "{}", error.len());
        for text in ["", "x", "käse-x", &"é".repeat(30)] {
            assert!(text.parse::<AgentId>().is_err());
        }
    }

    #[test]
    fn a_command_kind_names_its_command() {
        let command = CommandId::new("disk-usage").unwrap();
        let kind = JobKind::of_command(&command);
        assert_eq!(kind.as_str(), "command:disk-usage");
        assert_eq!(kind.command(), Some(command));
        assert_eq!(JobKind::new("mail.send").unwrap().command(), None);
    }
}
