//! Labels of agents and jobs, and selectors: which labels a job asks of an agent.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::InvalidName;

/// The most labels on one agent or job, and the most requirements in one selector.
pub const MAX_LABELS: usize = 64;
/// The longest label key or value, in bytes.
pub const MAX_LABEL_BYTES: usize = 256;

/// Keys and values that describe an agent or a job, for example `zone=eu`.
///
/// Keys are 1 to 256 bytes of `A-Z a-z 0-9 . _ / -`; values also allow `: @ +` and may be empty. At
/// most 64 labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks and takes labels.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if there are too many, or a key or value is too long or has other characters.
    pub fn new<K: Into<String>, V: Into<String>>(
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, InvalidName> {
        let labels: BTreeMap<String, String> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self::try_from(labels)
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = InvalidName;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, InvalidName> {
        if labels.len() > MAX_LABELS {
            return Err(InvalidName::new("labels", &labels.len().to_string(), "at most 64 are allowed"));
        }
        for (key, value) in &labels {
            check_key(key)?;
            check_value(value)?;
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// What a job asks of an agent's labels. All requirements must hold; an empty selector fits every agent.
///
/// As text: requirements joined by commas, each `key=value`, `key!=value`, `key=a|b` (one of), `key`
/// (present) or `!key` (absent). Kept sorted and without repeats, so that equal selectors are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector(Vec<Requirement>);

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Test {
    Present,
    Absent,
    OneOf(Vec<String>),
    IsNot(String),
}

impl Selector {
    /// Fits every agent.
    pub fn any() -> Self {
        Self::default()
    }

    /// Do the labels meet every requirement?
    pub fn matches(&self, labels: &Labels) -> bool {
        self.first_unmet(labels).is_none()
    }

    /// The first requirement that the labels do not meet.
    pub fn first_unmet(&self, labels: &Labels) -> Option<&Requirement> {
        self.0.iter().find(|requirement| !requirement.is_met(labels))
    }

    /// Does it fit every agent?
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

impl Requirement {
    fn is_met(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Absent => value.is_none(),
            Test::OneOf(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Test::IsNot(other) => value != Some(other),
        }
    }

    fn parse(text: &str) -> Result<Self, InvalidName> {
        let (key, test) = if let Some((key, value)) = text.split_once("!=") {
            check_value(value)?;
            (key, Test::IsNot(value.to_owned()))
        } else if let Some((key, values)) = text.split_once('=') {
            let mut values: Vec<String> = values.split('|').map(str::to_owned).collect();
            values.iter().try_for_each(|value| check_value(value))?;
            values.sort();
            values.dedup();
            (key, Test::OneOf(values))
        } else if let Some(key) = text.strip_prefix('!') {
            (key, Test::Absent)
        } else {
            (text, Test::Present)
        };
        check_key(key)?;
        Ok(Self { key: key.to_owned(), test })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::Present => write!(f, "{key}"),
            Test::Absent => write!(f, "!{key}"),
            Test::OneOf(values) => write!(f, "{key}={}", values.join("|")),
            Test::IsNot(value) => write!(f, "{key}!={value}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.0.iter().enumerate() {
            write!(f, "{}{requirement}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() > MAX_LABELS * MAX_LABEL_BYTES {
            return Err(InvalidName::new("selector", text, "it is longer than 16 KiB"));
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let mut requirements = parts.map(Requirement::parse).collect::<Result<Vec<_>, _>>()?;
        requirements.sort();
        requirements.dedup();
        if requirements.len() > MAX_LABELS {
            return Err(InvalidName::new("selector", text, "at most 64 requirements are allowed"));
        }
        Ok(Self(requirements))
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

fn check_key(key: &str) -> Result<(), InvalidName> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'/' | b'-');
    if key.is_empty() || key.len() > MAX_LABEL_BYTES || !key.bytes().all(allowed) {
        return Err(InvalidName::new("label key", key, "expected 1 to 256 of letters, digits and . _ / -"));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), InvalidName> {
    let allowed =
        |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'/' | b'-' | b':' | b'@' | b'+');
    if value.len() > MAX_LABEL_BYTES || !value.bytes().all(allowed) {
        let reason = "expected at most 256 of letters, digits and . _ / - : @ +";
        return Err(InvalidName::new("label value", value, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        Labels::new(text.split_whitespace().filter_map(|part| part.split_once('='))).unwrap()
    }

    #[test]
    fn each_requirement_means_what_it_says() {
        // selector, labels, matches
        let cases = [
            ("", "", true),
            ("zone=eu", "zone=eu", true),
            ("zone=eu", "zone=us", false),
            ("zone=eu", "", false),
            ("zone=eu|us", "zone=us", true),
            ("zone!=eu", "zone=us", true),
            ("zone!=eu", "", true),
            ("zone!=eu", "zone=eu", false),
            ("gpu", "gpu=", true),
            ("gpu", "", false),
            ("!gpu", "", true),
            ("!gpu", "gpu=a100", false),
            ("zone=eu, gpu", "zone=eu gpu=1", true),
            ("zone=eu, gpu", "zone=eu", false),
        ];
        for (selector, given, expected) in cases {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.matches(&labels(given)), expected, "{selector:?} on {given:?}");
        }
    }

    #[test]
    fn order_and_repeats_do_not_matter() {
        let one: Selector = "b=2|1,a,a".parse().unwrap();
        let other: Selector = " a , b=1|2".parse().unwrap();
        assert_eq!(one, other);
        assert_eq!(one.to_string(), "a,b=1|2");
        assert_eq!(one.to_string().parse::<Selector>().unwrap(), one);
    }

    #[test]
    fn the_first_unmet_requirement_is_named() {
        let selector: Selector = "gpu,zone=eu".parse().unwrap();
        assert_eq!(selector.first_unmet(&labels("gpu=1")).unwrap().to_string(), "zone=eu");
    }

    #[test]
    fn hostile_labels_and_selectors_are_refused() {
        for text in ["=x", "a b", "a=b c", "ä", "!", "a=\u{0}", &"a,".repeat(100_000)] {
            assert!(text.parse::<Selector>().is_err(), "{}", &text[..text.len().min(20)]);
        }
        assert!(Labels::new((0..65).map(|n| (format!("k{n}"), ""))).is_err());
        assert!(Labels::new([("k", "line\nbreak")]).is_err());
    }
}
