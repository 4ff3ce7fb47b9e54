//! Walks over TOML that knows where it stands, and collects faults instead of stopping at the first.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::PolicyError;
use super::value::is_forbidden;

pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// Collects faults, and turns places in the text into lines and columns.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    text: &'t str,
    origin: Arc<str>,
    line_starts: Vec<usize>,
    pub(super) faults: Vec<PolicyError>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, origin: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { text, origin: origin.into(), line_starts, faults: Vec::new() }
    }

    pub(super) fn fault(&mut self, span: Range<usize>, subject: &str, message: impl Into<String>) {
        let at = self.text.floor_char_boundary(span.start);
        let line = self.line_starts.partition_point(|start| *start <= at);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        self.faults.push(PolicyError {
            origin: self.origin.clone(),
            line,
            column: self.text[start..at].chars().count() + 1,
            subject: subject.to_owned(),
            message: message.into(),
        });
    }

    /// The table at a value.
    pub(super) fn table<'v>(&mut self, value: &'v Value<'t>, subject: &str) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(value, subject, "a table");
        }
        table
    }

    /// Faults every key that is not known, with the known one that it resembles.
    pub(super) fn only(&mut self, table: &DeTable<'t>, subject: &str, known: &[&str]) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let advice = match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", known.join(", ")),
            };
            self.fault(key.span(), &join(subject, name), format!("unknown key; {advice}"));
        }
    }

    /// A text without control characters, at most `max` bytes long.
    pub(super) fn text(&mut self, value: &Value<'t>, subject: &str, max: usize) -> Option<String> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(value, subject, "a string");
            return None;
        };
        if text.len() > max {
            self.fault(value.span(), subject, format!("longer than {max} bytes; shorten it"));
            return None;
        }
        if let Some(c) = text.chars().find(|c| is_forbidden(*c)) {
            self.fault(value.span(), subject, format!("has the character {c:?}, which is never allowed"));
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn bool(&mut self, value: &Value<'t>, subject: &str) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(value, subject, "true or false");
        }
        found
    }

    pub(super) fn integer(&mut self, value: &Value<'t>, subject: &str) -> Option<i64> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(value, subject, "a whole number");
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        if number.is_none() {
            self.fault(value.span(), subject, "the number does not fit 64 bits");
        }
        number
    }

    /// A list with at most `max` entries.
    pub(super) fn list<'v>(
        &mut self,
        value: &'v Value<'t>,
        subject: &str,
        max: usize,
    ) -> Option<&'v DeArray<'t>> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(value, subject, "a list");
            return None;
        };
        if list.len() > max {
            self.fault(value.span(), subject, format!("{} entries; at most {max} are allowed", list.len()));
            return None;
        }
        Some(list)
    }

    /// A list of texts, at most `max` of them, `max_bytes` each.
    pub(super) fn texts(
        &mut self,
        value: &Value<'t>,
        subject: &str,
        max: usize,
        max_bytes: usize,
    ) -> Option<Vec<(Range<usize>, String)>> {
        let list = self.list(value, subject, max)?;
        let texts = list.iter().enumerate().map(|(n, entry)| {
            self.text(entry, &format!("{subject}[{n}]"), max_bytes).map(|text| (entry.span(), text))
        });
        // All of them are read before one that is missing counts, so that each is faulted.
        texts.collect::<Vec<_>>().into_iter().collect()
    }

    fn wrong_type(&mut self, value: &Value<'t>, subject: &str, expected: &str) {
        let found = value.get_ref().type_str();
        self.fault(value.span(), subject, format!("expected {expected}, found {found}"));
    }
}

/// `commands.disk-usage`, and quotes where TOML would need them.
pub(super) fn join(subject: &str, key: &str) -> String {
    let mut key = key.chars().take(64).collect::<String>();
    if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-')) {
        key = format!("{key:?}");
    }
    if subject.is_empty() { key } else { format!("{subject}.{key}") }
}

/// The known name that differs least, if it differs by little.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // Longer names are no typing errors, and comparing costs the product of both lengths.
    if name.len() > 64 {
        return None;
    }
    let limit = (name.len() / 3).clamp(1, 3);
    known
        .iter()
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// How many letters must be added, left out, exchanged or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=right.len()).collect();
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let exchange = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = exchange.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_what_was_meant() {
        let known = ["timeout", "program", "arguments", "allow"];
        assert_eq!(nearest("timeuot", &known), Some("timeout"));
        assert_eq!(nearest("argument", &known), Some("arguments"));
        assert_eq!(nearest("alow", &known), Some("allow"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"a".repeat(100_000), &known), None);
    }
}
