//! What happened, as seen from outside the engine: by clients, by handlers, and by a recorder that sits
//! right at the store, below all injected faults.

use std::sync::{Arc, Mutex, PoisonError};

use mamos_core::JobId;
use mamos_core::JobState;
use mamos_core::lease::RunRef;
use serde::{Deserialize, Serialize};

/// One observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A client was told that its job is stored.
    Accepted {
        /// The job.
        job: JobId,
    },
    /// The store leased a job.
    Claimed {
        /// The run.
        run: RunRef,
    },
    /// The store applied what an agent reported about a run.
    Applied {
        /// The run.
        run: RunRef,
        /// Did the report end the run: settled or given back?
        ends: bool,
        /// The state of the job afterwards.
        state: JobState,
    },
    /// The store took a run back: its session was lost, its agent did not know it, or it was overdue.
    TakenBack {
        /// The run.
        run: RunRef,
        /// The state of the job afterwards.
        state: JobState,
    },
    /// A client was told that its job is cancelled.
    Cancelled {
        /// The job.
        job: JobId,
    },
    /// A dead job was made ready again.
    Redriven {
        /// The job.
        job: JobId,
    },
    /// An agent says how many attempts it runs at once.
    Slots {
        /// The agent's life; a restarted agent is another.
        agent: String,
        /// How many.
        slots: u32,
    },
    /// A handler began to run an attempt.
    HandlerStarted {
        /// The agent's life.
        agent: String,
        /// The run.
        run: RunRef,
    },
    /// A handler returned, or was dropped.
    HandlerEnded {
        /// The agent's life.
        agent: String,
        /// The run.
        run: RunRef,
    },
    /// An agent died with all that it ran.
    AgentDied {
        /// The agent's life.
        agent: String,
    },
    /// The program of an agent ended although nobody asked it to.
    AgentGaveUp {
        /// The agent's life.
        agent: String,
        /// Why.
        why: String,
    },
    /// At the end: what the store has of what a run printed.
    Printed {
        /// The run.
        run: RunRef,
        /// Is it what the run printed, from the beginning, without a gap?
        is_true: bool,
    },
    /// At the end: what the store says of a job.
    Final {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
}

/// A history that many observers add to.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Vec<Entry>>>);

impl History {
    /// Adds an observation.
    pub fn add(&self, entry: Entry) {
        tracing::info!(target: "history", "{entry:?}");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// All observations so far, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
