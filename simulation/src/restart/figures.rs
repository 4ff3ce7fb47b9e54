//! What a scenario came to, for people and for programs.

use comfy_table::{CellAlignment, Table, presets};
use mamos_core::job::AttemptEnd;
use serde::Serialize;

use super::judge::{Broken, Effects, Findings};

/// What a scenario came to.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Which scenario.
    pub scenario: String,
    /// Jobs that were acknowledged.
    pub jobs: usize,
    /// Runs in the store.
    pub runs: usize,
    /// Those that crashed.
    pub crashed: usize,
    /// Reports that came too late, and changed nothing.
    pub late: usize,
    /// How long it took.
    pub seconds: f64,
    /// What each outage did.
    pub outages: Vec<Effects>,
    /// What was broken.
    pub broken: Vec<Broken>,
}

impl Figures {
    /// Counts.
    pub fn of(
        scenario: String,
        findings: &Findings,
        (broken, outages): (Vec<Broken>, Vec<Effects>),
        seconds: f64,
    ) -> Self {
        let runs = || findings.kept.iter().flat_map(|kept| &kept.runs);
        Self {
            scenario,
            jobs: findings.accepted.len(),
            runs: runs().filter(|run| !run.is_late).count(),
            crashed: runs().filter(|run| run.end == Some(AttemptEnd::Crashed)).count(),
            late: runs().filter(|run| run.is_late).count(),
            seconds,
            outages,
            broken,
        }
    }
}

/// The figures of all outages as a table.
pub fn table(all: &[Figures]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "outage", "took s", "running", "ended", "through", "rescued", "journal", "back", "first s", "half s",
        "95 % s", "last s",
    ]);
    let seconds = |ms: i64| format!("{}.{:02}", ms / 1000, ms % 1000 / 10);
    for outage in all.iter().flat_map(|figures| &figures.outages) {
        let back = &outage.back_ms;
        let at = |part: usize| back.get((back.len() * part / 100).min(back.len().saturating_sub(1)));
        let at = |part| at(part).map_or_else(|| "-".to_owned(), |ms| seconds(*ms));
        table.add_row([
            outage.name.clone(),
            seconds(outage.took_ms),
            outage.running.to_string(),
            outage.ended_meanwhile.to_string(),
            outage.ran_through.to_string(),
            outage.rescued.to_string(),
            outage.journaled.to_string(),
            back.len().to_string(),
            at(0),
            at(50),
            at(95),
            at(100),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}
