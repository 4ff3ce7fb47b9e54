//! Port: which commands may run, with which parameters, for whom.
//!
//! A command is an id and named parameters. The whitelist maps it to an absolute program and a list of
//! arguments in which one parameter is exactly one argument. There is no shell anywhere.

mod describe;
pub mod policy;
mod reload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::describe::CommandDescription;
pub use self::describe::ParameterDescription;
pub use self::describe::ParameterRule;
pub use self::reload::Reloadable;
use crate::auth::Principal;
use crate::id::CommandId;
use crate::{Error, ErrorKind, Result};

/// Decides which commands may run. Pure and quick: it looks at nothing but its arguments.
///
/// Orchestrator and agent each have one, and a command runs only if both permit the very same thing.
#[doc(alias = "allowlist")]
pub trait Whitelist: Send + Sync + 'static {
    /// What exactly may run, or why nothing may.
    ///
    /// # Errors
    ///
    /// [`Denial`] names the rule that the request breaks.
    fn permit(&self, request: &CommandRequest, principal: &Principal) -> std::result::Result<Permit, Denial>;

    /// The commands that it knows, sorted.
    fn commands(&self) -> Vec<CommandId>;

    /// What people need to know to ask for a command; `None` if it knows none of that id, or tells nothing,
    /// which is the default.
    fn describe(&self, _: &CommandId) -> Option<CommandDescription> {
        None
    }

    /// Changes with every change of what is permitted.
    fn digest(&self) -> String;
}

/// Permits nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

impl Whitelist for DenyAll {
    fn permit(&self, request: &CommandRequest, _: &Principal) -> std::result::Result<Permit, Denial> {
        Err(Denial::unknown_command(&request.command))
    }

    fn commands(&self) -> Vec<CommandId> {
        Vec::new()
    }

    fn digest(&self) -> String {
        "deny-all".to_owned()
    }
}

/// A wish to run a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// Which command.
    pub command: CommandId,
    /// Values for its parameters, as text; the whitelist knows their types.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

impl CommandRequest {
    /// A request without parameters.
    pub fn new(command: CommandId) -> Self {
        Self { command, parameters: BTreeMap::new() }
    }

    /// Gives a parameter a value.
    #[must_use]
    pub fn with(mut self, parameter: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.insert(parameter.into(), value.into());
        self
    }
}

/// What exactly may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// The command.
    pub command: CommandId,
    /// The absolute path of the program.
    pub program: PathBuf,
    /// Its arguments, without the program itself.
    pub arguments: Vec<String>,
    /// Which arguments are paths that must lie under a root, once links are resolved.
    pub paths: Vec<PathArgument>,
    /// The whole environment, but for `TRACEPARENT`.
    pub environment: BTreeMap<String, String>,
    /// Where it runs.
    pub working_directory: PathBuf,
    /// How long it may run.
    #[serde(with = "crate::wire::millis", rename = "timeout_ms")]
    pub timeout: Duration,
    /// How much it may print, standard output and error together; the rest is dropped and the cut is
    /// marked.
    pub output_cap_bytes: u64,
}

/// An argument that is a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathArgument {
    /// Its index in [`Permit::arguments`].
    pub index: usize,
    /// The byte at which the path begins, as in `--file=/var/log`. It goes on to the argument's end.
    #[serde(default)]
    pub offset: usize,
    /// It must lie under one of these.
    pub roots: Vec<PathBuf>,
}

impl Permit {
    /// What may run when two whitelists each gave a permit: theirs, with the shorter time and the
    /// smaller output.
    ///
    /// # Errors
    ///
    /// [`Denial`] if they differ in what they run: a narrower whitelist permits less of the same, never
    /// something else.
    pub fn narrow(self, other: &Self) -> std::result::Result<Self, Denial> {
        let differs = if self.program != other.program {
            "program"
        } else if self.arguments != other.arguments {
            "arguments"
        } else if self.environment != other.environment {
            "environment"
        } else if self.working_directory != other.working_directory {
            "working directory"
        } else {
            let mut paths = self.paths;
            paths.extend(other.paths.iter().cloned());
            return Ok(Self {
                paths,
                timeout: self.timeout.min(other.timeout),
                output_cap_bytes: self.output_cap_bytes.min(other.output_cap_bytes),
                ..self
            });
        };
        let why =
            format!("the two whitelists differ in the {differs} of {}; make them the same", self.command);
        Err(Denial::new(DenialCode::Differs, why))
    }
}

/// Why a command may not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denial {
    /// For programs.
    pub code: DenialCode,
    /// For people: what, why, and what to do. Repeats no more than 64 characters of a value.
    pub message: String,
}

/// Why a command may not run, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DenialCode {
    /// The whitelist has no such command.
    UnknownCommand,
    /// The principal may not run it.
    NotForPrincipal,
    /// A parameter is missing and has no default.
    MissingParameter,
    /// The command has no such parameter.
    UnknownParameter,
    /// A value does not fit its parameter's type.
    BadValue,
    /// Orchestrator and agent do not mean the same by the command.
    Differs,
}

impl DenialCode {
    /// The stable name: in failures, frames and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownCommand => "unknown_command",
            Self::NotForPrincipal => "not_for_principal",
            Self::MissingParameter => "missing_parameter",
            Self::UnknownParameter => "unknown_parameter",
            Self::BadValue => "bad_value",
            Self::Differs => "differs",
        }
    }
}

impl Denial {
    /// A denial with a reason.
    pub fn new(code: DenialCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The whitelist has no such command.
    pub fn unknown_command(command: &CommandId) -> Self {
        let message = format!("command {command} is not on the whitelist; ask an operator to add it");
        Self::new(DenialCode::UnknownCommand, message)
    }
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        Self::new(ErrorKind::Denied, "whitelist.permit", denial.message)
    }
}

/// The payload of a job that runs a command: who asked for what, and what the orchestrator permitted.
///
/// The agent asks its own whitelist the same and runs the [narrower](Permit::narrow) of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOrder {
    /// What was asked for.
    pub request: CommandRequest,
    /// The name of who asked.
    pub principal: String,
    /// The names of their roles.
    pub roles: Vec<String>,
    /// What the orchestrator permitted.
    pub permit: Permit,
}

impl CommandOrder {
    /// The bytes for a job's payload.
    pub fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|error| Error::new(ErrorKind::Invalid, "command.encode", "not valid").with_source(error))
    }

    /// Reads a job's payload.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if it is something else.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        serde_json::from_slice(payload).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "command.decode", "not a command").with_source(error)
        })
    }
}

/// What a command that ran gives back: the output of its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOutput {
    /// Its exit code; `None` if a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How many bytes of its output were kept, in the log of the run.
    pub output_bytes: u64,
    /// How many bytes of its output were dropped because of the cap.
    pub dropped_bytes: u64,
    /// How long it ran.
    pub elapsed_ms: u64,
}
