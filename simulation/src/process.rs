//! Processes that are killed, paused, stopped in order, and started again.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// A process, and how it is started.
#[derive(Debug)]
pub(crate) struct Victim {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Victim {
    /// Not started yet. What it says goes to the end of `log`.
    pub(crate) fn new(name: impl Into<String>, arguments: Vec<String>, log: PathBuf) -> Self {
        Self { name: name.into(), arguments, environment: Vec::new(), log, child: None }
    }

    /// Starts with this in its environment, besides what this program has.
    pub(crate) fn with_environment(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment = environment;
        self
    }

    /// Starts this program again, in the role that the arguments say.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().append(true).create(true).open(&self.log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Held open for as long as the driver lives.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.with_context(|| format!("{} cannot be started", self.name))?);
        Ok(())
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.must_run()?;
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process has that id")?;
        Ok(kill_process(pid, signal)?)
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.must_run()?;
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to stop, and waits for that.
    pub(crate) async fn stop(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let by = Instant::now() + within;
        loop {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                self.child = None;
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < by, "{} did not stop within {within:?} of SIGTERM", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// It must not have ended by itself.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            anyhow::bail!("{} ended by itself: {status}; see {}", self.name, self.log.display());
        }
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = (child.kill(), child.wait());
        }
    }
}
