//! Reads a file of settings.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::node::{Node, Origin, Table, Value};

/// Larger than any file of settings.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads the settings in a file.
pub(super) fn read(path: &Path) -> Result<Table, ConfigError> {
    let place = Arc::new(path.to_owned());
    let whole = Origin::File { path: Arc::clone(&place), line: 0 };
    let text = text_of(path).map_err(|error| {
        ConfigError::new(Some(whole.clone()), format!("the file cannot be read: {error}"))
    })?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => from_yaml(&text, &place),
        Some("toml") => from_toml(&text, &place),
        _ => {
            let message = "a file of settings ends with .toml, .yaml or .yml";
            Err(ConfigError::new(Some(whole), message))
        }
    }
}

/// The text of a file that is not too large for what it should be.
pub(super) fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

pub(super) fn from_toml(text: &str, path: &Arc<PathBuf>) -> Result<Table, ConfigError> {
    let origin = |offset: usize| {
        let line =
            text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        Origin::File { path: Arc::clone(path), line }
    };
    let document = DeTable::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        ConfigError::new(Some(origin(start)), format!("this is no TOML: {}", error.message()))
    })?;
    toml_table(document.get_ref(), &origin)
}

fn toml_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Result<Table, ConfigError> {
    let read = table.iter().map(|(key, value)| {
        let place = origin(key.span().start);
        let name = key.get_ref().to_string();
        let value = toml_value(value.get_ref(), origin).map_err(|error| error.within(&name, &place))?;
        Ok((name, Node::new(value, place)))
    });
    read.collect()
}

fn toml_value(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Result<Value, ConfigError> {
    Ok(match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map(Value::Integer)
            .map_err(|_| ConfigError::new(None, "the number is too large"))?,
        DeValue::Float(float) => float
            .as_str()
            .parse()
            .map(Value::Float)
            .map_err(|_| ConfigError::new(None, "this is no number"))?,
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => {
            let read = items
                .iter()
                .map(|item| Ok(Node::new(toml_value(item.get_ref(), origin)?, origin(item.span().start))));
            Value::List(read.collect::<Result<_, ConfigError>>()?)
        }
        DeValue::Table(table) => Value::Table(toml_table(table, origin)?),
    })
}

pub(super) fn from_yaml(text: &str, path: &Arc<PathBuf>) -> Result<Table, ConfigError> {
    let origin = |line: u64| {
        let line = usize::try_from(line).unwrap_or_default();
        Origin::File { path: Arc::clone(path), line }
    };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Table::new());
    }
    let yaml: Spanned<Yaml> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        ConfigError::new(Some(origin(line)), format!("this is no YAML: {first}"))
    })?;
    match yaml_node(yaml.value, &origin, 0).value {
        Value::Table(table) => Ok(table),
        _ => Err(ConfigError::new(Some(origin(1)), "the settings must be keys with values")),
    }
}

/// A document, before its lines are told from it.
enum Yaml {
    Plain(Value),
    List(Vec<Spanned<Yaml>>),
    Table(Vec<(Spanned<String>, Spanned<Yaml>)>),
}

fn yaml_node(yaml: Yaml, origin: &dyn Fn(u64) -> Origin, line: u64) -> Node {
    let value = match yaml {
        Yaml::Plain(value) => value,
        Yaml::List(items) => {
            let read = items.into_iter().map(|item| yaml_node(item.value, origin, item.referenced.line()));
            Value::List(read.collect())
        }
        Yaml::Table(entries) => {
            let read = entries
                .into_iter()
                .map(|(key, value)| (key.value, yaml_node(value.value, origin, key.referenced.line())));
            Value::Table(read.collect())
        }
    };
    Node::new(value, origin(line))
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Plain(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Plain(Value::Integer(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Yaml, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("the number is too large"))?;
        self.visit_i64(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Plain(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Plain(Value::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Plain(Value::Nothing))
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Plain(Value::Nothing))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Yaml::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Yaml::Table(table))
    }
}
