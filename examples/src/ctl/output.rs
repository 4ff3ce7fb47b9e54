//! Standard output holds data and nothing else; all talk goes to standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::cli::When;
use super::table::{Column, details, table};
use super::trouble::Trouble;

/// Where answers go, and in which form.
#[derive(Debug)]
pub(super) struct Output {
    is_json: bool,
    is_coloured: bool,
}

impl Output {
    pub(super) fn new(is_json: bool, color: When) -> Self {
        // https://no-color.org: set and not empty means no colour.
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_coloured = match color {
            When::Always => true,
            When::Never => false,
            When::Auto => io::stdout().is_terminal() && !is_plain,
        };
        Self { is_json, is_coloured }
    }

    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    pub(super) fn is_coloured(&self) -> bool {
        self.is_coloured
    }

    /// Many things: a table, or one JSON object a line.
    pub(super) fn list(&self, columns: &[Column], items: &[Value]) -> Result<(), Trouble> {
        if self.is_json {
            return items.iter().try_for_each(|item| self.line(item));
        }
        if items.is_empty() {
            self.say("there are none");
            return Ok(());
        }
        self.line(table(columns, items, self.is_coloured))
    }

    /// One thing: its fields, or one JSON object.
    pub(super) fn one(&self, item: &Value) -> Result<(), Trouble> {
        if self.is_json { self.line(item) } else { self.line(details(item)) }
    }

    /// What was done, for people; for programs the thing as it is now.
    pub(super) fn done(&self, text: impl Display, item: &Value) -> Result<(), Trouble> {
        if self.is_json && !item.is_null() {
            return self.line(item);
        }
        self.say(text);
        Ok(())
    }

    /// A line of data.
    pub(super) fn line(&self, text: impl Display) -> Result<(), Trouble> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Trouble::from)
    }

    /// Data as it is.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<(), Trouble> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(Trouble::from)
    }

    /// What a command said on its standard error. Nobody reading it is no error.
    pub(super) fn raw_error(&self, bytes: &[u8]) {
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// Talk.
    pub(super) fn say(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// What went wrong.
pub(super) fn complain(trouble: &Trouble) {
    let text = trouble.to_string();
    if !text.is_empty() {
        let _ = writeln!(io::stderr().lock(), "mamosctl: {text}");
    }
}
