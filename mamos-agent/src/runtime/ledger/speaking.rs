//! What running attempts have said: that they run, how far they are, what they print.

use bytes::Bytes;
use mamos_core::agent::LogStream;
use mamos_core::job::Progress;
use mamos_core::lease::RunRef;
use mamos_core::protocol::RunEvent;
use tokio::time::Instant;

use super::{Effect, Fate, Ledger, Run, Stage};
use crate::runtime::outbox::weight_of;

impl Ledger {
    /// The attempt says how far it is.
    pub(in crate::runtime) fn progress(&mut self, run: RunRef, progress: Progress) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        if state.stage == Stage::Running && state.fate != Fate::Forget {
            // Goes out with the next batch, so that only the newest is ever kept. Before the announcement
            // it waits for that, so that quick jobs stay one message.
            if state.progress.replace(progress).is_none() && state.is_announced {
                self.progressed.push(run);
            }
        }
    }

    /// The attempt printed something. What takes room in the budget of logs gives it back later.
    pub(in crate::runtime) fn log(
        &mut self,
        run: RunRef,
        stream: LogStream,
        offset: u64,
        bytes: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let speaks = |state: &Run| state.stage == Stage::Running && state.fate != Fate::Forget;
        if self.runs.get(&run).is_some_and(speaks) {
            self.announce(run);
            self.outbox.push(run, RunEvent::Log { offset, stream, bytes });
        } else {
            effects.push(Effect::FreeLog(weight_of(bytes.len())));
        }
    }

    /// When [`Ledger::tick`] has something to do.
    pub(in crate::runtime) fn next_tick(&mut self) -> Option<Instant> {
        while let Some((at, run)) = self.announcements.front() {
            if self.runs.get(run).is_some_and(|run| run.stage == Stage::Running && !run.is_announced) {
                return Some(*at);
            }
            self.announcements.pop_front();
        }
        None
    }

    /// Announces the runs that have gone on for a while.
    pub(in crate::runtime) fn tick(&mut self, now: Instant) {
        while self.next_tick().is_some_and(|at| at <= now) {
            if let Some((_, run)) = self.announcements.pop_front() {
                self.announce(run);
            }
        }
    }

    pub(super) fn announce(&mut self, run: RunRef) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        if !state.is_announced {
            state.is_announced = true;
            self.outbox.push(run, RunEvent::Started);
            self.send_progress(run);
        }
    }

    pub(super) fn send_progress(&mut self, run: RunRef) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        // One that was never announced has ended by now: its end says more than its progress.
        if state.is_announced
            && let Some(progress) = state.progress.take()
        {
            self.outbox.push(run, RunEvent::Progress(progress));
        }
    }
}
