//! What happened, for people and for programs.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::ending::Ending;
use super::history::History;

/// The one JSON object of `--json`. Keys are added, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// The absolute path of the SQLite file.
    pub(super) database: String,
    pub(super) commands_succeeded: u32,
    pub(super) commands_failed: u32,
    pub(super) commands_refused: u32,
    pub(super) jobs_accepted: usize,
    pub(super) jobs_succeeded: usize,
    pub(super) jobs_lost: usize,
    pub(super) jobs_duplicated: usize,
    /// Jobs per second, from the first enqueue to the last result, the kill and the lease included.
    pub(super) jobs_per_second: u64,
    /// Jobs that the killed agent had and the other one did.
    pub(super) rescued: usize,
    /// Of those, how many had been started.
    pub(super) crashes: usize,
    pub(super) elapsed_ms: u64,
    /// What was in the file before this run.
    pub(super) earlier: History,
}

impl Report {
    /// Was every promise kept, and was there something to keep it against?
    pub(super) fn ending(&self) -> Ending {
        let is_kept = self.jobs_lost == 0 && self.jobs_duplicated == 0 && self.rescued > 0;
        let is_whole = self.commands_failed == 0 && self.jobs_succeeded == self.jobs_accepted;
        if is_kept && is_whole { Ending::Fine } else { Ending::Failed }
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).force_no_tty();
        table.set_header(["what happened", "count", ""]);
        let rows = [
            ("commands run", self.commands_succeeded.to_string(), failed(self.commands_failed)),
            ("commands refused", self.commands_refused.to_string(), "by the whitelist".to_owned()),
            ("jobs accepted", self.jobs_accepted.to_string(), "each is in the file".to_owned()),
            ("jobs succeeded", self.jobs_succeeded.to_string(), format!("{} a second", self.jobs_per_second)),
            ("jobs lost", self.jobs_lost.to_string(), "accepted, but not done".to_owned()),
            ("jobs duplicated", self.jobs_duplicated.to_string(), "two results on record".to_owned()),
            ("jobs rescued", self.rescued.to_string(), "held by the agent that was killed".to_owned()),
            ("crashes counted", self.crashes.to_string(), "started there, so done twice at most".to_owned()),
        ];
        for (what, count, note) in rows {
            table.add_row([what.to_owned(), count, note]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

fn failed(count: u32) -> String {
    if count == 0 { "none failed".to_owned() } else { format!("{count} more failed") }
}
