//! Secrets that stand in files of their own.

use std::path::Path;

use super::error::ConfigError;
use super::file::text_of;
use super::node::{Node, Table, Value};

/// Puts the contents of the file that `KEY_file` names in the place of `KEY`.
///
/// A line end at the end of the file is not part of the secret.
pub(super) fn resolve(table: &mut Table, key: &str) -> Result<(), ConfigError> {
    if let Some((first, rest)) = key.split_once('.') {
        let Some(Node { value: Value::Table(inner), origin }) = table.get_mut(first) else {
            return Ok(());
        };
        return resolve(inner, rest).map_err(|error| error.within(first, origin));
    }
    let file_key = format!("{key}_file");
    let Some(Node { value, origin }) = table.remove(&file_key) else {
        return Ok(());
    };
    let wrong = |message: String| Err(ConfigError::new(None, message).within(&file_key, &origin));
    let (Value::Text(path) | Value::Loose(path)) = &value else {
        return wrong("it must be a path".to_owned());
    };
    if table.contains_key(key) {
        return wrong(format!("`{key}` is set in the same place; keep one of the two"));
    }
    match text_of(Path::new(path)) {
        Ok(text) => {
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            table.insert(key.to_owned(), Node::new(Value::Text(text), origin));
            Ok(())
        }
        Err(error) => wrong(format!("{path} cannot be read: {error}")),
    }
}
