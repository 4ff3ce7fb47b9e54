//! Where the talk goes: standard output, or standard error if that must hold nothing but JSON.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

/// Speaks to the person at the terminal. Nobody listening is no error.
#[derive(Debug)]
pub(super) struct Voice {
    is_json: bool,
    is_bold: bool,
}

impl Voice {
    pub(super) fn new(is_json: bool) -> Self {
        let is_terminal = if is_json { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        // https://no-color.org: set and not empty means no colour.
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { is_json, is_bold: is_terminal && !is_plain }
    }

    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// A new part begins.
    pub(super) fn heading(&self, text: impl Display) {
        let (bold, plain) = if self.is_bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.write(format!("\n{bold}{text}{plain}\n").as_bytes());
    }

    pub(super) fn say(&self, text: impl Display) {
        self.write(format!("{text}\n").as_bytes());
    }

    /// What a command printed, as it is.
    pub(super) fn pass_on(&self, bytes: &[u8]) {
        self.write(bytes);
    }

    /// The answer for programs: always on standard output.
    pub(super) fn answer(&self, text: impl Display) {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// What went wrong: always on standard error.
    pub(super) fn complain(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "quickstart: {text}");
    }

    fn write(&self, bytes: &[u8]) {
        let _ = if self.is_json {
            io::stderr().lock().write_all(bytes)
        } else {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        };
    }
}

/// Sends what the libraries trace to standard error: errors only, unless `RUST_LOG` says otherwise.
pub(super) fn show_traces() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !is_plain)
        .init();
}
