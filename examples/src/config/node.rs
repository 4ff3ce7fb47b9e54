//! Settings as they were written, with the place of each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file; the line is counted from 1, and is 0 if it is not known.
    File {
        /// The path as it was given.
        path: Arc<PathBuf>,
        /// The line.
        line: usize,
    },
    /// In this variable of the environment.
    Variable(String),
    /// In this flag, for example `--slots`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// The keys of a table. The origin of a key is that of its value.
pub(super) type Table = BTreeMap<String, Node>;

#[derive(Debug, Clone)]
pub(super) enum Value {
    Nothing,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// From a variable or a flag: what it is depends on what is wanted.
    Loose(String),
    List(Vec<Node>),
    Table(Table),
}

impl Node {
    pub(super) fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin }
    }
}
