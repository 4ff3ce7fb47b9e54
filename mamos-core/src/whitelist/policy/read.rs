//! From TOML to commands.

mod parameter;
mod variable;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use self::parameter::{Parameters, read_parameter};
use self::variable::refused_variable;
use super::programs::{ProgramFacts, Programs};
use super::reader::{Reader, Value, join, nearest};
use super::template::{Template, is_parameter_name};
use super::units::{parse_duration, parse_size};
use super::value::check_absolute;
use super::{
    Allow, Command, DEFAULT_OUTPUT_CAP_BYTES, DEFAULT_TIMEOUT, MAX_ARGUMENT_BYTES, MAX_ARGUMENTS,
    MAX_COMMANDS, MAX_ENVIRONMENT, MAX_LISTED, MAX_OUTPUT_CAP_BYTES, MAX_PARAMETERS, MAX_POLICY_BYTES,
    MAX_TIMEOUT, MIN_OUTPUT_CAP_BYTES, MIN_TIMEOUT, dangerous,
};
use crate::id::CommandId;

const COMMAND_KEYS: &[&str] = &[
    "description",
    "program",
    "arguments",
    "working_directory",
    "timeout",
    "output_cap",
    "environment",
    "allow",
    "parameters",
];

/// Reads a whole policy. What is faulty is left out; the caller looks at the faults.
pub(super) fn read_policy<'t>(
    reader: &mut Reader<'t>,
    text: &'t str,
    programs: &dyn Programs,
) -> BTreeMap<CommandId, Command> {
    let mut commands = BTreeMap::new();
    if text.len() > MAX_POLICY_BYTES {
        reader.fault(0..0, "", format!("longer than {MAX_POLICY_BYTES} bytes; split it among agents"));
        return commands;
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    // A key that stands twice leaves the rest readable; after other faults the rest would be guesswork.
    let is_readable = errors.iter().all(|error| error.message() == "duplicate key");
    for error in errors {
        reader.fault(error.span().unwrap_or(0..0), "", format!("not valid TOML: {}", error.message()));
    }
    if !is_readable {
        return commands;
    }
    let root = root.get_ref();
    reader.only(root, "", &["version", "commands"]);
    match root.get("version") {
        Some(value) => {
            if reader.integer(value, "version").is_some_and(|version| version != 1) {
                reader.fault(value.span(), "version", "this program reads version 1 only");
            }
        }
        None => reader.fault(0..0, "version", "missing; write `version = 1` at the top"),
    }
    let Some(value) = root.get("commands") else { return commands };
    let Some(table) = reader.table(value, "commands") else { return commands };
    if table.len() > MAX_COMMANDS {
        reader.fault(value.span(), "commands", format!("more than {MAX_COMMANDS} commands"));
        return commands;
    }
    for (key, value) in table {
        let subject = join("commands", key.get_ref());
        let id = CommandId::new(key.get_ref());
        if let Err(error) = &id {
            reader.fault(key.span(), &subject, error.to_string());
        }
        let Some(table) = reader.table(value, &subject) else { continue };
        let command = CommandReader { reader, table, subject, key: key.span(), programs }.read();
        if let (Ok(id), Some(command)) = (id, command) {
            commands.insert(id, command);
        }
    }
    commands
}

struct CommandReader<'r, 't, 'v> {
    reader: &'r mut Reader<'t>,
    table: &'v DeTable<'t>,
    subject: String,
    key: Range<usize>,
    programs: &'r dyn Programs,
}

impl<'t, 'v> CommandReader<'_, 't, 'v> {
    /// `None` if something is missing; a fault then says what.
    fn read(mut self) -> Option<Command> {
        self.reader.only(self.table, &self.subject, COMMAND_KEYS);
        let description = self.text_of("description", 1024).map(|(_, text, _)| text).unwrap_or_default();
        let parameters = self.parameters();
        let arguments = self.arguments();
        let working_directory = self.working_directory();
        let timeout = self.timeout();
        let output_cap_bytes = self.output_cap();
        let environment = self.environment();
        let allow = self.allow();
        self.slots(&arguments, &parameters);
        let program = self.program(&arguments, &parameters)?;
        let parameters =
            parameters.into_iter().filter_map(|(name, (_, parameter))| Some((name, parameter?))).collect();
        Some(Command {
            description,
            program,
            arguments: arguments.into_iter().map(|(_, template)| template).collect(),
            working_directory,
            timeout,
            output_cap_bytes,
            environment,
            allow,
            parameters,
        })
    }

    fn get(&self, key: &str) -> Option<(&'v Value<'t>, String)> {
        Some((self.table.get(key)?, join(&self.subject, key)))
    }

    fn text_of(&mut self, key: &str, max: usize) -> Option<(Range<usize>, String, String)> {
        let (value, subject) = self.get(key)?;
        let text = self.reader.text(value, &subject, max)?;
        Some((value.span(), text, subject))
    }

    fn program(
        &mut self,
        arguments: &[(Range<usize>, Template)],
        parameters: &Parameters,
    ) -> Option<PathBuf> {
        if self.table.get("program").is_none() {
            let why = "has no `program`; give the absolute path of one";
            self.reader.fault(self.key.clone(), &self.subject, why);
        }
        let (span, text, subject) = self.text_of("program", MAX_ARGUMENT_BYTES)?;
        if text.contains(['{', '}']) {
            let why = "a slot cannot choose the program; make a command for each program";
            self.reader.fault(span, &subject, why);
            return None;
        }
        if let Err(why) = check_absolute(&text) {
            self.reader.fault(span, &subject, format!("{text:?} {why}; write where the program really is"));
            return None;
        }
        let facts = match self.programs.inspect(Path::new(&text)) {
            Ok(facts) => facts,
            Err(error) => {
                let why = format!("{text:?} {error}; install it, or correct the path");
                self.reader.fault(span.clone(), &subject, why);
                None
            }
        };
        self.judge_file(&span, &subject, facts.as_ref());
        self.judge_name(&span, &subject, &text, facts.as_ref(), arguments, parameters);
        Some(PathBuf::from(text))
    }

    fn judge_file(&mut self, span: &Range<usize>, subject: &str, facts: Option<&ProgramFacts>) {
        let Some(facts) = facts else { return };
        if !facts.is_file {
            self.reader.fault(span.clone(), subject, "is not a file; name the program itself");
        } else if !facts.is_executable {
            self.reader.fault(span.clone(), subject, "is not executable; `chmod +x` it, or correct the path");
        }
        if let Some(path) = &facts.writable_by_others {
            let why = format!(
                "others may write to {}, and so replace the program; take the right away with `chmod` or `chown`",
                path.display()
            );
            self.reader.fault(span.clone(), subject, why);
        }
    }

    /// Judges the program by the name in the policy, and by the one that its links lead to.
    fn judge_name(
        &mut self,
        span: &Range<usize>,
        subject: &str,
        text: &str,
        facts: Option<&ProgramFacts>,
        arguments: &[(Range<usize>, Template)],
        parameters: &Parameters,
    ) {
        let templates: Vec<Template> = arguments.iter().map(|(_, template)| template.clone()).collect();
        let allows_dash = |slot: &str| {
            // A parameter that is itself at fault is taken for the worst.
            parameters
                .get(slot)
                .is_none_or(|(_, parameter)| parameter.as_ref().is_none_or(|it| it.allow_dash))
        };
        let own = text.rsplit('/').next().unwrap_or_default();
        let resolved = facts.and_then(|facts| facts.resolved.file_name()).and_then(|name| name.to_str());
        let objection = dangerous::objection(own, &templates, &allows_dash).or_else(|| {
            let name = resolved.filter(|resolved| *resolved != own)?;
            let mut objection = dangerous::objection(name, &templates, &allows_dash)?;
            objection.message = format!("{text} is a link to it: {}", objection.message);
            Some(objection)
        });
        let Some(objection) = objection else { return };
        let (span, subject) = match objection.argument.and_then(|n| Some((n, arguments.get(n)?.0.clone()))) {
            Some((n, span)) => (span, format!("{}[{n}]", join(&self.subject, "arguments"))),
            None => (span.clone(), subject.to_owned()),
        };
        self.reader.fault(span, &subject, objection.message);
    }

    fn arguments(&mut self) -> Vec<(Range<usize>, Template)> {
        let Some((value, subject)) = self.get("arguments") else { return Vec::new() };
        let texts = self.reader.texts(value, &subject, MAX_ARGUMENTS, MAX_ARGUMENT_BYTES).unwrap_or_default();
        let mut arguments = Vec::new();
        for (n, (span, text)) in texts.into_iter().enumerate() {
            match Template::parse(&text) {
                Ok(template) => arguments.push((span, template)),
                Err(why) => self.reader.fault(span, &format!("{subject}[{n}]"), why),
            }
        }
        arguments
    }

    /// Each slot has a parameter, each parameter a slot, and a path ends its argument.
    fn slots(&mut self, arguments: &[(Range<usize>, Template)], parameters: &Parameters) {
        let known: Vec<&str> = parameters.keys().map(String::as_str).collect();
        for (n, (span, template)) in arguments.iter().enumerate() {
            let Some(slot) = &template.slot else { continue };
            let subject = format!("{}[{n}]", join(&self.subject, "arguments"));
            match parameters.get(slot) {
                None => {
                    let advice = match nearest(slot, &known) {
                        Some(near) => format!("did you mean `{{{near}}}`?"),
                        None => format!("add [{}.parameters.{slot}]", self.subject),
                    };
                    let why = format!("the slot `{{{slot}}}` has no parameter; {advice}");
                    self.reader.fault(span.clone(), &subject, why);
                }
                Some((_, Some(parameter)))
                    if parameter.kind.roots().is_some() && !template.after.is_empty() =>
                {
                    let why = "text follows a path, so that it would name something else; end the argument \
                               with the slot";
                    self.reader.fault(span.clone(), &subject, why);
                }
                Some(_) => {}
            }
        }
        for (name, (span, _)) in parameters {
            if !arguments.iter().any(|(_, template)| template.slot.as_ref() == Some(name)) {
                let subject = join(&join(&self.subject, "parameters"), name);
                let why = format!("no argument has the slot `{{{name}}}`; add one, or remove the parameter");
                self.reader.fault(span.clone(), &subject, why);
            }
        }
    }

    fn working_directory(&mut self) -> PathBuf {
        let Some((span, text, subject)) = self.text_of("working_directory", MAX_ARGUMENT_BYTES) else {
            return PathBuf::from("/");
        };
        if let Err(why) = check_absolute(&text) {
            self.reader.fault(span, &subject, format!("{text:?} {why}"));
        }
        PathBuf::from(text)
    }

    fn timeout(&mut self) -> Duration {
        let Some((span, text, subject)) = self.text_of("timeout", 64) else { return DEFAULT_TIMEOUT };
        match parse_duration(&text) {
            Some(timeout) if (MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) => return timeout,
            Some(_) => self.reader.fault(span, &subject, format!("{text:?} is not within 100ms and 24h")),
            None => {
                let why =
                    format!("{text:?} is no duration; write a number and ms, s, m or h, for example \"10s\"");
                self.reader.fault(span, &subject, why);
            }
        }
        DEFAULT_TIMEOUT
    }

    fn output_cap(&mut self) -> u64 {
        let Some((span, text, subject)) = self.text_of("output_cap", 64) else {
            return DEFAULT_OUTPUT_CAP_BYTES;
        };
        match parse_size(&text) {
            Some(size) if (MIN_OUTPUT_CAP_BYTES..=MAX_OUTPUT_CAP_BYTES).contains(&size) => return size,
            Some(_) => self.reader.fault(span, &subject, format!("{text:?} is not within 1KiB and 1GiB")),
            None => {
                let why = format!(
                    "{text:?} is no size; write a number and B, KiB, MiB or GiB, for example \"1MiB\""
                );
                self.reader.fault(span, &subject, why);
            }
        }
        DEFAULT_OUTPUT_CAP_BYTES
    }

    fn environment(&mut self) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        let Some((value, subject)) = self.get("environment") else { return environment };
        let Some(table) = self.reader.table(value, &subject) else { return environment };
        if table.len() > MAX_ENVIRONMENT {
            self.reader.fault(value.span(), &subject, format!("more than {MAX_ENVIRONMENT} variables"));
            return environment;
        }
        for (key, value) in table {
            let name: &str = key.get_ref();
            let subject = join(&subject, name);
            if let Some(why) = refused_variable(name) {
                self.reader.fault(key.span(), &subject, why);
            }
            if let Some(text) = self.reader.text(value, &subject, MAX_ARGUMENT_BYTES) {
                environment.insert(name.to_owned(), text);
            }
        }
        environment
    }

    fn allow(&mut self) -> Allow {
        let mut allow = Allow::default();
        let Some((value, subject)) = self.get("allow") else { return allow };
        let Some(table) = self.reader.table(value, &subject) else { return allow };
        self.reader.only(table, &subject, &["roles", "principals"]);
        for (key, names) in [("roles", &mut allow.roles), ("principals", &mut allow.principals)] {
            let Some(value) = table.get(key) else { continue };
            let subject = join(&subject, key);
            for (span, name) in self.reader.texts(value, &subject, MAX_LISTED, 256).unwrap_or_default() {
                if name.is_empty() {
                    self.reader.fault(span, &subject, "an empty name; write \"*\" for anyone");
                } else {
                    names.insert(name);
                }
            }
        }
        allow
    }

    fn parameters(&mut self) -> Parameters {
        let mut parameters = Parameters::new();
        let Some((value, subject)) = self.get("parameters") else { return parameters };
        let Some(table) = self.reader.table(value, &subject) else { return parameters };
        if table.len() > MAX_PARAMETERS {
            self.reader.fault(value.span(), &subject, format!("more than {MAX_PARAMETERS} parameters"));
            return parameters;
        }
        for (key, value) in table {
            let subject = join(&subject, key.get_ref());
            if !is_parameter_name(key.get_ref()) {
                let why = "a parameter's name begins with a letter and has only letters, digits, _ and -";
                self.reader.fault(key.span(), &subject, why);
                continue;
            }
            let parameter = read_parameter(self.reader, key, value, &subject);
            parameters.insert(key.get_ref().to_string(), (key.span(), parameter));
        }
        parameters
    }
}
