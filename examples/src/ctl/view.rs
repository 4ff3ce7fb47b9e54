//! Texts from the JSON of the API.

use serde_json::Value;

/// A field as text, for example `failure.code`; `-` if there is none.
///
/// Control characters are replaced: a name that an agent chose must not steer the terminal.
pub(super) fn text(item: &Value, path: &str) -> String {
    let found = path.split('.').fold(item, |value, key| &value[key]);
    plain(found)
}

/// A value as text.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => time(text).unwrap_or_else(|| harmless(text)),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(name, value)| format!("{}={}", harmless(name), plain(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
    }
}

/// `2026-11-21T08:00:00.000000Z` as `2026-11-21 08:00:00`; `None` if it is no time.
fn time(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_time = bytes.len() >= 20
        && bytes.len() <= 32
        && bytes.ends_with(b"Z")
        && bytes.iter().enumerate().take(19).all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            10 => *byte == b'T',
            13 | 16 => *byte == b':',
            _ => byte.is_ascii_digit(),
        });
    is_time.then(|| format!("{} {}", &text[..10], &text[11..19]))
}

/// The text without what steers a terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A line for an event: when, what, and its fields, the telling ones first.
pub(super) fn event_line(event: &Value) -> String {
    const FIRST: [&str; 7] = ["job", "kind", "command", "agent", "queue", "epoch", "state"];
    const SHOWN: [&str; 4] = ["at", "event", "id", "seq"];
    let at = text(event, "at");
    let at = at.get(11..).unwrap_or(&at);
    let mut line = format!("{at} {}", text(event, "event"));
    let Some(fields) = event.as_object() else {
        return line;
    };
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let rest =
        fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()) && !SHOWN.contains(&name.as_str()));
    for (name, value) in first.chain(rest).filter(|(_, value)| !value.is_null()) {
        line.push_str(&format!(" {}={}", harmless(name), plain(value).replace('\n', " ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_for_people() {
        let item = json!({
            "at": "2026-11-21T08:00:00.123456Z", "none": null, "yes": true, "list": ["a", 2], "empty": [],
            "labels": {"zone": "eu", "rack": "1"}, "deep": {"code": "x"}, "evil": "a\u{1b}[31mb",
        });
        let expected = [
            ("at", "2026-11-21 08:00:00"),
            ("none", "-"),
            ("missing.deeper", "-"),
            ("yes", "yes"),
            ("list", "a, 2"),
            ("empty", "-"),
            ("labels", "rack=1, zone=eu"),
            ("deep.code", "x"),
            ("evil", "a\u{fffd}[31mb"),
        ];
        for (path, shown) in expected {
            assert_eq!(text(&item, path), shown, "{path}");
        }
    }

    #[test]
    fn an_event_is_one_line_with_the_telling_fields_first() {
        let event = json!({
            "seq": 7, "id": "s-7", "at": "2026-11-21T08:00:01.5Z", "event": "job_settled", "attempt": 1, "agent": "web-1",
            "job": "j1", "state": "succeeded", "note": "two\nlines", "gone": null,
        });
        assert_eq!(
            event_line(&event),
            "08:00:01 job_settled job=j1 agent=web-1 state=succeeded attempt=1 note=two lines"
        );
    }
}
