//! Writes to the journal on a blocking thread: everything that waits, in one write and at most one
//! fsync, then the next.

use mamos_core::Result;
use mamos_core::lease::RunRef;
use tokio::task::JoinHandle;

use crate::journal::{Journal, Record};

/// Runs that may be forgotten in the journal are written with the next thing that matters, or when
/// there are this many.
const MAX_LAZY: usize = 256;

#[derive(Debug)]
pub(super) struct Writer {
    journal: Option<Journal>,
    pending: Vec<Record>,
    durably: bool,
    is_urgent: bool,
    writing: Option<JoinHandle<(Journal, Result<()>)>>,
    awaited: Vec<RunRef>,
}

impl Writer {
    pub(super) fn new(journal: Option<Journal>) -> Self {
        let (pending, awaited) = (Vec::new(), Vec::new());
        Self { journal, pending, durably: false, is_urgent: false, writing: None, awaited }
    }

    pub(super) fn push(&mut self, record: Record, durably: bool) {
        self.durably |= durably;
        self.is_urgent |= !matches!(record, Record::Forgotten { .. });
        self.pending.push(record);
    }

    /// Is everything written?
    pub(super) fn is_idle(&self) -> bool {
        self.writing.is_none() && self.pending.is_empty()
    }

    /// Writes what waits, unless it can wait longer. Gives the runs whose records are lost because there
    /// is no journal any more.
    pub(super) fn begin(&mut self, is_last: bool) -> Vec<RunRef> {
        let can_wait = !self.is_urgent && !is_last && self.pending.len() < MAX_LAZY;
        if self.writing.is_some() || self.pending.is_empty() || can_wait {
            return Vec::new();
        }
        let records = std::mem::take(&mut self.pending);
        let durably = std::mem::take(&mut self.durably);
        self.is_urgent = false;
        let awaited = records.iter().filter(|record| is_awaited(record)).filter_map(Record::run).collect();
        let Some(mut journal) = self.journal.take() else { return awaited };
        self.awaited = awaited;
        let is_inline = journal.is_inline();
        let write = move || {
            let result = journal.append(records, durably);
            (journal, result)
        };
        let writing =
            if is_inline { tokio::spawn(async move { write() }) } else { tokio::task::spawn_blocking(write) };
        self.writing = Some(writing);
        Vec::new()
    }

    /// Waits for the write that is under way, if any: gives the runs that wait for it, and whether it
    /// succeeded. Safe to drop and call again.
    pub(super) async fn written(&mut self) -> (Vec<RunRef>, bool) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let ended = writing.await;
        self.writing = None;
        let is_written = match ended {
            Ok((journal, result)) => {
                self.journal = Some(journal);
                if let Err(error) = &result {
                    tracing::error!(%error, "commands are put off until the journal can be written again");
                }
                result.is_ok()
            }
            Err(error) => {
                tracing::error!(%error, "the journal is lost; commands will not run until a restart");
                false
            }
        };
        (std::mem::take(&mut self.awaited), is_written)
    }
}

/// Does the run wait for the record? The begin of a typed job does not: it may have ended by now.
fn is_awaited(record: &Record) -> bool {
    match record {
        Record::Ended { .. } => true,
        Record::Started { kind, .. } => kind.command().is_some(),
        Record::Session(_) | Record::Forgotten { .. } => false,
    }
}
