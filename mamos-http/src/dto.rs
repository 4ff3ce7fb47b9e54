//! The nouns of the core as the API shows them. Nothing else is written down as JSON.

pub(crate) mod agent;
pub(crate) mod command;
pub(crate) mod job;
pub(crate) mod log;
pub(crate) mod queue;
pub(crate) mod retry;
pub(crate) mod token;
pub(crate) mod wish;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mamos_core::job::labels::Labels;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The longest time that a request may name, in milliseconds: 100 years.
pub(crate) const MAX_MS: u64 = 100 * 365 * 24 * 3600 * 1000;
/// How deep JSON may be nested in what a caller sends for others to read.
const MAX_DEPTH: usize = 64;

/// A time as whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn labels(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The labels that `key=value` parameters of a query ask for.
pub(crate) fn labels_of(parameters: &[String]) -> Result<Labels, crate::Problem> {
    let wrong =
        |detail: String| crate::Problem::bad_request("a parameter of the query is wrong").at("label", detail);
    let mut pairs = BTreeMap::new();
    for parameter in parameters {
        let shown = || parameter.chars().take(100).collect::<String>();
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(wrong(format!("{:?} is not of the form key=value", shown())));
        };
        if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(wrong(format!("{:?} asks for a second value of one label", shown())));
        }
    }
    Labels::try_from(pairs).map_err(|error| wrong(error.to_string()))
}

/// Texts by name, none of them twice: of two values of one parameter nobody could say which was meant.
pub(crate) fn unique_texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Unique;

    impl<'de> Visitor<'de> for Unique {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut texts = BTreeMap::new();
            while let Some((name, text)) = map.next_entry::<String, String>()? {
                if texts.contains_key(&name) {
                    return Err(A::Error::custom(format!("duplicate field `{name}`")));
                }
                texts.insert(name, text);
            }
            Ok(texts)
        }
    }

    deserializer.deserialize_map(Unique)
}

/// Labels, none of them twice.
pub(crate) fn unique_labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    Labels::try_from(unique_texts(deserializer)?).map_err(D::Error::custom)
}

/// A time as in RFC 3339.
pub(crate) fn moment<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<mamos_core::Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

/// Is the text of a JSON value nested no deeper than parsers commonly bear?
pub(crate) fn is_shallow(json: &str) -> bool {
    let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_texts_only() {
        assert!(is_shallow(&format!("{}1{}", "[".repeat(64), "]".repeat(64))));
        assert!(!is_shallow(&format!("{}1{}", "[".repeat(65), "]".repeat(65))));
        assert!(is_shallow(&format!(r#"["{}", "\"{}"]"#, "[".repeat(100), "{".repeat(100))));
        assert!(is_shallow(&"[],".repeat(1000)));
    }
}
