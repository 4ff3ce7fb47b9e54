//! Tables for people: pure functions from the JSON of the API to text.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, Table};
use serde_json::Value;

use super::view::{plain, text};

/// A column: its heading, and the field that it shows.
pub(super) type Column = (&'static str, &'static str);

/// What is listed, one line each, without borders: good for `grep` and `awk`.
pub(super) fn table(columns: &[Column], items: &[Value], is_coloured: bool) -> String {
    let mut table = blank(is_coloured);
    let heading =
        columns.iter().map(|(name, _)| Cell::new(name.to_uppercase()).add_attribute(Attribute::Bold));
    table.set_header(heading);
    for item in items {
        table.add_row(columns.iter().map(|(_, path)| {
            let shown = text(item, path).replace('\n', " ");
            match color_of(path, &shown) {
                Some(color) => Cell::new(shown).fg(color),
                None => Cell::new(shown),
            }
        }));
    }
    table.trim_fmt()
}

/// The fields of one thing, a line each.
pub(super) fn details(item: &Value) -> String {
    let Some(fields) = item.as_object() else {
        return plain(item);
    };
    let mut table = blank(false);
    for (name, value) in fields {
        table.add_row([name.replace('_', " "), plain(value)]);
    }
    table.trim_fmt()
}

fn blank(is_coloured: bool) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if is_coloured {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// Green is well, yellow wants a look, red wants a hand.
fn color_of(path: &str, shown: &str) -> Option<Color> {
    if !matches!(path, "state" | "liveness" | "status" | "outcome") {
        return None;
    }
    match shown {
        "live" | "ok" | "succeeded" | "running" => Some(Color::Green),
        "suspect" | "degraded" | "stopped" | "blocked" | "scheduled" | "cancelled" => Some(Color::Yellow),
        "lost" | "down" | "dead" | "failed" | "denied" => Some(Color::Red),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 3] = [("id", "id"), ("state", "state"), ("labels", "labels")];

    fn lines(text: &str) -> Vec<&str> {
        text.lines().map(str::trim).collect()
    }

    #[test]
    fn a_table_has_a_heading_and_a_line_for_each_thing() {
        let items = [
            json!({"id": "web-1", "state": "running", "labels": {"zone": "eu"}}),
            json!({"id": "a", "state": "failed", "labels": {}}),
        ];
        let shown = table(&COLUMNS, &items, false);
        assert_eq!(lines(&shown), ["ID     STATE    LABELS", "web-1  running  zone=eu", "a      failed   -"]);
    }

    #[test]
    fn colours_are_there_only_when_they_are_wanted() {
        let items = [json!({"id": "a", "state": "failed"})];
        assert!(table(&COLUMNS, &items, true).contains("\u{1b}["));
        assert!(!table(&COLUMNS, &items, false).contains('\u{1b}'));
    }

    #[test]
    fn one_thing_is_shown_field_by_field() {
        let shown = details(&json!({"id": "q", "is_paused": true, "counts": {"ready": 2}}));
        assert_eq!(lines(&shown), ["counts     ready=2", "id         q", "is paused  yes"]);
    }
}
