//! The attempts that run: how one is started, how its end is heard of, and that none outlives the loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use mamos_core::agent::{Attempt, Cancellation, Reporter};
use mamos_core::job::Outcome;
use mamos_core::lease::RunRef;
use mamos_core::protocol::Dispatched;
use tokio::task::AbortHandle;

use super::Driver;
use crate::attempt::{Limits, run_guarded};
use crate::runtime::mailbox::Mailbox;

/// Attempts that were spawned and are not gone. Dropping it aborts them.
#[derive(Default)]
pub(super) struct Attempts(pub(super) BTreeMap<RunRef, (AbortHandle, Cancellation)>);

impl Drop for Attempts {
    fn drop(&mut self) {
        for (abort, _) in self.0.values() {
            abort.abort();
        }
    }
}

impl Driver {
    pub(super) fn start(&mut self, dispatched: Dispatched) {
        let run = dispatched.run;
        let cancellation = Cancellation::new();
        let limits = Limits {
            until_deadline: dispatched.deadline_in,
            grace: self.setup.cancel_grace,
            max_output_bytes: self.setup.max_output_bytes,
        };
        let attempt = Attempt {
            run,
            kind: dispatched.kind,
            payload: dispatched.payload,
            counters: dispatched.counters,
            timeout: dispatched.timeout,
            deadline: dispatched.deadline_in.map(|left| self.setup.clock.now() + left),
            traceparent: dispatched.traceparent,
            cancellation: cancellation.clone(),
            reporter: Reporter::new(run, self.mailbox.clone()),
        };
        let agent = self.setup.agent.clone();
        // Made here, so that it speaks even if the attempt is aborted before it began.
        let farewell = Farewell { run, outcome: None, mailbox: self.mailbox.clone() };
        let spawned = tokio::spawn(async move {
            let outcome = run_guarded(&*agent, attempt, limits).await;
            farewell.with(outcome);
        });
        self.attempts.0.insert(run, (spawned.abort_handle(), cancellation));
    }
}

/// Reports that an attempt is gone, however that came about.
struct Farewell {
    run: RunRef,
    outcome: Option<Outcome>,
    mailbox: Arc<Mailbox>,
}

impl Farewell {
    /// Takes all of it, so that the closure that says it owns it from the start.
    fn with(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.mailbox.ended(self.run, self.outcome.take());
    }
}
