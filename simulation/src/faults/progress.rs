//! How work goes on, from what handlers wrote down.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::crash::Files;
use crate::history::Entry;

/// Longer than anything takes that comes back at all.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Reads on where it read last.
pub(super) struct Progress {
    observed: PathBuf,
    accepted: PathBuf,
    at: u64,
}

impl Progress {
    /// From now on.
    pub(super) fn begin(files: &Files) -> std::io::Result<Self> {
        let mut progress = Self { observed: files.observed(), accepted: files.accepted(), at: 0 };
        progress.catch_up()?;
        Ok(progress)
    }

    /// Waits until each of these agents has begun something that nobody had begun before, and a client was
    /// told that its job is stored. Gives how long that took.
    pub(super) async fn resumes(&mut self, agents: &BTreeSet<usize>) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let accepted = self.accepted_bytes();
        let mut waiting = agents.clone();
        while !waiting.is_empty() || self.accepted_bytes() <= accepted {
            for entry in self.catch_up()? {
                if let Entry::HandlerStarted { agent, .. } = entry
                    && let Some(number) = number(&agent)
                {
                    waiting.remove(&number);
                }
            }
            anyhow::ensure!(
                began.elapsed() < PATIENCE,
                "work does not go on after {PATIENCE:?}: agents {waiting:?} begin nothing, and clients were {} answered",
                if self.accepted_bytes() > accepted { "" } else { "not" }
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(began.elapsed())
    }

    fn accepted_bytes(&self) -> u64 {
        std::fs::metadata(&self.accepted).map_or(0, |file| file.len())
    }

    fn catch_up(&mut self) -> std::io::Result<Vec<Entry>> {
        let Ok(mut file) = std::fs::File::open(&self.observed) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.at))?;
        let mut reader = BufReader::new(file);
        let mut entries = Vec::new();
        loop {
            let mut line = String::new();
            let read = reader.read_line(&mut line)?;
            if read == 0 || !line.ends_with('\n') {
                return Ok(entries);
            }
            self.at += read as u64;
            entries.extend(serde_json::from_str(&line).ok());
        }
    }
}

/// The number of the agent of a life: see [`life_name`](crate::crash::life_name).
fn number(life: &str) -> Option<usize> {
    let (agent, _) = life.split_once('#')?;
    match agent.strip_prefix("agent")? {
        "" => Some(0),
        number => number.strip_prefix('-')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::life_name;

    #[test]
    fn the_agent_of_a_life_is_known_by_its_name() {
        for agent in [0, 1, 17] {
            assert_eq!(number(&life_name(agent, 3)), Some(agent));
        }
        assert_eq!(number("somebody"), None);
    }
}
