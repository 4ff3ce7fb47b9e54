//! Commands.

use mamos_core::whitelist::{CommandDescription, ParameterDescription, ParameterRule};
use serde::Serialize;
use utoipa::ToSchema;

use super::millis;

/// The whitelist in force.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Commands {
    /// Changes with every change of what is permitted.
    pub(crate) digest: String,
    /// The commands, by id.
    pub(crate) items: Vec<Command>,
}

/// A command that the whitelist permits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Command {
    /// Its id.
    #[schema(example = "disk-usage")]
    pub(crate) id: String,
    /// What it does; empty if nobody said.
    description: String,
    /// What can be filled in.
    parameters: Vec<Parameter>,
    /// The roles that may run it; `*` is everybody who was authenticated.
    roles: Vec<String>,
    /// The principals that may run it, whatever their roles.
    principals: Vec<String>,
    /// How long it may run.
    timeout_ms: Option<u64>,
    /// How much of what it prints is kept.
    output_cap_bytes: Option<u64>,
}

/// A parameter of a command.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = CommandParameter)]
pub(crate) struct Parameter {
    name: String,
    /// What it is for; empty if nobody said.
    description: String,
    /// `integer`, `enum`, `string`, `path` or `label`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Must a value be given?
    required: bool,
    /// The value if none is given.
    default: Option<String>,
    /// The smallest, of an integer.
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<i64>,
    /// The largest, of an integer.
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<i64>,
    /// One of these, of an enum.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<String>>,
    /// What must match all of it, of a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    /// The longest, of a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<usize>,
    /// What it must lie under, of a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    roots: Option<Vec<String>>,
}

impl Command {
    /// A command that the whitelist does not describe.
    pub(crate) fn bare(id: String) -> Self {
        Self {
            id,
            description: String::new(),
            parameters: Vec::new(),
            roles: Vec::new(),
            principals: Vec::new(),
            timeout_ms: None,
            output_cap_bytes: None,
        }
    }
}

impl From<CommandDescription> for Command {
    fn from(command: CommandDescription) -> Self {
        Self {
            id: command.id.to_string(),
            description: command.description,
            parameters: command.parameters.into_iter().map(Parameter::from).collect(),
            roles: command.roles,
            principals: command.principals,
            timeout_ms: Some(millis(command.timeout)),
            output_cap_bytes: Some(command.output_cap_bytes),
        }
    }
}

impl From<ParameterDescription> for Parameter {
    fn from(parameter: ParameterDescription) -> Self {
        let bare = Self {
            name: parameter.name,
            description: parameter.description,
            kind: parameter.rule.as_str(),
            required: parameter.default.is_none(),
            default: parameter.default,
            ..Self::default()
        };
        match parameter.rule {
            ParameterRule::Integer { min, max } => Self { min: Some(min), max: Some(max), ..bare },
            ParameterRule::Enum { values } => Self { values: Some(values), ..bare },
            ParameterRule::String { pattern, max_bytes } => {
                Self { pattern: Some(pattern), max_bytes: Some(max_bytes), ..bare }
            }
            ParameterRule::Path { roots } => Self { roots: Some(roots), ..bare },
            _ => bare,
        }
    }
}
