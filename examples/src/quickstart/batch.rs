//! Thousands of typed jobs, and an agent that is killed in the midst of them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use mamos_core::event::What;
use mamos_core::job::labels::Labels;
use mamos_core::orchestrator::{EventStream, LiveAgent, Seen};
use mamos_core::store::{EnqueueResult, JobFilter, PageRequest};
use mamos_core::{AgentId, JobId, JobState, Orchestrator, Timestamp};

use super::agents::AgentProcess;
use super::numbers::Square;

/// How many jobs are stored at once.
const CHUNK: u32 = 1000;
/// After this long without news, the store is asked what is left.
const QUIET: Duration = Duration::from_secs(1);
/// After this long without any job ending, one of an earlier run included, what is left is given up for
/// lost.
const STALLED: Duration = Duration::from_secs(20);
const OPEN: [JobState; 5] =
    [JobState::Blocked, JobState::Scheduled, JobState::Ready, JobState::Leased, JobState::Running];

/// Jobs that were accepted together, found again by a label.
pub(super) struct Batch {
    pub(super) labels: Labels,
    pub(super) accepted: Vec<JobId>,
    open: HashSet<JobId>,
    events: EventStream,
    moved_at: Instant,
}

/// What happened to the agent.
#[derive(Debug, Clone)]
pub(super) struct Killed {
    pub(super) agent: AgentId,
    /// When, by the clock of the records.
    pub(super) at: Timestamp,
    /// How many jobs were done by then.
    pub(super) done: usize,
}

impl Batch {
    /// Stores the jobs. What is accepted here will end, whatever happens to agents.
    pub(super) async fn enqueue(orchestrator: &Orchestrator, count: u32) -> Result<Self> {
        // Watched from before the first job on, so that no end is missed.
        let events = orchestrator.events();
        let labels = Labels::new([("batch", JobId::from_key(&format!("{:?}", now())).to_string())])?;
        let mut accepted = Vec::with_capacity(count as usize);
        for first in (0..count).step_by(CHUNK as usize) {
            let numbers = first..count.min(first.saturating_add(CHUNK));
            let jobs = numbers.map(|number| {
                let job = Square { number: number.into(), takes_ms: takes_ms(number) };
                orchestrator.enqueue(job).queue("numbers").labels(labels.clone()).build()
            });
            let answers = orchestrator.enqueue_all(jobs.collect::<mamos_core::Result<_>>()?).await?;
            let stored = answers.iter().filter(|answer| matches!(answer.result, EnqueueResult::Stored(_)));
            accepted.extend(stored.map(|answer| answer.id));
        }
        let open = accepted.iter().copied().collect();
        Ok(Self { labels, accepted, open, events, moved_at: Instant::now() })
    }

    /// Waits until all have ended or nothing moves any more. Kills the agent with SIGKILL on the way.
    pub(super) async fn run_with_a_kill(
        &mut self,
        orchestrator: &Orchestrator,
        victim: &AgentProcess,
    ) -> Result<Killed> {
        let bar = bar(self.accepted.len());
        let mut killed = None;
        while !self.open.is_empty() && self.moved_at.elapsed() < STALLED {
            self.news(orchestrator).await?;
            let done = self.accepted.len() - self.open.len();
            bar.set_position(done as u64);
            if killed.is_none()
                && let Some(live) = victim.live(orchestrator)
                && is_worth_a_kill(done, self.accepted.len(), &live)
            {
                victim.kill();
                bar.set_message(format!("agent {} killed", victim.name()));
                killed = Some(Killed { agent: live.agent, at: now(), done });
            }
        }
        bar.finish_and_clear();
        killed.context(
            "the agent held too few jobs at every moment from two fifths on, so that it was not killed",
        )
    }

    /// Takes in what has happened: from an event, or from the store when events were missed.
    async fn news(&mut self, orchestrator: &Orchestrator) -> Result<()> {
        match tokio::time::timeout(QUIET, self.events.next()).await {
            Ok(Some(Seen::Event(event))) => match &event.what {
                What::JobSettled { run, state, .. } | What::JobRescued { run, state } if state.is_final() => {
                    self.open.remove(&run.job);
                    self.moved_at = Instant::now();
                }
                _ => {}
            },
            Ok(Some(Seen::Missed(_))) => {
                self.open = self.find_open(orchestrator).await?;
                self.moved_at = Instant::now();
            }
            Err(_quiet) => self.open = self.find_open(orchestrator).await?,
            Ok(None) => anyhow::bail!("the orchestrator is gone"),
        }
        Ok(())
    }

    async fn find_open(&self, orchestrator: &Orchestrator) -> Result<HashSet<JobId>> {
        let filter = JobFilter { states: OPEN.to_vec(), labels: self.labels.clone(), ..JobFilter::default() };
        let mut open = HashSet::new();
        let mut page = PageRequest::first(1000);
        loop {
            let found = orchestrator.jobs(filter.clone(), page).await?;
            open.extend(found.items.iter().map(|job| job.spec.id));
            let Some(next) = found.next else { return Ok(open) };
            page = PageRequest { limit: 1000, after: Some(next) };
        }
    }
}

/// Two in five are done, and the agent holds many; or it gets late, and it holds some at least.
fn is_worth_a_kill(done: usize, all: usize, live: &LiveAgent) -> bool {
    let is_busy = live.held * 2 >= live.slots as usize;
    (done * 5 >= all * 2 && is_busy) || (done * 5 >= all * 4 && live.held > 0)
}

/// Most take some milliseconds, and one in twenty a quarter of a second, so that an agent that dies is
/// always in the midst of some.
fn takes_ms(number: u32) -> u64 {
    if number % 20 == 7 { 250 } else { 2 + u64::from(number % 23) }
}

fn bar(length: usize) -> ProgressBar {
    // On standard error, and nothing at all if that is no terminal.
    let bar = ProgressBar::new(length as u64);
    let style = ProgressStyle::with_template("  {bar:40} {pos}/{len} {rate:>8}  {msg}");
    if let Ok(style) = style {
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // What cannot be drawn is not worth a word.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar
}

fn now() -> Timestamp {
    use mamos_core::clock::{Clock, SystemClock};
    SystemClock.now()
}
