//! What a whitelist tells people about a command, so that they can ask for it.

use std::time::Duration;

use crate::id::CommandId;

/// A command, as people see it. What exactly it runs is not theirs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandDescription {
    /// The command.
    pub id: CommandId,
    /// What it does; empty if nobody said.
    pub description: String,
    /// What can be filled in, by name.
    pub parameters: Vec<ParameterDescription>,
    /// The roles that may run it; `*` is everybody who was authenticated.
    pub roles: Vec<String>,
    /// The principals that may run it, whatever their roles; `*` is everybody who was authenticated.
    pub principals: Vec<String>,
    /// How long it may run.
    pub timeout: Duration,
    /// How much of what it prints is kept, in bytes.
    pub output_cap_bytes: u64,
}

impl CommandDescription {
    /// A command about which no more is known than that it is there.
    pub fn new(id: CommandId, timeout: Duration, output_cap_bytes: u64) -> Self {
        Self {
            id,
            description: String::new(),
            parameters: Vec::new(),
            roles: Vec::new(),
            principals: Vec::new(),
            timeout,
            output_cap_bytes,
        }
    }
}

/// A parameter of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterDescription {
    /// Its name.
    pub name: String,
    /// What it is for; empty if nobody said.
    pub description: String,
    /// What a value may be.
    pub rule: ParameterRule,
    /// The value if none is given. Without one a value must be given.
    pub default: Option<String>,
}

/// What the value of a parameter may be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParameterRule {
    /// A whole number.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// One of these.
    Enum {
        /// The values.
        values: Vec<String>,
    },
    /// A text.
    String {
        /// The regular expression that must match all of it.
        pattern: String,
        /// The longest, in bytes.
        max_bytes: usize,
    },
    /// An absolute path.
    Path {
        /// It must lie under one of these.
        roots: Vec<String>,
    },
    /// The value of a label.
    Label,
}

impl ParameterRule {
    /// The stable name of its type: in policies and documents.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Integer { .. } => "integer",
            Self::Enum { .. } => "enum",
            Self::String { .. } => "string",
            Self::Path { .. } => "path",
            Self::Label => "label",
        }
    }
}
