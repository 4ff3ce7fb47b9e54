//! What a parameter's value may be.

use std::collections::BTreeSet;
use std::path::PathBuf;

use regex::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

use super::{MAX_PATTERN_BYTES, MAX_VALUE_BYTES};
use crate::job::labels::Labels;
use crate::whitelist::ParameterRule;

/// A compiled pattern may take this much memory: enough for `\w{1,64}` in Unicode, far below what hurts.
const MAX_PATTERN_MEMORY: usize = 2 << 20;

/// A parameter of a command.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Parameter {
    /// For people: nothing that is permitted depends on it.
    #[serde(skip)]
    pub(super) description: String,
    #[serde(flatten)]
    pub(super) kind: ParameterType,
    pub(super) default: Option<String>,
    pub(super) allow_dash: bool,
    pub(super) allow_at: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ParameterType {
    Integer { min: i64, max: i64 },
    Enum { values: BTreeSet<String> },
    String { pattern: Pattern, max_bytes: usize },
    Path { roots: BTreeSet<String> },
    Label,
}

/// A regular expression that must match the whole value.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(format!("the pattern is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        let build = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(MAX_PATTERN_MEMORY)
                .dfa_size_limit(MAX_PATTERN_MEMORY)
                .nest_limit(32)
                .build()
                .map_err(|error| match error {
                    regex::Error::CompiledTooBig(_) => {
                        "the pattern is too big once compiled; use smaller repetitions".to_owned()
                    }
                    error => {
                        let text = error.to_string();
                        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                        format!("the pattern is not valid: {reason}")
                    }
                })
        };
        // On its own first: `a)|(b` would otherwise break out of the anchors.
        build(text)?;
        let regex = build(&format!(r"\A(?:{text})\z"))?;
        Ok(Self { text: text.to_owned(), regex })
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Parameter {
    /// Does the value fit? If not, what it breaks, as the end of a sentence that begins with the value.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Err("is empty".to_owned());
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!("is longer than {MAX_VALUE_BYTES} bytes"));
        }
        if let Some(c) = value.chars().find(|c| is_forbidden(*c)) {
            return Err(format!("has the character {c:?}, which is never allowed"));
        }
        if value.starts_with('-') && !self.allow_dash {
            return Err("begins with `-`, so that the program could take it for an option".to_owned());
        }
        if value.starts_with('@') && !self.allow_at {
            return Err("begins with `@`, so that the program could take it for a file of options".to_owned());
        }
        self.kind.check(value)
    }
}

impl ParameterType {
    fn check(&self, value: &str) -> Result<(), String> {
        match self {
            Self::Integer { min, max } => match value.parse::<i64>() {
                // One way to write a number: `+7` and `007` mean other things to some programs.
                Ok(number) if number.to_string() != value => {
                    Err(format!("is not written plainly; write {number}"))
                }
                Ok(number) if (*min..=*max).contains(&number) => Ok(()),
                Ok(_) => Err(format!("is not within {min} and {max}")),
                Err(_) => Err("is not a whole number".to_owned()),
            },
            Self::Enum { values } if values.contains(value) => Ok(()),
            Self::Enum { values } => {
                let mut known = values.iter().take(16).cloned().collect::<Vec<_>>().join(", ");
                if values.len() > 16 {
                    known.push_str(", …");
                }
                Err(format!("is none of {known}"))
            }
            Self::String { max_bytes, .. } if value.len() > *max_bytes => {
                Err(format!("is longer than {max_bytes} bytes"))
            }
            Self::String { pattern, .. } if pattern.regex.is_match(value) => Ok(()),
            Self::String { pattern, .. } => Err(format!("does not match {}", pattern.text)),
            Self::Path { roots } => {
                check_absolute(value)?;
                if roots.iter().any(|root| is_under(value, root)) {
                    return Ok(());
                }
                let roots = roots.iter().take(16).cloned().collect::<Vec<_>>().join(" or ");
                Err(format!("is not under {roots}"))
            }
            Self::Label => Labels::new([("value", value)]).map(drop).map_err(|_| {
                "is not a label; write at most 256 of letters, digits and . _ / - : @ +".to_owned()
            }),
        }
    }

    /// What people are told about it.
    pub(super) fn describe(&self) -> ParameterRule {
        match self {
            Self::Integer { min, max } => ParameterRule::Integer { min: *min, max: *max },
            Self::Enum { values } => ParameterRule::Enum { values: values.iter().cloned().collect() },
            Self::String { pattern, max_bytes } => {
                ParameterRule::String { pattern: pattern.text.clone(), max_bytes: *max_bytes }
            }
            Self::Path { roots } => ParameterRule::Path { roots: roots.iter().cloned().collect() },
            Self::Label => ParameterRule::Label,
        }
    }

    /// The roots of a path.
    pub(super) fn roots(&self) -> Option<Vec<PathBuf>> {
        match self {
            Self::Path { roots } => Some(roots.iter().map(PathBuf::from).collect()),
            _ => None,
        }
    }
}

/// Is it an absolute path in its plainest form: no `.`, no `..`, no doubled or trailing slash?
pub(super) fn check_absolute(path: &str) -> Result<(), String> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("is not an absolute path".to_owned());
    };
    if rest.is_empty() {
        return Ok(());
    }
    if rest.split('/').any(|part| part == "..") {
        return Err("has `..` in it; write the path that it leads to".to_owned());
    }
    if rest.split('/').any(|part| part.is_empty() || part == ".") {
        return Err("is not in its plainest form; leave out `.` and doubled or trailing slashes".to_owned());
    }
    Ok(())
}

fn is_under(path: &str, root: &str) -> bool {
    let root = root.strip_suffix('/').unwrap_or(root);
    path.strip_prefix(root).is_some_and(|rest| root.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// Control characters (NUL and line breaks among them), and what makes a text look like another one.
pub(super) fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
