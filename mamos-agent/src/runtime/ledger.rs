//! Which runs the agent has, and what each message does to them: plain functions over plain state.
//!
//! A run is queued, starting (its begin is being made durable), running, ending (its result is being
//! written to the journal), or done: only its last report is missing at the orchestrator. It is
//! forgotten when that is on record. The loop around the ledger carries out the [`Effect`]s.

mod ending;
mod queue;
mod speaking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mamos_core::job::{Outcome, Progress};
use mamos_core::lease::{RunRef, Verdict};
use mamos_core::protocol::{Dispatched, RunEvent, RunReport, ToAgent};
use mamos_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::outbox::Outbox;
use crate::journal::Record;

/// How long a command is put off that could not be made durable. Long enough for someone to make room.
const PUT_OFF: Duration = Duration::from_secs(30);

/// What the ledger must know beforehand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) has_journal: bool,
    /// The grace of a cancellation that names none.
    pub(super) cancel_grace: Duration,
    /// A typed job that ends sooner is reported in one message instead of two.
    pub(super) announce_after: Duration,
    pub(super) max_queued: usize,
    pub(super) max_queued_bytes: usize,
}

/// What the loop must do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Run the attempt; say [`Ledger::finished`] when it is gone.
    Start(Box<Dispatched>),
    /// Ask a running attempt to stop.
    Cancel(RunRef, Duration),
    /// End a running attempt at once.
    Abort(RunRef),
    /// Append to the journal, then say [`Ledger::written`].
    Write { record: Record, durably: bool },
    /// Give that much back to the budget of logs.
    FreeLog(usize),
}

/// What a message means for the link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    GoOn,
    Superseded,
}

#[derive(Debug)]
pub(super) struct Ledger {
    rules: Rules,
    slots: usize,
    is_draining: bool,
    runs: BTreeMap<RunRef, Run>,
    queue: VecDeque<Dispatched>,
    queued_bytes: usize,
    /// Attempts that hold a slot: starting, running, or told to stop but not gone.
    busy: usize,
    /// In order of time, because the wait is the same for all. Runs may have ended since.
    announcements: VecDeque<(Instant, RunRef)>,
    /// Announced runs whose progress was not sent.
    progressed: Vec<RunRef>,
    outbox: Outbox,
}

#[derive(Debug)]
struct Run {
    stage: Stage,
    fate: Fate,
    is_announced: bool,
    /// Arrived while it was starting.
    cancel: Option<Duration>,
    /// The newest that was not sent.
    progress: Option<Progress>,
}

#[derive(Debug, PartialEq)]
enum Stage {
    Queued,
    Starting(Box<Dispatched>),
    Running,
    Ending(Outcome),
    Done,
}

/// What to report when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// How it ended.
    Report,
    /// That it is given back, unless it came to an end of its own.
    Release,
    /// Nothing.
    Forget,
}

/// How many runs are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) running: usize,
    pub(super) queued: usize,
    pub(super) unsent: usize,
}

impl Ledger {
    pub(super) fn new(rules: Rules, slots: u32) -> Self {
        Self {
            rules,
            slots: slots as usize,
            is_draining: false,
            runs: BTreeMap::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            busy: 0,
            announcements: VecDeque::new(),
            progressed: Vec::new(),
            outbox: Outbox::default(),
        }
    }

    /// Takes over a result that an earlier process left in the journal.
    pub(super) fn restore(&mut self, run: RunRef, outcome: Outcome) {
        self.runs.insert(run, Run { stage: Stage::Done, is_announced: true, ..Run::queued() });
        self.outbox.push(run, RunEvent::Ended(outcome));
    }

    /// Changes how many attempts run at once. What runs above that goes on.
    pub(super) fn set_slots(&mut self, slots: u32, now: Instant, effects: &mut Vec<Effect>) {
        self.slots = slots as usize;
        self.fill(now, effects);
    }

    /// Every run that the agent still has, in order.
    pub(super) fn runs(&self) -> Vec<RunRef> {
        let had = self.runs.iter().filter(|(_, run)| run.fate != Fate::Forget);
        let mut runs: Vec<RunRef> = had.map(|(run, _)| *run).collect();
        runs.sort();
        runs
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { running: self.busy, queued: self.queue.len(), unsent: self.outbox.len() }
    }

    /// Is nothing left to run or to report?
    pub(super) fn is_idle(&self) -> bool {
        self.busy == 0 && self.queue.is_empty() && self.outbox.is_empty() && self.runs.is_empty()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy > 0
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.outbox.is_unanswered()
    }

    /// A new link: reports are numbered anew.
    pub(super) fn linked(&mut self) {
        self.outbox.restart();
    }

    /// The next reports to send, and the number of the first.
    pub(super) fn take_batch(&mut self) -> Option<(u64, Vec<RunReport>)> {
        for run in std::mem::take(&mut self.progressed) {
            self.send_progress(run);
        }
        self.outbox.take_batch()
    }

    /// The last batch does not fit a frame, and was not sent: the next ones are smaller.
    pub(super) fn batch_was_too_large(&mut self, effects: &mut Vec<Effect>) {
        let freed = self.outbox.batch_was_too_large();
        if freed > 0 {
            effects.push(Effect::FreeLog(freed));
        }
    }

    /// Handles what the orchestrator said.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](mamos_core::ErrorKind::Corrupt) if it contradicts the protocol.
    pub(super) fn receive(
        &mut self,
        message: ToAgent,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<Turn> {
        match message {
            ToAgent::Dispatch(batch) => {
                for dispatched in batch {
                    self.dispatched(dispatched);
                }
                self.fill(now, effects);
            }
            ToAgent::Recorded { through, exceptions } => {
                for report in self.outbox.recorded(through)? {
                    self.recorded(report, effects);
                }
                let lost = exceptions.iter().filter(|(_, verdict)| verdict.is_lost());
                self.kill(lost.map(|(run, _)| *run).collect(), effects);
                for (run, verdict) in exceptions {
                    if verdict == Verdict::CancelRequested {
                        self.cancel(run, self.rules.cancel_grace, effects);
                    }
                }
            }
            ToAgent::Cancel { run, grace } => self.cancel(run, grace, effects),
            ToAgent::Kill { runs } => self.kill(runs.into_iter().collect(), effects),
            ToAgent::Retract { runs } => {
                let runs: BTreeSet<RunRef> = runs.into_iter().collect();
                self.release_queued(|run| runs.contains(run));
            }
            ToAgent::Drain => self.drain(),
            ToAgent::Superseded => {
                self.abandon(effects);
                return Ok(Turn::Superseded);
            }
            ToAgent::Challenge { .. } => {
                let message =
                    "the orchestrator sent a challenge on a link on which it had welcomed the agent";
                return Err(Error::new(ErrorKind::Corrupt, "link.receive", message));
            }
            // Answers to `Hello`, of which later ones are repeats; and what concerns no run.
            ToAgent::Welcome(_) | ToAgent::Refused { .. } | ToAgent::Token { .. } => {}
        }
        Ok(Turn::GoOn)
    }

    /// Takes no new work, and gives back what has not been started.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.release_queued(|_| true);
    }

    /// What was asked for by [`Effect::Write`] about a run was done, or could not be.
    pub(super) fn written(&mut self, run: RunRef, is_written: bool, now: Instant, effects: &mut Vec<Effect>) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        match std::mem::replace(&mut state.stage, Stage::Done) {
            Stage::Starting(dispatched) => {
                if is_written && state.fate == Fate::Report && state.cancel.is_none() {
                    state.stage = Stage::Running;
                    self.announce(run);
                    effects.push(Effect::Start(dispatched));
                    return;
                }
                let (fate, is_cancelled) = (state.fate, state.cancel.is_some());
                self.busy -= 1;
                match fate {
                    Fate::Forget => self.remove(run, effects),
                    Fate::Report if is_cancelled => self.conclude(run, RunEvent::Ended(Outcome::Cancelled)),
                    // Giving it back would bring it here again at once.
                    Fate::Report => self.conclude(run, RunEvent::Ended(Outcome::Snooze { delay: PUT_OFF })),
                    Fate::Release => self.conclude(run, RunEvent::Released),
                }
                self.fill(now, effects);
            }
            // A result that could not be written down is still worth sending.
            Stage::Ending(outcome) => self.conclude(run, RunEvent::Ended(outcome)),
            stage => state.stage = stage,
        }
    }
}

impl Run {
    fn queued() -> Self {
        Self { stage: Stage::Queued, fate: Fate::Report, is_announced: false, cancel: None, progress: None }
    }
}

#[cfg(test)]
mod tests;
