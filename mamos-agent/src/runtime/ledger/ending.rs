//! How runs come to an end: of their own, asked to, or by force; and how they are forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use mamos_core::job::Outcome;
use mamos_core::lease::RunRef;
use mamos_core::protocol::{RunEvent, RunReport};
use tokio::time::Instant;

use super::{Effect, Fate, Ledger, Stage};
use crate::journal::Record;
use crate::runtime::outbox::{Outbox, log_weight};

impl Ledger {
    /// Gives everything back: what has not been started at once, what runs after it was cancelled.
    pub(in crate::runtime) fn give_back(&mut self, grace: Duration, effects: &mut Vec<Effect>) {
        self.release_queued(|_| true);
        for (run, state) in &mut self.runs {
            match state.stage {
                Stage::Starting(_) | Stage::Running if state.fate == Fate::Report => {
                    state.fate = Fate::Release;
                    if state.stage == Stage::Running {
                        effects.push(Effect::Cancel(*run, grace));
                    }
                }
                _ => {}
            }
        }
    }

    /// The attempt is gone. `None` if it was ended from outside.
    pub(in crate::runtime) fn finished(
        &mut self,
        run: RunRef,
        outcome: Option<Outcome>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.runs.get(&run) else { return };
        if state.stage != Stage::Running {
            return;
        }
        self.busy -= 1;
        match (state.fate, outcome) {
            (Fate::Forget, _) => self.remove(run, effects),
            (Fate::Report, Some(outcome)) => self.end(run, outcome, effects),
            (
                Fate::Release,
                Some(outcome @ (Outcome::Succeeded { .. } | Outcome::Bury { .. } | Outcome::Snooze { .. })),
            ) => self.end(run, outcome, effects),
            _ => self.conclude(run, RunEvent::Released),
        }
        self.fill(now, effects);
    }

    pub(super) fn cancel(&mut self, run: RunRef, grace: Duration, effects: &mut Vec<Effect>) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        match state.stage {
            Stage::Queued => {
                self.unqueue(|queued| *queued == run);
                self.conclude(run, RunEvent::Ended(Outcome::Cancelled));
            }
            Stage::Starting(_) => state.cancel = Some(grace),
            Stage::Running => effects.push(Effect::Cancel(run, grace)),
            Stage::Ending(_) | Stage::Done => {}
        }
    }

    pub(super) fn kill(&mut self, runs: BTreeSet<RunRef>, effects: &mut Vec<Effect>) {
        if runs.is_empty() {
            return;
        }
        self.unqueue(|queued| runs.contains(queued));
        let freed = self.outbox.forget(&runs);
        if freed > 0 {
            effects.push(Effect::FreeLog(freed));
        }
        for run in runs {
            let Some(state) = self.runs.get_mut(&run) else { continue };
            state.fate = Fate::Forget;
            match state.stage {
                Stage::Running => effects.push(Effect::Abort(run)),
                Stage::Starting(_) => {}
                Stage::Queued | Stage::Ending(_) | Stage::Done => self.remove(run, effects),
            }
        }
    }

    /// Another agent of the same identity took over: everything here is void.
    pub(super) fn abandon(&mut self, effects: &mut Vec<Effect>) {
        self.is_draining = true;
        self.queue.clear();
        self.queued_bytes = 0;
        self.outbox = Outbox::default();
        for (run, state) in &mut self.runs {
            state.fate = Fate::Forget;
            if state.stage == Stage::Running {
                effects.push(Effect::Abort(*run));
            }
        }
        self.runs.retain(|_, state| matches!(state.stage, Stage::Running | Stage::Starting(_)));
    }

    /// It came to an end of its own: first to the journal, then to the orchestrator.
    fn end(&mut self, run: RunRef, outcome: Outcome, effects: &mut Vec<Effect>) {
        if !self.rules.has_journal {
            return self.conclude(run, RunEvent::Ended(outcome));
        }
        if let Some(state) = self.runs.get_mut(&run) {
            state.stage = Stage::Ending(outcome.clone());
            effects.push(Effect::Write { record: Record::Ended { run, outcome }, durably: false });
        }
    }

    /// Says the last thing about a run.
    pub(super) fn conclude(&mut self, run: RunRef, event: RunEvent) {
        self.send_progress(run);
        if let Some(state) = self.runs.get_mut(&run) {
            state.stage = Stage::Done;
            self.outbox.push(run, event);
        }
    }

    pub(super) fn recorded(&mut self, report: RunReport, effects: &mut Vec<Effect>) {
        match report.event {
            RunEvent::Ended(_) | RunEvent::Released => self.remove(report.run, effects),
            RunEvent::Log { .. } => effects.push(Effect::FreeLog(log_weight(&report.event))),
            RunEvent::Started | RunEvent::Progress(_) => {}
        }
    }

    pub(super) fn remove(&mut self, run: RunRef, effects: &mut Vec<Effect>) {
        if self.runs.remove(&run).is_some() && self.rules.has_journal {
            effects.push(Effect::Write { record: Record::Forgotten { run }, durably: false });
        }
    }
}
