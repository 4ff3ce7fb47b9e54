//! Settings in variables of the environment.

use super::merge::put;
use super::node::{Node, Origin, Table, Value};

/// The prefix of a program's variables.
pub(super) fn prefix(program: &str) -> String {
    format!("MAMOS_{}_", program.to_uppercase().replace('-', "_"))
}

/// The variable that names the file of settings.
pub(super) fn file_variable(program: &str) -> String {
    format!("{}CONFIG", prefix(program))
}

/// The settings in variables: those of the program that are not empty.
pub(super) fn read(program: &str, variables: &[(String, String)]) -> Table {
    let (prefix, file) = (prefix(program), file_variable(program));
    let mut table = Table::new();
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(&prefix) else {
            continue;
        };
        if value.is_empty() || *name == file {
            continue;
        }
        let key = rest.to_lowercase().replace("__", ".");
        put(&mut table, &key, Node::new(Value::Loose(value.clone()), Origin::Variable(name.clone())));
    }
    table
}
