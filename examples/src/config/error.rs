//! What is wrong with a setting.

use std::fmt;

use serde::de;

use super::node::Origin;

/// A setting that cannot be used: which one, where it was written, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, with dots between the tables; empty if it is not about one key.
    pub key: String,
    /// Where it was written; `None` if it was not.
    pub origin: Option<Origin>,
    /// What is wrong, and what to do.
    pub message: String,
}

/// How alike a wrong key and a known one must be for a guess: 0 not at all, 1 the same.
const LIKENESS: f64 = 0.75;
/// How many known keys an error lists.
const MAX_LISTED: usize = 12;

impl ConfigError {
    pub(super) fn new(origin: Option<Origin>, message: impl Into<String>) -> Self {
        Self { key: String::new(), origin, message: message.into() }
    }

    /// Says in which key it happened; called from the inside out.
    pub(super) fn within(mut self, key: &str, origin: &Origin) -> Self {
        self.key = if self.key.is_empty() { key.to_owned() } else { format!("{key}.{}", self.key) };
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl de::Error for ConfigError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(None, message.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("found {found}, but it must be {expected}"))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("there is no such setting; {}", guess(field, expected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("{variant:?} is not possible; {}", guess(variant, expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { key: field.to_owned(), ..Self::custom("it is missing and has no default") }
    }
}

fn guess(written: &str, known: &[&str]) -> String {
    let likeness = |name: &&str| strsim::jaro_winkler(written, name);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best {
        Some(best) if likeness(&best) >= LIKENESS => format!("did you mean `{best}`?"),
        None => "nothing can be set here".to_owned(),
        Some(_) if known.len() > MAX_LISTED => "the documentation lists all".to_owned(),
        Some(_) => format!("there are: {}", known.join(", ")),
    }
}
