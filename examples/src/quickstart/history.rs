//! What the file remembers of all runs.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use mamos_core::{JobState, Orchestrator};
use serde::Serialize;

use super::ending::Ending;
use super::place::Place;
use super::service;
use super::voice::Voice;

/// Jobs in the store, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct History {
    /// How many there are.
    pub(super) jobs: u64,
    /// How many are in each state; states without any are left out.
    pub(super) by_state: BTreeMap<String, u64>,
}

/// Counts all jobs.
pub(super) async fn count(orchestrator: &Orchestrator) -> Result<History> {
    let mut history = History::default();
    for queue in orchestrator.queues().await? {
        for state in JobState::ALL {
            let count = queue.count(state);
            history.jobs += count;
            if count > 0 {
                *history.by_state.entry(state.as_str().to_owned()).or_default() += count;
            }
        }
    }
    Ok(history)
}

/// `quickstart history`
pub(super) async fn run(place: &Place, voice: &Voice) -> Result<Ending> {
    let orchestrator = service::look_only(place).await?;
    if voice.is_json() {
        voice.answer(serde_json::to_string(&count(&orchestrator).await?)?);
        return Ok(Ending::Fine);
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).force_no_tty();
    table.set_header(["queue", "state", "jobs"]);
    for queue in orchestrator.queues().await? {
        for state in JobState::ALL.into_iter().filter(|state| queue.count(*state) > 0) {
            table.add_row([
                queue.queue.to_string(),
                state.as_str().to_owned(),
                queue.count(state).to_string(),
            ]);
        }
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    voice.say(table);
    Ok(Ending::Fine)
}
