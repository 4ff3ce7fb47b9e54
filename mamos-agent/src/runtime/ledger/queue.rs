//! Runs that wait for a slot: queued, started in their turn, or taken out again.

use mamos_core::lease::RunRef;
use mamos_core::protocol::{Dispatched, RunEvent};
use tokio::time::Instant;

use super::{Effect, Ledger, Run, Stage};
use crate::journal::Record;

impl Ledger {
    pub(super) fn dispatched(&mut self, dispatched: Dispatched) {
        let run = dispatched.run;
        if self.runs.contains_key(&run) {
            return;
        }
        self.runs.insert(run, Run::queued());
        let bytes = self.queued_bytes + dispatched.payload.len();
        let is_full = self.queue.len() >= self.rules.max_queued || bytes > self.rules.max_queued_bytes;
        // With nothing queued there is always room for one.
        if self.is_draining || (is_full && !self.queue.is_empty()) {
            self.conclude(run, RunEvent::Released);
            return;
        }
        self.queued_bytes = bytes;
        self.queue.push_back(dispatched);
    }

    /// Starts what is queued, as far as there are slots.
    pub(super) fn fill(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.busy < self.slots {
            let Some(dispatched) = self.queue.pop_front() else { return };
            self.queued_bytes -= dispatched.payload.len();
            let run = dispatched.run;
            let Some(state) = self.runs.get_mut(&run) else { continue };
            self.busy += 1;
            let is_command = dispatched.kind.command().is_some();
            let record = || Record::Started { run, kind: dispatched.kind.clone() };
            if self.rules.has_journal {
                effects.push(Effect::Write { record: record(), durably: is_command });
            }
            if is_command && self.rules.has_journal {
                state.stage = Stage::Starting(Box::new(dispatched));
                continue;
            }
            state.stage = Stage::Running;
            if is_command {
                self.announce(run);
            } else {
                self.announcements.push_back((now + self.rules.announce_after, run));
            }
            effects.push(Effect::Start(Box::new(dispatched)));
        }
    }

    pub(super) fn release_queued(&mut self, chosen: impl Fn(&RunRef) -> bool) {
        for run in self.unqueue(chosen) {
            self.conclude(run, RunEvent::Released);
        }
    }

    pub(super) fn unqueue(&mut self, chosen: impl Fn(&RunRef) -> bool) -> Vec<RunRef> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        self.queue.retain(|queued| {
            let is_chosen = chosen(&queued.run);
            if is_chosen {
                taken.push(queued.run);
                bytes += queued.payload.len();
            }
            !is_chosen
        });
        self.queued_bytes -= bytes;
        taken
    }
}
