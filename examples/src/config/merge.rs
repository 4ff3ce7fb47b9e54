//! Lays settings over others.

use super::node::{Node, Table, Value};

/// Lays `over` over `table`. Tables are merged; anything else is replaced as a whole.
pub(super) fn overlay(table: &mut Table, over: Table) {
    for (key, node) in over {
        match (table.get_mut(&key).map(|node| &mut node.value), node.value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                table.insert(key, Node::new(value, node.origin));
            }
        }
    }
}

/// Puts a setting where a key with dots says. What stood in its way is replaced.
pub(super) fn put(table: &mut Table, key: &str, node: Node) {
    let Some((first, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), node);
        return;
    };
    let origin = node.origin.clone();
    let entry = table.entry(first.to_owned()).or_insert_with(|| Node::new(Value::Nothing, origin));
    if !matches!(entry.value, Value::Table(_)) {
        entry.value = Value::Table(Table::new());
    }
    if let Value::Table(inner) = &mut entry.value {
        put(inner, rest, node);
    }
}
