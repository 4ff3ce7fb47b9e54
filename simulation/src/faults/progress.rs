//! How work goes on, from what handlers wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mamos_core::Store;
use mamos_core::clock::{Clock, SystemClock, Timestamp};
use mamos_core::lease::RunRef;

use crate::crash::Files;
use crate::history::Entry;

/// Longer than anything takes that comes back at all.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Watches, from one moment on, what is begun of what is claimed from then on. What was claimed before says nothing:
/// agents hold some of it, and begin it without anybody.
pub(super) struct Progress<'s> {
    store: &'s dyn Store,
    since: Timestamp,
    observed: Tail,
    accepted: Tail,
}

impl<'s> Progress<'s> {
    /// From now on.
    pub(super) fn begin(files: &Files, store: &'s dyn Store) -> std::io::Result<Self> {
        let (mut observed, mut accepted) = (Tail::of(files.observed()), Tail::of(files.accepted()));
        observed.lines()?;
        accepted.lines()?;
        Ok(Self { store, since: SystemClock.now(), observed, accepted })
    }

    /// Waits until each of these agents has begun something that was claimed for it since the beginning, and a client
    /// was told that its job is stored. Gives how long that took.
    pub(super) async fn resumes(&mut self, agents: &BTreeSet<usize>) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut waiting = agents.clone();
        let mut is_answered = false;
        let mut latest = BTreeMap::new();
        while !waiting.is_empty() || !is_answered {
            is_answered |= !self.accepted.lines()?.is_empty();
            latest.extend(self.observed.lines()?.iter().filter_map(|line| start_of(line)));
            for agent in waiting.clone() {
                let Some(run) = latest.get(&agent) else { continue };
                match self.is_of_now(*run).await {
                    Ok(true) => drop(waiting.remove(&agent)),
                    Ok(false) => drop(latest.remove(&agent)),
                    Err(error) if error.is_retryable() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            anyhow::ensure!(
                began.elapsed() < PATIENCE,
                "work does not go on after {PATIENCE:?}: agents {waiting:?} begin nothing new, and clients were {} answered",
                if is_answered { "" } else { "not" }
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(began.elapsed())
    }

    async fn is_of_now(&self, run: RunRef) -> mamos_core::Result<bool> {
        let attempts = self.store.attempts(run.job).await?;
        Ok(attempts.iter().any(|attempt| attempt.run == run && attempt.leased_at >= self.since))
    }
}

/// A file that others append to, read on from where it was read last.
struct Tail {
    path: PathBuf,
    at: u64,
}

impl Tail {
    fn of(path: PathBuf) -> Self {
        Self { path, at: 0 }
    }

    /// The whole lines that came since.
    fn lines(&mut self) -> std::io::Result<Vec<String>> {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.at))?;
        let mut reader = BufReader::new(file);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = reader.read_line(&mut line)?;
            if !line.ends_with('\n') {
                return Ok(lines);
            }
            self.at += read as u64;
            line.pop();
            lines.push(line);
        }
    }
}

/// Which agent began which run, if that is what an observation says.
fn start_of(line: &str) -> Option<(usize, RunRef)> {
    match serde_json::from_str(line).ok()? {
        Entry::HandlerStarted { agent, run } => Some((number(&agent)?, run)),
        _ => None,
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
    use std::sync::Arc;

    use bytes::Bytes;
    use mamos_core::JobId;
    use mamos_core::id::{JobKind, QueueName};
    use mamos_core::job::NewJob;
    use mamos_core::job::labels::Selector;
    use mamos_core::job::lane::Lane;
    use mamos_core::lease::SessionRef;
    use mamos_core::store::{ClaimGroup, Taker};
    use mamos_store::MemoryStore;
    use mamos_store::conformance::session_at;

    use super::*;
    use crate::crash::{append, life_name, observe};

    async fn claimed(store: &Arc<dyn Store>, session: SessionRef, job: &str) -> RunRef {
        let now = SystemClock.now();
        let kind = JobKind::new("crash.work").unwrap();
        let lane = Arc::new(Lane::new(QueueName::default_queue(), kind, Selector::any()));
        let lanes = vec![lane.id()];
        store.enqueue(vec![NewJob::new(JobId::from_key(job), lane, Bytes::new())], now).await.unwrap();
        let group = ClaimGroup { lanes, takers: vec![Taker { session, limit: 1 }] };
        store.claim(vec![group], now).await.unwrap().jobs[0].1[0].run
    }

    #[tokio::test]
    async fn what_an_agent_held_before_does_not_show_that_work_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let session = session_at(&store, 1, SystemClock.now()).await;
        let begins = |run| {
            observe(&files.observed(), &Entry::HandlerStarted { agent: life_name(3, 1), run }).unwrap();
        };
        let soon = Duration::from_millis(100);
        let held = claimed(&store, session, "held").await;
        let mut progress = Progress::begin(&files, &*store).unwrap();
        let agents = BTreeSet::from([3]);
        begins(held);
        append(&files.accepted(), "a job\n", false).unwrap();
        assert!(tokio::time::timeout(soon, progress.resumes(&agents)).await.is_err(), "it was held before");
        begins(claimed(&store, session, "new").await);
        assert!(
            tokio::time::timeout(soon, progress.resumes(&agents)).await.is_err(),
            "no client was answered"
        );
        begins(claimed(&store, session, "newer").await);
        append(&files.accepted(), "another job\n", false).unwrap();
        tokio::time::timeout(PATIENCE, progress.resumes(&agents)).await.unwrap().unwrap();
    }

    #[test]
    fn the_agent_of_a_life_is_known_by_its_name() {
        for agent in [0, 1, 17] {
            assert_eq!(number(&life_name(agent, 3)), Some(agent));
        }
        assert_eq!(number("somebody"), None);
    }
}
