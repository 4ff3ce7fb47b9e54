//! Reads the parameters of a command.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable};

use super::super::reader::{Reader, Value, join, nearest};
use super::super::value::{Parameter, ParameterType, Pattern, check_absolute};
use super::super::{MAX_ARGUMENT_BYTES, MAX_LISTED, MAX_PATTERN_BYTES, MAX_VALUE_BYTES};
use crate::id::MAX_NAME_BYTES;

/// By name: where it stands, and what it is unless that is at fault.
pub(super) type Parameters = BTreeMap<String, (Range<usize>, Option<Parameter>)>;

/// Reads one parameter; `None` if it is at fault.
pub(super) fn read_parameter<'t>(
    reader: &mut Reader<'t>,
    key: &Spanned<DeString<'t>>,
    value: &Value<'t>,
    subject: &str,
) -> Option<Parameter> {
    const TYPES: &[&str] = &["integer", "enum", "string", "path", "label"];
    let table = reader.table(value, subject)?;
    let Some(type_value) = table.get("type") else {
        let why = format!("has no `type`; write one of {}", TYPES.join(", "));
        reader.fault(key.span(), subject, why);
        return None;
    };
    let type_subject = join(subject, "type");
    let type_name = reader.text(type_value, &type_subject, MAX_NAME_BYTES)?;
    let own: &[&str] = match type_name.as_str() {
        "integer" => &["min", "max"],
        "enum" => &["values"],
        "string" => &["pattern", "max_bytes"],
        "path" => &["roots"],
        "label" => &[],
        other => {
            let advice = match nearest(other, TYPES) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write one of {}", TYPES.join(", ")),
            };
            reader.fault(type_value.span(), &type_subject, format!("unknown type {other:?}; {advice}"));
            return None;
        }
    };
    let common = ["type", "description", "default", "allow_dash", "allow_at"];
    let known: Vec<&str> = common.into_iter().chain(own.iter().copied()).collect();
    reader.only(table, subject, &known);
    let description = table.get("description");
    let description = description
        .and_then(|value| reader.text(value, &join(subject, "description"), 1024))
        .unwrap_or_default();
    let mut flag = |name: &str| {
        table.get(name).and_then(|value| reader.bool(value, &join(subject, name))).unwrap_or(false)
    };
    let (allow_dash, allow_at) = (flag("allow_dash"), flag("allow_at"));
    let kind = read_type(reader, key, table, subject, &type_name, allow_dash)?;
    let mut parameter = Parameter { description, kind, default: None, allow_dash, allow_at };
    check_listed_values(reader, table, subject, &parameter);
    if let Some(value) = table.get("default") {
        let subject = join(subject, "default");
        let text = match (&parameter.kind, value.get_ref().is_integer()) {
            (ParameterType::Integer { .. }, true) => reader.integer(value, &subject).map(|it| it.to_string()),
            _ => reader.text(value, &subject, MAX_VALUE_BYTES),
        };
        match text.map(|text| parameter.check(&text).map(|()| text)) {
            Some(Ok(text)) => parameter.default = Some(text),
            Some(Err(why)) => reader.fault(value.span(), &subject, format!("the default {why}")),
            None => {}
        }
    }
    Some(parameter)
}

fn read_type<'t>(
    reader: &mut Reader<'t>,
    key: &Spanned<DeString<'t>>,
    table: &DeTable<'t>,
    subject: &str,
    type_name: &str,
    allow_dash: bool,
) -> Option<ParameterType> {
    let required = |reader: &mut Reader<'t>, name: &str, example: &str| {
        if table.get(name).is_none() {
            let why = format!("a parameter of type {type_name} needs `{name}`, for example {example}");
            reader.fault(key.span(), subject, why);
        }
    };
    Some(match type_name {
        "integer" => {
            let mut bound = |name: &str, default: i64| match table.get(name) {
                Some(value) => Some((value.span(), reader.integer(value, &join(subject, name))?)),
                None => Some((key.span(), default)),
            };
            let ((min_span, min), (max_span, max)) = (bound("min", 0)?, bound("max", i64::MAX)?);
            if min > max {
                reader.fault(max_span, subject, format!("`max` ({max}) is below `min` ({min})"));
            }
            if min < 0 && !allow_dash {
                let why =
                    "numbers below zero begin with `-`; also write `allow_dash = true`, or raise `min` to 0";
                reader.fault(min_span, subject, why);
            }
            ParameterType::Integer { min, max }
        }
        "enum" => {
            required(reader, "values", r#"`values = ["fast", "full"]`"#);
            let value = table.get("values")?;
            let values = reader.texts(value, &join(subject, "values"), MAX_LISTED, MAX_VALUE_BYTES)?;
            if values.is_empty() {
                reader.fault(value.span(), &join(subject, "values"), "no value at all; add one");
            }
            ParameterType::Enum { values: values.into_iter().map(|(_, value)| value).collect() }
        }
        "string" => {
            required(reader, "pattern", r#"`pattern = "[a-z0-9-]+"`"#);
            let max_bytes = match table.get("max_bytes") {
                None => 256,
                Some(value) => {
                    let subject = join(subject, "max_bytes");
                    let number = reader.integer(value, &subject)?;
                    let fits = usize::try_from(number).ok().filter(|it| (1..=MAX_VALUE_BYTES).contains(it));
                    if fits.is_none() {
                        reader.fault(
                            value.span(),
                            &subject,
                            format!("{number} is not within 1 and {MAX_VALUE_BYTES}"),
                        );
                    }
                    fits?
                }
            };
            let value = table.get("pattern")?;
            let subject = join(subject, "pattern");
            let text = reader.text(value, &subject, MAX_PATTERN_BYTES)?;
            match Pattern::compile(&text) {
                Ok(pattern) => ParameterType::String { pattern, max_bytes },
                Err(why) => {
                    reader.fault(value.span(), &subject, why);
                    return None;
                }
            }
        }
        "path" => {
            required(reader, "roots", r#"`roots = ["/var/log"]`"#);
            let value = table.get("roots")?;
            let subject = join(subject, "roots");
            let roots = reader.texts(value, &subject, MAX_LISTED, MAX_ARGUMENT_BYTES)?;
            if roots.is_empty() {
                reader.fault(value.span(), &subject, "no root at all; add one");
            }
            for (span, root) in &roots {
                if let Err(why) = check_absolute(root) {
                    reader.fault(span.clone(), &subject, format!("{root:?} {why}"));
                }
            }
            ParameterType::Path { roots: roots.into_iter().map(|(_, root)| root).collect::<BTreeSet<_>>() }
        }
        _ => ParameterType::Label,
    })
}

/// Values that an enum lists but would refuse are an error, not a surprise later.
fn check_listed_values<'t>(
    reader: &mut Reader<'t>,
    table: &DeTable<'t>,
    subject: &str,
    parameter: &Parameter,
) {
    let ParameterType::Enum { .. } = parameter.kind else { return };
    let Some(list) = table.get("values").and_then(|value| value.get_ref().as_array()) else { return };
    for (n, value) in list.iter().enumerate() {
        let Some(text) = value.get_ref().as_str() else { continue };
        if let Err(why) = parameter.check(text) {
            let subject = format!("{}[{n}]", join(subject, "values"));
            reader.fault(value.span(), &subject, format!("the value {why}; remove it, or allow it"));
        }
    }
}
