//! What the simulated clients ask for, and the handlers that do it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mamos_agent::{HandlerRegistry, JobContext, JobError};
use mamos_core::agent::AgentProfile;
use mamos_core::id::JobId;
use mamos_core::job::labels::Labels;
use mamos_core::lease::RunRef;
use mamos_core::{Job, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::history::{Entry, History};

/// What a handler does with an attempt.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Script {
    /// How long it takes.
    pub(crate) takes_ms: u64,
    /// How many attempts fail.
    pub(crate) failures: u32,
    /// How many attempts panic, after those that fail.
    pub(crate) panics: u32,
    /// How often it puts itself off.
    pub(crate) snoozes: u32,
    /// How many of its runs kill their agent.
    pub(crate) kills: u32,
    /// How many pieces it prints, spread over its time.
    pub(crate) prints: u32,
    /// Does it go on when it is asked to stop?
    pub(crate) is_stubborn: bool,
    /// Does it give up for good at the end?
    pub(crate) gives_up: bool,
}

macro_rules! kinds {
    ($($name:ident = $kind:literal),+ $(,)?) => {
        $(
            /// A kind of job.
            #[derive(Debug, Serialize, Deserialize)]
            pub(crate) struct $name(pub(crate) Script);

            impl Job for $name {
                const KIND: &'static str = $kind;
                type Output = JobId;
            }
        )+
    };
}

kinds!(Common = "sim.common", Rare = "sim.rare", Bulky = "sim.bulky");

/// What the handlers of all agents share: it outlives every one of them.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) history: History,
    counts: Arc<Mutex<BTreeMap<JobId, Counts>>>,
    /// Which life of which agent a job has just killed.
    kills: mpsc::UnboundedSender<String>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    snoozes: u32,
    kills: u32,
}

impl Stage {
    pub(crate) fn new(history: History) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (kills, killed) = mpsc::unbounded_channel();
        (Self { history, counts: Arc::default(), kills }, killed)
    }

    /// The handlers of one life of an agent.
    pub(crate) fn handlers(&self, profile: &AgentProfile, life: &str) -> Result<HandlerRegistry> {
        let registry = HandlerRegistry::new(profile.kind.clone(), profile.name.clone())
            .slots(profile.slots)
            .labels(Labels::new(profile.labels.iter())?);
        let mut registry = registry;
        for kind in &profile.kinds {
            let (stage, life) = (self.clone(), life.to_owned());
            registry = match kind.as_str() {
                Common::KIND => registry.register::<Common, _>(move |job: Common, context| {
                    stage.clone().perform(life.clone(), job.0, context)
                })?,
                Rare::KIND => registry.register::<Rare, _>(move |job: Rare, context| {
                    stage.clone().perform(life.clone(), job.0, context)
                })?,
                _ => registry.register::<Bulky, _>(move |job: Bulky, context| {
                    stage.clone().perform(life.clone(), job.0, context)
                })?,
            };
        }
        Ok(registry)
    }

    async fn perform(
        self,
        life: String,
        script: Script,
        context: JobContext,
    ) -> std::result::Result<JobId, JobError> {
        let run = context.run_ref();
        let _running = Running::begin(&self.history, &life, run);
        let mut counts = {
            let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = all.entry(run.job).or_default();
            let seen = *counts;
            counts.kills += 1;
            seen
        };
        if counts.kills < script.kills {
            // Long enough for the start to be reported, mostly.
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Nobody listens any more once the agents are only to finish.
            let _ = self.kills.send(life.clone());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let pieces = script.prints.max(1);
        for piece in 0..pieces {
            let pause = tokio::time::sleep(Duration::from_millis(script.takes_ms / u64::from(pieces)));
            if script.is_stubborn {
                pause.await;
            } else {
                tokio::select! {
                    biased;
                    () = pause => {}
                    _ = context.cancelled() => return Err(JobError::cancelled()),
                }
            }
            if script.prints > 0 {
                context.log(printed(run, piece)).await;
                context.progress(piece as f32 * 100.0 / pieces as f32, "prints");
            }
        }
        counts = {
            let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = all.entry(run.job).or_default();
            let seen = *entry;
            entry.snoozes += 1;
            seen
        };
        if counts.snoozes < script.snoozes {
            return Err(JobError::snooze(Duration::from_millis(700)));
        }
        let attempt = context.attempt();
        if attempt <= script.failures {
            return Err(JobError::retry(format!("attempt {attempt} of this job is to fail")));
        }
        if attempt <= script.failures + script.panics {
            // Unlike `panic!`, prints nothing.
            std::panic::resume_unwind(Box::new("this attempt is to panic"));
        }
        if script.gives_up {
            return Err(JobError::permanent("this job is to give up"));
        }
        Ok(run.job)
    }
}

/// What a run prints: long and short pieces, different for each run.
pub(crate) fn printed(run: RunRef, piece: u32) -> String {
    let line = format!("{run} prints piece {piece}\n");
    line.repeat(1 + (piece as usize % 5) * 40)
}

/// Writes down that a handler began, and when it ends or is dropped.
struct Running {
    history: History,
    agent: String,
    run: RunRef,
}

impl Running {
    fn begin(history: &History, agent: &str, run: RunRef) -> Self {
        history.add(Entry::HandlerStarted { agent: agent.to_owned(), run });
        Self { history: history.clone(), agent: agent.to_owned(), run }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.history.add(Entry::HandlerEnded { agent: self.agent.clone(), run: self.run });
    }
}
