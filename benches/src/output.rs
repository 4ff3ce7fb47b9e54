//! What people and programs get to see.

use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use mamos_core::Timestamp;
use mamos_core::clock::{Clock, SystemClock};
use serde::Serialize;

use crate::figures::{Figure, Findings, Spread, Unit};
use crate::settings::Settings;

/// Says on stderr what goes on; hidden when that is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::default_spinner());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    pub(crate) fn say(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// The whole of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    version: &'static str,
    profile: &'static str,
    at: String,
    cores: usize,
    os: &'static str,
    arch: &'static str,
    settings: &'a Settings,
    #[serde(flatten)]
    findings: &'a Findings,
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
pub(crate) fn print(settings: &Settings, findings: &Findings) {
    let document = Document {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        at: now().to_string(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        settings,
        findings,
    };
    if settings.wants_json {
        println!("{}", json(&document));
        return;
    }
    println!("{}", findings.store);
    println!(
        "mamos-bench {} ({}), {} cores, {} jobs of {} bytes, {} agents of {} slots, {} rounds: median (min – max)",
        document.version,
        document.profile,
        document.cores,
        settings.jobs,
        settings.payload_bytes,
        settings.agents,
        settings.slots,
        settings.rounds
    );
    println!("{}", table(&findings.figures));
    println!("lost: {}, duplicated: {}", findings.lost, findings.duplicated);
}

/// Prints figures under a headline, or the whole as JSON.
#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
pub(crate) fn print_figures(wants_json: bool, headline: &str, figures: &[Figure], document: &impl Serialize) {
    if wants_json {
        println!("{}", json(document));
        return;
    }
    println!("{headline}\n{}", table(figures));
}

/// Prints rows of a name and a value, or the whole as JSON.
#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
pub(crate) fn print_rows(wants_json: bool, document: &impl Serialize, rows: &[(String, String)]) {
    if wants_json {
        println!("{}", json(document));
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    for (name, value) in rows {
        table.add_row([name, value]);
    }
    println!("{table}");
}

fn json(document: &impl Serialize) -> String {
    serde_json::to_string_pretty(document).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["measure", "unit", "MAMOS", "baseline", "MAMOS / baseline", "the baseline is"]);
    for figure in figures {
        let (unit, number): (_, fn(f64) -> String) = match figure.unit {
            Unit::JobsPerSecond => ("jobs/s", |number| grouped(number)),
            Unit::FramesPerSecond => ("frames/s", |number| grouped(number)),
            Unit::Micros => ("µs", |number| format!("{number:.2}")),
        };
        table.add_row([
            figure.name.clone(),
            unit.to_owned(),
            spread(figure.mamos, number),
            spread(figure.baseline, number),
            spread(figure.ratio, |ratio| format!("{ratio:.3}")),
            figure.against.clone(),
        ]);
    }
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn spread(spread: Spread, number: impl Fn(f64) -> String) -> String {
    if spread.min == spread.max {
        return number(spread.median);
    }
    format!("{}\n({} – {})", number(spread.median), number(spread.min), number(spread.max))
}

/// A whole number with its thousands apart.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::print_stderr, reason = "this is a program, and stderr is where its complaints go")]
pub(crate) fn complain(complaints: &[String]) {
    for complaint in complaints {
        eprintln!("error: {complaint}");
    }
}

pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    complain(&[format!("{error:#}")]);
    ExitCode::FAILURE
}

fn now() -> Timestamp {
    SystemClock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(999.4), "999");
        assert_eq!(grouped(1_000.0), "1,000");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
