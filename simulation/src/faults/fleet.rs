//! The processes of a run, their files, and the check at the end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use mamos_core::Store;
use rustix::process::Signal;

use super::places::Places;
use super::progress::Progress;
use super::{Link, orchestrator};
use crate::crash::{Files, Verdicts, judge, life_name, observe};
use crate::history::Entry;
use crate::process::Victim;

/// After the last fault all that was accepted must have ended within this time.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An orchestrator of the fleet.
#[derive(Debug, Clone)]
pub struct Post {
    /// Its store, as it reaches it.
    pub store: String,
    /// Where agents reach it.
    pub link: Link,
    /// The lease of its sessions: longer than any outage but those that are meant to outlast it.
    pub lease: Duration,
    /// What its process has in its environment besides.
    pub environment: Vec<(String, String)>,
}

/// Orchestrators and agents, running.
pub struct Fleet {
    files: Files,
    directory: PathBuf,
    orchestrators: Vec<Victim>,
    agents: Vec<Victim>,
    lives: Vec<u64>,
    links: Vec<Link>,
    store: Arc<dyn Store>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("directory", &self.directory)
            .field("lives", &self.lives)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Starts the orchestrators, and agents that may go to any of them. What is in the store is looked at as the first
    /// orchestrator reaches it.
    ///
    /// # Errors
    ///
    /// If a process cannot be started or does nothing.
    pub async fn start(directory: &Path, posts: &[Post], agents: usize, seed: u64) -> anyhow::Result<Self> {
        let mut links: Vec<Link> = posts.iter().map(|post| post.link.clone()).collect();
        links.dedup();
        let mut fleet = Self {
            files: Files::new(directory),
            directory: directory.to_path_buf(),
            orchestrators: Vec::new(),
            agents: Vec::new(),
            lives: vec![0; agents],
            links,
            store: orchestrator::open(&posts.first().context("there are no orchestrators")?.store).await?,
        };
        for (number, post) in posts.iter().enumerate() {
            let name = Self::name_of(number);
            let arguments = vec![
                "orchestrator".to_owned(),
                format!("--directory={}", directory.display()),
                format!("--name={name}"),
                format!("--store={}", post.store),
                format!("--link={}", post.link),
                format!("--lease={}", post.lease.as_secs()),
                format!("--seed={seed}"),
            ];
            let log = directory.join(format!("{name}.log"));
            let mut victim = Victim::new(name, arguments, log).with_environment(post.environment.clone());
            victim.start()?;
            fleet.orchestrators.push(victim);
        }
        for number in 0..agents {
            fleet.start_agent(number)?;
        }
        fleet.resumes(&fleet.everyone()).await.context("nothing begins at the start")?;
        Ok(fleet)
    }

    /// What an orchestrator is called.
    pub fn name_of(number: usize) -> String {
        format!("orchestrator-{number}")
    }

    /// All agents.
    pub fn everyone(&self) -> BTreeSet<usize> {
        (0..self.lives.len()).collect()
    }

    /// Waits until work goes on at each of these agents. Gives how long that took.
    pub async fn resumes(&self, agents: &BTreeSet<usize>) -> anyhow::Result<Duration> {
        Progress::begin(&self.files, &*self.store)?.resumes(agents).await
    }

    /// Kills an orchestrator.
    pub fn kill_orchestrator(&mut self, number: usize) -> anyhow::Result<()> {
        self.orchestrators[number].kill()
    }

    /// Starts a killed orchestrator again.
    pub fn start_orchestrator(&mut self, number: usize) -> anyhow::Result<()> {
        self.orchestrators[number].start()
    }

    /// Lets an orchestrator stand still, or go on.
    pub fn signal_orchestrator(&mut self, number: usize, signal: Signal) -> anyhow::Result<()> {
        self.orchestrators[number].signal(signal)
    }

    /// Kills an agent and starts it again.
    pub fn restart_agent(&mut self, number: usize) -> anyhow::Result<()> {
        self.agents[number].kill()?;
        let agent = life_name(number, self.lives[number]);
        observe(&self.files.observed(), &Entry::AgentDied { agent })?;
        self.start_agent(number)
    }

    fn start_agent(&mut self, number: usize) -> anyhow::Result<()> {
        self.lives[number] += 1;
        let mut arguments = vec![
            "agent".to_owned(),
            format!("--directory={}", self.directory.display()),
            format!("--number={number}"),
            format!("--life={}", self.lives[number]),
        ];
        arguments.extend(self.links.iter().map(|link| format!("--link={link}")));
        let log = self.directory.join(format!("agent-{number}.log"));
        let mut victim = Victim::new(format!("agent {number}"), arguments, log);
        victim.start()?;
        if number < self.agents.len() {
            self.agents[number] = victim;
        } else {
            self.agents.push(victim);
        }
        Ok(())
    }

    /// Where agents are.
    pub(super) fn places(&self) -> Places {
        Places::in_store(Arc::clone(&self.store))
    }

    /// Lets everything come to rest, ends it, and checks what is left in the store.
    pub async fn finish(mut self) -> anyhow::Result<Verdicts> {
        std::fs::write(self.files.stop(), "")?;
        let by = Instant::now() + DRAIN_WITHIN;
        // What is left unfinished then, the checker names.
        while !self.files.drained().exists() && Instant::now() < by {
            self.orchestrators.iter_mut().chain(&mut self.agents).try_for_each(Victim::must_run)?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.orchestrators.iter_mut().chain(&mut self.agents).try_for_each(Victim::kill)?;
        judge(&self.files, &*self.store).await
    }
}
