//! An agent in a child process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::clock::{Clock, SystemClock, Timestamp};
use mamos_core::lifecycle::LifecycleStatus;
use mamos_core::{Error, ErrorKind, Lifecycle, Result};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::group::{GONE_WITHIN, ProcessGroup, describe};

/// A program that is started, stopped and watched as a child of this process.
///
/// It has the given arguments, only the given environment, and a process group of its own, which is
/// stopped as a whole: SIGTERM first, SIGKILL after the grace. It may be started again after it was
/// stopped or failed. Dropping it kills the group.
#[derive(Debug)]
pub struct ChildProcess {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    shows_output: bool,
    clock: Arc<dyn Clock>,
    /// Held while it starts or stops, so that these take turns.
    turn: tokio::sync::Mutex<()>,
    /// Never held across an await: `kill` and `status` do not wait for a stop to end.
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    process: Option<Process>,
    /// It was stopped on request, so that its end is no failure.
    is_stopped: bool,
}

#[derive(Debug)]
struct Process {
    since: Timestamp,
    pid: u32,
    group: Arc<Mutex<ProcessGroup>>,
    /// Why it ended; `None` while it runs.
    ended: watch::Receiver<Option<String>>,
    watcher: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watcher owns the child; without it Tokio collects the child by itself.
        self.watcher.abort();
        lock(&self.group).kill();
    }
}

impl ChildProcess {
    /// A program that is not started yet.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            shows_output: false,
            clock: Arc::new(SystemClock),
            turn: tokio::sync::Mutex::default(),
            current: Mutex::default(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of its environment, which is otherwise empty.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Lets its output go where that of this process goes. Default: it is dropped.
    #[must_use]
    pub fn show_output(mut self) -> Self {
        self.shows_output = true;
        self
    }

    /// Where the time of its start is taken from. Default: the wall clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Kills it and all its group at once, as a power cut would. It then counts as failed.
    ///
    /// Does nothing if it does not run.
    pub fn kill(&self) {
        if let Some(process) = &lock(&self.current).process {
            lock(&process.group).kill();
        }
    }

    /// Waits until the process that runs now has ended, and says why. `None` if none was started.
    pub async fn ended(&self) -> Option<String> {
        let mut ended = lock(&self.current).process.as_ref()?.ended.clone();
        // The sender outlives its answer, so that an error means it was dropped with the process.
        ended.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn spawn(&self) -> Result<Process> {
        let failed = |error: std::io::Error| {
            let message = format!("{} could not be started; check the program", self.program.display());
            Error::new(ErrorKind::Config, "lifecycle.start", message).with_source(error)
        };
        let output = || if self.shows_output { Stdio::inherit() } else { Stdio::null() };
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let group = ProcessGroup::of(&child).ok_or_else(|| failed(std::io::Error::other("it has no id")))?;
        let pid = group.id();
        let (sender, ended) = watch::channel(None);
        Ok(Process {
            since: self.clock.now(),
            pid,
            group: Arc::new(Mutex::new(group)),
            ended,
            watcher: tokio::spawn(watch_over(child, sender)),
        })
    }
}

async fn watch_over(mut child: Child, ended: watch::Sender<Option<String>>) {
    let reason = match child.wait().await {
        Ok(status) => describe(status),
        Err(error) => format!("how it ended is not known: {error}"),
    };
    ended.send_replace(Some(reason));
}

#[async_trait]
impl Lifecycle for ChildProcess {
    async fn start(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let mut current = lock(&self.current);
        let is_running = current.process.as_ref().is_some_and(|process| process.ended.borrow().is_none());
        if !is_running {
            // The one before, if any, has ended; what it left in its group ends with it.
            current.process = None;
            current.process = Some(self.spawn()?);
            current.is_stopped = false;
        }
        Ok(())
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (group, mut ended) = {
            let mut current = lock(&self.current);
            current.is_stopped = true;
            let Some(process) = &current.process else { return Ok(()) };
            (process.group.clone(), process.ended.clone())
        };
        lock(&group).terminate();
        // It fails only if the watcher is gone, and then there is nothing to wait for.
        let _ = tokio::time::timeout(grace, ended.wait_for(Option::is_some)).await;
        lock(&group).kill();
        let _ = ended.wait_for(Option::is_some).await;
        let deadline = tokio::time::Instant::now() + GONE_WITHIN;
        while !lock(&group).check_gone() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lock(&self.current).process = None;
        Ok(())
    }

    async fn status(&self) -> Result<LifecycleStatus> {
        let current = lock(&self.current);
        Ok(match &current.process {
            None => LifecycleStatus::Stopped,
            Some(process) => match &*process.ended.borrow() {
                None => LifecycleStatus::Running { since: process.since, pid: Some(process.pid) },
                Some(_) if current.is_stopped => LifecycleStatus::Stopped,
                Some(reason) => LifecycleStatus::Failed { reason: reason.clone() },
            },
        })
    }
}

/// Guards values that are whole at every moment, so that a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
