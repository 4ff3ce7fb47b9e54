//! What must be counted in the store: how many jobs and agents there are. Counted at most every 10 s,
//! however often somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::agent::state::AgentState;
use mamos_core::job::state::JobState;
use mamos_core::store::PageRequest;
use mamos_core::{Orchestrator, Result};
use tokio::time::Instant;

/// Figures are kept for so long.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// A store that takes longer is not waited for: the figures from before are given.
const WITHIN: Duration = Duration::from_secs(5);
/// Jobs of queues beyond these are counted together.
const MAX_QUEUES: usize = 1000;
const OTHER: &str = "_other";
/// How many pages of agents are read at most.
const MAX_PAGES: u32 = 100;
const PAGE: u32 = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// By queue and state.
    pub(super) jobs: Vec<(String, &'static str, u64)>,
    /// By queue.
    pub(super) oldest: Vec<(String, Duration)>,
    /// By state.
    pub(super) agents: Vec<(&'static str, u64)>,
}

/// The last count.
#[derive(Debug, Default)]
pub(super) struct Kept {
    last: tokio::sync::Mutex<(Option<Instant>, Arc<Gauges>)>,
}

impl Kept {
    /// The figures, counted anew if they are old. Those who ask meanwhile wait for the one count.
    pub(super) async fn read(&self, orchestrator: &Orchestrator) -> Arc<Gauges> {
        let mut last = self.last.lock().await;
        if last.0.is_some_and(|at| at.elapsed() < KEPT_FOR) {
            return Arc::clone(&last.1);
        }
        match tokio::time::timeout(WITHIN, count(orchestrator)).await {
            Ok(Ok(gauges)) => last.1 = Arc::new(gauges),
            Ok(Err(error)) => tracing::warn!(target: "mamos::metrics", %error, "jobs cannot be counted"),
            Err(_) => tracing::warn!(target: "mamos::metrics", "counting the jobs takes over 5 s"),
        }
        // After a failure too, so that a store in trouble is not asked more often.
        last.0 = Some(Instant::now());
        Arc::clone(&last.1)
    }
}

async fn count(orchestrator: &Orchestrator) -> Result<Gauges> {
    let mut gauges = Gauges::default();
    let mut beyond = [0; JobState::ALL.len()];
    let queues = orchestrator.queues().await?;
    let now = orchestrator.now();
    for (index, queue) in queues.iter().enumerate() {
        if index >= MAX_QUEUES {
            beyond.iter_mut().zip(queue.counts).for_each(|(sum, count)| *sum += count);
            continue;
        }
        let name = queue.queue.to_string();
        let counts = JobState::ALL.into_iter().zip(queue.counts);
        gauges.jobs.extend(counts.map(|(state, count)| (name.clone(), state.as_str(), count)));
        gauges.oldest.push((name, queue.oldest_ready.map_or(Duration::ZERO, |since| now.since(since))));
    }
    if queues.len() > MAX_QUEUES {
        let counts = JobState::ALL.into_iter().zip(beyond);
        gauges.jobs.extend(counts.map(|(state, count)| (OTHER.to_owned(), state.as_str(), count)));
    }
    let mut states: BTreeMap<AgentState, u64> = AgentState::ALL.into_iter().map(|state| (state, 0)).collect();
    let mut request = PageRequest::first(PAGE);
    for _ in 0..MAX_PAGES {
        let page = orchestrator.agents(request).await?;
        for agent in page.items {
            *states.entry(agent.state).or_default() += 1;
        }
        let Some(next) = page.next else { break };
        request = PageRequest { limit: PAGE, after: Some(next) };
    }
    gauges.agents = states.into_iter().map(|(state, count)| (state.as_str(), count)).collect();
    Ok(gauges)
}
