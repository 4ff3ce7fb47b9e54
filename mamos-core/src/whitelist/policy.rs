//! A whitelist in a TOML file.
//!
//! ```toml
//! version = 1
//!
//! [commands.disk-usage]
//! description = "How full a file system is"
//! program = "/usr/bin/df"
//! arguments = ["-h", "{path}"]
//! timeout = "10s"
//! allow = { roles = ["operator"] }
//!
//! [commands.disk-usage.parameters.path]
//! type = "path"
//! roots = ["/var", "/home"]
//! default = "/var"
//! ```
//!
//! `docs/whitelist.md` describes every key, and what is refused and why.

mod dangerous;
mod error;
mod programs;
mod read;
mod reader;
mod template;
mod units;
mod value;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use self::error::MAX_FAULTS;
pub use self::error::PolicyError;
pub use self::error::PolicyErrors;
pub use self::programs::ProgramError;
pub use self::programs::ProgramFacts;
pub use self::programs::Programs;
pub use self::programs::UncheckedPrograms;
use self::reader::Reader;
use self::template::Template;
use self::value::Parameter;
use super::{
    CommandDescription, CommandRequest, Denial, DenialCode, ParameterDescription, PathArgument, Permit,
    Whitelist,
};
use crate::auth::Principal;
use crate::id::CommandId;

/// The longest policy, in bytes.
pub const MAX_POLICY_BYTES: usize = 256 * 1024;
/// The most commands in one policy.
pub const MAX_COMMANDS: usize = 1024;
/// The most arguments of one command.
pub const MAX_ARGUMENTS: usize = 128;
/// The longest argument in a policy, in bytes; also the longest path and the longest variable.
pub const MAX_ARGUMENT_BYTES: usize = 4096;
/// The most parameters of one command.
pub const MAX_PARAMETERS: usize = 64;
/// The longest value of a parameter, in bytes.
pub const MAX_VALUE_BYTES: usize = 4096;
/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// The most variables in one environment.
pub const MAX_ENVIRONMENT: usize = 64;
/// The most roles, principals, values or roots in one list.
pub const MAX_LISTED: usize = 256;
/// How long a command may run if the policy does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The shortest timeout.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The longest timeout: a day.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// How much output is kept if the policy does not say: 1 MiB.
pub const DEFAULT_OUTPUT_CAP_BYTES: u64 = 1 << 20;
/// The smallest cap of output: 1 KiB.
pub const MIN_OUTPUT_CAP_BYTES: u64 = 1 << 10;
/// The largest cap of output: 1 GiB.
pub const MAX_OUTPUT_CAP_BYTES: u64 = 1 << 30;

/// A whitelist that was read from a text. Never changes; see [`Reloadable`](super::Reloadable).
///
/// # Examples
///
/// ```
/// use mamos_core::auth::Principal;
/// use mamos_core::whitelist::policy::{Policy, UncheckedPrograms};
/// use mamos_core::whitelist::{CommandRequest, Whitelist};
/// use mamos_core::CommandId;
///
/// let text = r#"
///     version = 1
///     [commands.ping]
///     program = "/usr/bin/ping"
///     arguments = ["-c", "1", "{host}"]
///     allow = { roles = ["operator"] }
///     [commands.ping.parameters.host]
///     type = "string"
///     pattern = "[a-z0-9.-]+"
/// "#;
/// let policy = Policy::parse(text, "whitelist.toml", &UncheckedPrograms)?;
/// let request = CommandRequest::new(CommandId::new("ping")?).with("host", "db1.example");
/// let permit = policy.permit(&request, &Principal::new("user:ann", ["operator"]))?;
/// assert_eq!(permit.arguments, ["-c", "1", "db1.example"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Policy {
    commands: BTreeMap<CommandId, Command>,
    digest: String,
}

/// What the policy says of one command; also the canonical form that the digest is taken of.
#[derive(Debug, Clone, Serialize)]
struct Command {
    /// For people: nothing that is permitted depends on it.
    #[serde(skip)]
    description: String,
    program: PathBuf,
    arguments: Vec<Template>,
    working_directory: PathBuf,
    timeout: Duration,
    output_cap_bytes: u64,
    environment: BTreeMap<String, String>,
    allow: Allow,
    parameters: BTreeMap<String, Parameter>,
}

/// Who may run a command: nobody who is not listed. `*` is anyone who was authenticated.
#[derive(Debug, Clone, Default, Serialize)]
struct Allow {
    roles: BTreeSet<String>,
    principals: BTreeSet<String>,
}

impl Policy {
    /// Reads a policy. `origin` names the text in errors, usually by the path of its file.
    ///
    /// # Errors
    ///
    /// [`PolicyErrors`] with all faults at once, each with its line. A policy with a single fault is
    /// refused as a whole, so that half a whitelist is never in force.
    pub fn parse(text: &str, origin: &str, programs: &dyn Programs) -> Result<Self, PolicyErrors> {
        let mut reader = Reader::new(text, origin);
        let commands = read::read_policy(&mut reader, text, programs);
        if !reader.faults.is_empty() {
            return Err(PolicyErrors::new(reader.faults));
        }
        let digest = digest(&commands).map_err(|error| {
            // Only a path that is not UTF-8 could fail, and paths come from TOML, which is.
            PolicyErrors::unreadable(origin, format!("no digest can be taken: {error}"))
        })?;
        Ok(Self { commands, digest })
    }
}

fn digest(commands: &BTreeMap<CommandId, Command>) -> Result<String, serde_json::Error> {
    use std::fmt::Write;

    let canonical = serde_json::to_vec(&("mamos-policy-1", commands))?;
    Ok(Sha256::digest(canonical).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

impl Whitelist for Policy {
    fn permit(&self, request: &CommandRequest, principal: &Principal) -> Result<Permit, Denial> {
        let id = &request.command;
        let command = self.commands.get(id).ok_or_else(|| Denial::unknown_command(id))?;
        if !command.allow.permits(principal) {
            let name: String = principal.name.chars().take(64).collect();
            let message =
                format!("{name:?} may not run {id}; ask an operator to add the name or a role to it");
            return Err(Denial::new(DenialCode::NotForPrincipal, message));
        }
        command.permit(request)
    }

    fn commands(&self) -> Vec<CommandId> {
        self.commands.keys().cloned().collect()
    }

    fn describe(&self, command: &CommandId) -> Option<CommandDescription> {
        self.commands.get(command).map(|found| found.describe(command))
    }

    /// SHA-256, in hexadecimal, of what the policy permits: comments, descriptions, the order of keys and
    /// defaults that are written out change nothing.
    fn digest(&self) -> String {
        self.digest.clone()
    }
}

impl Allow {
    fn permits(&self, principal: &Principal) -> bool {
        let anyone = |names: &BTreeSet<String>| names.contains("*");
        anyone(&self.roles)
            || anyone(&self.principals)
            || self.principals.contains(&principal.name)
            || principal.roles.iter().any(|role| self.roles.contains(role))
    }
}

impl Command {
    fn describe(&self, id: &CommandId) -> CommandDescription {
        let parameters = self.parameters.iter().map(|(name, parameter)| ParameterDescription {
            name: name.clone(),
            description: parameter.description.clone(),
            rule: parameter.kind.describe(),
            default: parameter.default.clone(),
        });
        CommandDescription {
            description: self.description.clone(),
            parameters: parameters.collect(),
            roles: self.allow.roles.iter().cloned().collect(),
            principals: self.allow.principals.iter().cloned().collect(),
            ..CommandDescription::new(id.clone(), self.timeout, self.output_cap_bytes)
        }
    }

    fn permit(&self, request: &CommandRequest) -> Result<Permit, Denial> {
        let id = &request.command;
        if let Some(name) = request.parameters.keys().find(|name| !self.parameters.contains_key(*name)) {
            let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
            let advice = match (reader::nearest(name, &known), known.is_empty()) {
                (Some(near), _) => format!("did you mean {near}?"),
                (None, true) => "it takes none".to_owned(),
                (None, false) => format!("it takes {}", known.join(", ")),
            };
            let name: String = name.chars().take(64).collect();
            let message = format!("{id} has no parameter {name:?}; {advice}");
            return Err(Denial::new(DenialCode::UnknownParameter, message));
        }
        let mut values = BTreeMap::new();
        for (name, parameter) in &self.parameters {
            let Some(value) = request.parameters.get(name).or(parameter.default.as_ref()) else {
                let message = format!("{id} needs a value for {name}; give one");
                return Err(Denial::new(DenialCode::MissingParameter, message));
            };
            if let Err(why) = parameter.check(value) {
                let value: String = value.chars().take(64).collect();
                let message = format!("{value:?} for {name} of {id} {why}");
                return Err(Denial::new(DenialCode::BadValue, message));
            }
            values.insert(name.as_str(), (value.as_str(), parameter));
        }
        let mut arguments = Vec::with_capacity(self.arguments.len());
        let mut paths = Vec::new();
        for (index, template) in self.arguments.iter().enumerate() {
            // Loading made sure that each slot has a parameter.
            let filled = template.slot.as_deref().and_then(|slot| values.get(slot));
            if let Some(roots) = filled.and_then(|(_, parameter)| parameter.kind.roots()) {
                paths.push(PathArgument { index, offset: template.before.len(), roots });
            }
            arguments.push(template.fill(filled.map_or("", |(value, _)| value)));
        }
        Ok(Permit {
            command: id.clone(),
            program: self.program.clone(),
            arguments,
            paths,
            environment: self.environment.clone(),
            working_directory: self.working_directory.clone(),
            timeout: self.timeout,
            output_cap_bytes: self.output_cap_bytes,
        })
    }
}
