//! The job of all scenarios: takes its time, prints numbered lines, and is written down by its agent.

use std::time::Duration;

use mamos_agent::{JobContext, JobError};
use mamos_core::Job;
use mamos_core::lease::RunRef;
use serde::{Deserialize, Serialize};

use super::evidence::{Notebook, What};

/// What a client asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Work {
    /// How long it takes.
    pub(super) takes_ms: u64,
    /// How many lines it prints, spread over its time.
    pub(super) lines: u32,
}

impl Job for Work {
    const KIND: &'static str = "restart.work";
    type Output = ();
}

impl Work {
    /// Does the work, deaf to all wishes to stop.
    pub(super) async fn perform(self, notebook: Notebook, context: JobContext) -> Result<(), JobError> {
        let mut running = Running::begin(notebook, context.run_ref());
        let lines = self.lines.max(1);
        for line in 0..lines {
            tokio::time::sleep(Duration::from_millis(self.takes_ms / u64::from(lines))).await;
            context.log(printed(context.run_ref(), line)).await;
        }
        running.is_whole = true;
        Ok(())
    }

    /// All that a run of it prints.
    pub(super) fn prints(&self, run: RunRef) -> String {
        (0..self.lines.max(1)).map(|line| printed(run, line)).collect()
    }
}

fn printed(run: RunRef, line: u32) -> String {
    format!("{run} prints line {line}\n")
}

/// Writes down that a handler began, and how it ended.
struct Running {
    notebook: Notebook,
    run: RunRef,
    is_whole: bool,
}

impl Running {
    fn begin(notebook: Notebook, run: RunRef) -> Self {
        notebook.note(What::Started { run });
        Self { notebook, run, is_whole: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let run = self.run;
        self.notebook.note(if self.is_whole { What::Ended { run } } else { What::Dropped { run } });
    }
}
