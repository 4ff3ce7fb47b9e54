//! Where settings come from.

use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::error::ConfigError;
use super::node::{Node, Origin, Table, Value};
use super::{environment, file, merge, secrets};

/// Where a program looks for its settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    usual_files: Vec<PathBuf>,
    variables: Vec<(String, String)>,
    flags: Table,
    secrets: Vec<String>,
}

/// Settings, and the file that was read for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    /// The file, if there was one.
    pub file: Option<PathBuf>,
}

impl Sources {
    /// Nothing: the defaults only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this file, which must exist. Wins over the variable that names one.
    #[must_use]
    pub fn file(mut self, path: Option<PathBuf>) -> Self {
        self.file = path;
        self
    }

    /// Reads the first of these files that exists, if no file is named.
    #[must_use]
    pub fn usual_files(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.usual_files.extend(paths);
        self
    }

    /// Reads these variables; those of other programs are ignored.
    #[must_use]
    pub fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// Reads the variables of the process. One that is not UTF-8 is left out.
    #[must_use]
    pub fn environment(self) -> Self {
        let all = std::env::vars_os();
        self.variables(
            all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Sets a key by a flag, if the flag was given.
    #[must_use]
    pub fn flag(mut self, flag: &str, key: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            let node = Node::new(Value::Loose(value.to_string()), Origin::Flag(flag.to_owned()));
            merge::put(&mut self.flags, key, node);
        }
        self
    }

    /// Sets a key by a flag that may be given more than once, if it was given.
    #[must_use]
    pub fn flag_list(mut self, flag: &str, key: &str, values: &[String]) -> Self {
        if !values.is_empty() {
            let origin = Origin::Flag(flag.to_owned());
            let node = Node::new(Value::Loose(values.join(",")), origin);
            merge::put(&mut self.flags, key, node);
        }
        self
    }

    /// Sets the names in a table by a flag that was given any number of times. The others stay.
    #[must_use]
    pub fn flag_pairs(mut self, flag: &str, key: &str, pairs: &[(String, String)]) -> Self {
        if pairs.is_empty() {
            return self;
        }
        let origin = Origin::Flag(flag.to_owned());
        let node = |value: &String| Node::new(Value::Loose(value.clone()), origin.clone());
        let table = pairs.iter().map(|(name, value)| (name.clone(), node(value))).collect();
        let over = Table::from([(key.to_owned(), Node::new(Value::Table(table), origin.clone()))]);
        merge::overlay(&mut self.flags, over);
        self
    }

    /// This key is a secret: it may stand in a file that `KEY_file` names.
    #[must_use]
    pub fn secret(mut self, key: &str) -> Self {
        self.secrets.push(key.to_owned());
        self
    }

    fn file_to_read(&self, program: &str) -> Option<PathBuf> {
        let variable = environment::file_variable(program);
        let named = self.variables.iter().find(|(name, value)| *name == variable && !value.is_empty());
        let named = || named.map(|(_, path)| PathBuf::from(path));
        let usual = || self.usual_files.iter().find(|path| path.exists()).cloned();
        self.file.clone().or_else(named).or_else(usual)
    }
}

/// Reads the settings of a program, for example `agent`, whose variables begin with `MAMOS_AGENT_`.
///
/// # Errors
///
/// [`ConfigError`]: a file cannot be read, a key is not known, or a value is not what it should be.
pub fn load<T: DeserializeOwned>(program: &str, sources: &Sources) -> Result<Loaded<T>, ConfigError> {
    let file = sources.file_to_read(program);
    let mut layers = Vec::new();
    if let Some(path) = &file {
        layers.push(file::read(path)?);
    }
    layers.push(environment::read(program, &sources.variables));
    layers.push(sources.flags.clone());
    let mut settings = Table::new();
    for mut layer in layers {
        for secret in &sources.secrets {
            secrets::resolve(&mut layer, secret)?;
        }
        merge::overlay(&mut settings, layer);
    }
    // The origin of the whole is never shown: each key has its own.
    let whole = Node::new(Value::Table(settings), Origin::Flag(String::new()));
    Ok(Loaded { settings: T::deserialize(&whole)?, file })
}
