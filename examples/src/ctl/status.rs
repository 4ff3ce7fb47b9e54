//! `mamosctl status`: everything at a glance.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::table::{Column, table};
use super::trouble::Trouble;

/// More agents than anyone reads.
const MAX_AGENTS: usize = 20;
const AGENTS: [Column; 6] = [
    ("agent", "id"),
    ("name", "name"),
    ("state", "state"),
    ("liveness", "liveness"),
    ("held", "held"),
    ("slots", "slots"),
];
/// Clears the screen from the top, without a flicker.
const HOME: &str = "\x1b[H\x1b[J";

#[derive(Debug, Args)]
pub(super) struct StatusOrder {
    /// Show it once, also on a terminal
    #[arg(long)]
    once: bool,
    /// How often to look
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    every: Duration,
}

/// What is there at one moment.
#[derive(Debug, Clone)]
pub(super) struct Glance {
    agents: Vec<Value>,
    queues: Vec<Value>,
}

pub(super) async fn run(order: StatusOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let mut glance = look(client).await?;
    if output.is_json() {
        output.line(json!({"agents": glance.agents, "queues": glance.queues, "jobs": glance.jobs()}))?;
        return Ok(Ending::Fine);
    }
    if order.once || !io::stdout().is_terminal() {
        output.line(glance.draw(None, output.is_coloured()))?;
        return Ok(Ending::Fine);
    }
    let mut since = None;
    loop {
        output.raw(format!("{HOME}{}\n", glance.draw(since, output.is_coloured())).as_bytes())?;
        let looked_at = Instant::now();
        tokio::time::sleep(order.every.max(Duration::from_millis(200))).await;
        let next = look(client).await?;
        since = Some(glance.rate_until(&next, looked_at.elapsed()));
        glance = next;
    }
}

async fn look(client: &Client) -> Result<Glance, Trouble> {
    let agents = client.list(&["agents"], &[], 1000, "list the agents").await?;
    let queues = client.list(&["queues"], &[], 1000, "list the queues").await?;
    Ok(Glance { agents, queues })
}

impl Glance {
    /// How many jobs are in each state, over all queues.
    fn jobs(&self) -> BTreeMap<&str, u64> {
        let mut jobs = BTreeMap::new();
        for (state, count) in self.queues.iter().filter_map(|queue| queue["counts"].as_object()).flatten() {
            *jobs.entry(state.as_str()).or_default() += count.as_u64().unwrap_or_default();
        }
        jobs
    }

    fn succeeded(&self) -> u64 {
        self.jobs().get("succeeded").copied().unwrap_or_default()
    }

    /// How many jobs succeeded a second between this look and the next.
    fn rate_until(&self, next: &Self, time: Duration) -> f64 {
        next.succeeded().saturating_sub(self.succeeded()) as f64 / time.as_secs_f64().max(0.001)
    }

    /// The whole picture. `rate` is how many jobs succeed a second, if that is known.
    fn draw(&self, rate: Option<f64>, is_coloured: bool) -> String {
        let connected = self.agents.iter().filter(|agent| agent["connected"] == true).count();
        let sum = |field: &str| self.agents.iter().filter_map(|agent| agent[field].as_u64()).sum::<u64>();
        let mut text = format!(
            "agents: {} known, {connected} connected, {} of {} slots held\n",
            self.agents.len(),
            sum("held"),
            sum("slots"),
        );
        let jobs = self.jobs().into_iter().filter(|(_, count)| *count > 0);
        let jobs: Vec<_> = jobs.map(|(state, count)| format!("{count} {state}")).collect();
        let jobs = if jobs.is_empty() { "none".to_owned() } else { jobs.join(", ") };
        text.push_str(&format!("jobs: {jobs}"));
        if let Some(rate) = rate {
            text.push_str(&format!("; {rate:.1} succeed a second"));
        }
        if !self.queues.is_empty() {
            text.push_str(&format!("\n\n{}", table(&super::queues::COLUMNS, &self.queues, is_coloured)));
        }
        if !self.agents.is_empty() {
            let shown = &self.agents[..self.agents.len().min(MAX_AGENTS)];
            text.push_str(&format!("\n\n{}", table(&AGENTS, shown, is_coloured)));
        }
        if self.agents.len() > MAX_AGENTS {
            text.push_str(&format!("\n… and {} more agents", self.agents.len() - MAX_AGENTS));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance(succeeded: u64) -> Glance {
        let agents = vec![
            json!({"id": "web-1", "name": "one", "state": "active", "liveness": "live", "connected": true, "held": 2, "slots": 4}),
            json!({"id": "web-2", "name": "two", "state": "active", "liveness": "lost", "connected": false, "held": 0, "slots": 4}),
        ];
        let queues = vec![
            json!({"queue": "a", "paused": false, "counts": {"dead": 0, "ready": 3, "succeeded": succeeded}, "oldest_ready_at": null}),
            json!({"queue": "b", "paused": true, "counts": {"ready": 1}, "oldest_ready_at": null}),
        ];
        Glance { agents, queues }
    }

    #[test]
    fn the_sums_are_over_all_agents_and_queues() {
        let drawn = glance(7).draw(None, false);
        assert!(
            drawn
                .starts_with("agents: 2 known, 1 connected, 2 of 8 slots held\njobs: 4 ready, 7 succeeded\n"),
            "{drawn}"
        );
        assert!(drawn.contains("web-2") && drawn.contains("lost"), "{drawn}");
    }

    #[test]
    fn the_rate_is_what_succeeded_between_two_looks() {
        let rate = glance(7).rate_until(&glance(17), Duration::from_secs(2));
        assert!((rate - 5.0).abs() < f64::EPSILON);
        assert!(glance(17).draw(Some(rate), false).contains("; 5.0 succeed a second"));
    }

    #[test]
    fn an_empty_orchestrator_is_shown_as_such() {
        let nothing = Glance { agents: Vec::new(), queues: Vec::new() };
        assert_eq!(nothing.draw(None, false), "agents: 0 known, 0 connected, 0 of 0 slots held\njobs: none");
    }
}
