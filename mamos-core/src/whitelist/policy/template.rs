//! One argument of a command: fixed text, with at most one slot in it.

use serde::Serialize;

use crate::id::MAX_NAME_BYTES;

/// One argument. Whatever the value of its slot is, it stays one argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Template {
    /// What stands before the slot, or the whole argument.
    pub(super) before: String,
    /// The parameter whose value goes in.
    pub(super) slot: Option<String>,
    /// What stands after the slot.
    pub(super) after: String,
}

impl Template {
    /// Reads `text`, `{parameter}` or `--name={parameter}`; `{{` and `}}` stand for braces.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut template = Self { before: String::new(), slot: None, after: String::new() };
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (plain, tail) = rest.split_at(at);
            template.push(plain);
            rest = if let Some(rest) = tail.strip_prefix("{{") {
                template.push("{");
                rest
            } else if let Some(rest) = tail.strip_prefix("}}") {
                template.push("}");
                rest
            } else if let Some(tail) = tail.strip_prefix('{') {
                let (name, rest) =
                    tail.split_once('}').ok_or("`{` is never closed; write `{{` for a brace itself")?;
                if !is_parameter_name(name) {
                    return Err(format!(
                        "`{{{}}}` is no slot; write `{{{{` and `}}}}` for braces themselves",
                        name.chars().take(64).collect::<String>()
                    ));
                }
                if template.slot.replace(name.to_owned()).is_some() {
                    return Err("one argument holds at most one slot, so that two values never join; \
                                give each an argument of its own"
                        .to_owned());
                }
                rest
            } else {
                return Err("`}` has no `{` before it; write `}}` for a brace itself".to_owned());
            };
        }
        template.push(rest);
        Ok(template)
    }

    /// The argument with the slot's value in place.
    pub(super) fn fill(&self, value: &str) -> String {
        let mut argument = String::with_capacity(self.before.len() + value.len() + self.after.len());
        argument.push_str(&self.before);
        if self.slot.is_some() {
            argument.push_str(value);
        }
        argument.push_str(&self.after);
        argument
    }

    /// The text of an argument without a slot.
    pub(super) fn fixed(&self) -> Option<&str> {
        self.slot.is_none().then_some(self.before.as_str())
    }

    /// Does the slot's value decide how the argument begins?
    pub(super) fn begins_with_slot(&self) -> bool {
        self.slot.is_some() && self.before.is_empty()
    }

    fn push(&mut self, text: &str) {
        if self.slot.is_some() {
            self.after.push_str(text);
        } else {
            self.before.push_str(text);
        }
    }
}

/// 1 to 128 of `a-z A-Z 0-9 _ -`, beginning with a letter.
pub(super) fn is_parameter_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_text_and_at_most_one_slot() {
        // template, value, argument
        let cases = [
            ("-h", "x", "-h"),
            ("{path}", "/var", "/var"),
            ("--count={n}", "3", "--count=3"),
            ("{n}s", "3", "3s"),
            ("{{print $1}}", "x", "{print $1}"),
            ("{{{n}}}", "3", "{3}"),
            ("", "x", ""),
            ("{n}", "{n}{m} $(x) `y`", "{n}{m} $(x) `y`"),
        ];
        for (template, value, argument) in cases {
            assert_eq!(Template::parse(template).unwrap().fill(value), argument, "{template}");
        }
        for text in ["{", "}", "{a}{b}", "{a}{a}", "{}", "{1}", "{a b}", "x{", "{{}", "{../x}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
