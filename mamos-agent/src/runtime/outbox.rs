//! Reports that the orchestrator does not have on record yet, and their numbers on the current link.

use std::collections::{BTreeSet, VecDeque};

use mamos_core::job::{Failure, Outcome, Progress};
use mamos_core::lease::RunRef;
use mamos_core::protocol::{RunEvent, RunReport};
use mamos_core::{Error, ErrorKind, Result};

/// The most reports in one frame: enough to make a frame's cost small, few enough for one transaction.
const MAX_BATCH: usize = 1000;
/// The most bytes of outputs and logs in one frame, unless a single report has more.
pub(super) const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// A piece of a log weighs at least this much, so that the budget of bytes bounds their count too.
const MIN_LOG_WEIGHT: usize = 256;

/// Numbers reports from 1 on each link, without gaps, and keeps each until it is on record.
#[derive(Debug)]
pub(super) struct Outbox {
    /// `None` where a report was forgotten after it had got a number on this link.
    entries: VecDeque<Option<RunReport>>,
    /// The number of the first entry.
    first: u64,
    /// How many entries were sent on this link.
    sent: usize,
    /// How many entries are `None`.
    holes: usize,
    max_batch_bytes: usize,
    last_batch: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 1,
            sent: 0,
            holes: 0,
            max_batch_bytes: MAX_BATCH_BYTES,
            last_batch: 0,
        }
    }
}

impl Outbox {
    pub(super) fn push(&mut self, run: RunRef, event: RunEvent) {
        self.entries.push_back(Some(RunReport { run, event }));
    }

    /// How many reports are not on record.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.holes
    }

    #[cfg(test)]
    pub(super) fn count_anew(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Do reports wait for their `Recorded`?
    pub(super) fn is_unanswered(&self) -> bool {
        self.sent > 0
    }

    /// A new link: what is left is sent again, in order, numbered from 1.
    pub(super) fn restart(&mut self) {
        self.entries.retain(Option::is_some);
        self.holes = 0;
        self.first = 1;
        self.sent = 0;
    }

    /// The next reports to send, and the number of the first.
    pub(super) fn take_batch(&mut self) -> Option<(u64, Vec<RunReport>)> {
        let first = self.first + self.sent as u64;
        let (mut reports, mut bytes) = (Vec::new(), 0);
        // What has no number yet is removed when it is forgotten, so all of these are there.
        for report in self.entries.iter().skip(self.sent).flatten().take(MAX_BATCH) {
            bytes += size_of_event(&report.event);
            if bytes > self.max_batch_bytes && !reports.is_empty() {
                break;
            }
            reports.push(report.clone());
        }
        self.sent += reports.len();
        self.last_batch = reports.len();
        (!reports.is_empty()).then_some((first, reports))
    }

    /// Everything up to the number is on record: gives those reports.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if some of them were never sent.
    pub(super) fn recorded(&mut self, through: u64) -> Result<Vec<RunReport>> {
        let count = through.saturating_add(1).saturating_sub(self.first);
        let count = usize::try_from(count).ok().filter(|count| *count <= self.sent).ok_or_else(|| {
            let message = "the orchestrator says that reports are on record which were never sent";
            Error::new(ErrorKind::Corrupt, "link.recorded", message)
        })?;
        self.first += count as u64;
        self.sent -= count;
        let reports: Vec<RunReport> = self.entries.drain(..count).flatten().collect();
        self.holes -= count - reports.len();
        Ok(reports)
    }

    /// The last batch was refused as too large. Later ones are smaller; one that cannot be smaller is
    /// replaced by what fits. Gives the weight of a log that was dropped.
    ///
    /// The numbers of the refused batch are used up, so a new link must follow.
    pub(super) fn batch_was_too_large(&mut self) -> usize {
        if self.last_batch > 1 {
            self.max_batch_bytes = (self.max_batch_bytes / 2).max(1);
            return 0;
        }
        let last = self.sent.checked_sub(1).and_then(|last| self.entries.get_mut(last));
        let Some(Some(report)) = last else { return 0 };
        let freed = log_weight(&report.event);
        let message = "the report does not fit a frame of this link; let the job print or give back less";
        match &mut report.event {
            RunEvent::Ended(outcome) => {
                *outcome = Outcome::Bury { failure: Failure::new("output_too_large", message) };
            }
            event => *event = RunEvent::Progress(Progress::new(None, message)),
        }
        freed
    }

    /// Drops every report about the runs. Gives the weight of their logs.
    pub(super) fn forget(&mut self, runs: &BTreeSet<RunRef>) -> usize {
        let (mut freed, mut index, mut holes, sent) = (0, 0, 0, self.sent);
        self.entries.retain_mut(|entry| {
            let has_number = index < sent;
            index += 1;
            match entry {
                Some(report) if runs.contains(&report.run) => {
                    freed += log_weight(&report.event);
                    *entry = None;
                    holes += usize::from(has_number);
                    has_number
                }
                _ => true,
            }
        });
        self.holes += holes;
        freed
    }
}

/// What a piece of a log takes from the budget.
pub(super) fn weight_of(bytes: usize) -> usize {
    bytes.max(MIN_LOG_WEIGHT)
}

/// What the report gives back to the budget of logs.
pub(super) fn log_weight(event: &RunEvent) -> usize {
    match event {
        RunEvent::Log { bytes, .. } => weight_of(bytes.len()),
        _ => 0,
    }
}

fn size_of_event(event: &RunEvent) -> usize {
    let content = match event {
        RunEvent::Log { bytes, .. } | RunEvent::Ended(Outcome::Succeeded { output: bytes }) => bytes.len(),
        RunEvent::Ended(Outcome::Retry { failure, .. } | Outcome::Bury { failure }) => failure.message.len(),
        RunEvent::Progress(progress) => progress.note.len(),
        _ => 0,
    };
    content + 64
}
