//! An agent in a task of this process.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::clock::{Clock, SystemClock, Timestamp};
use mamos_core::lifecycle::LifecycleStatus;
use mamos_core::{Lifecycle, Result};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Factory = dyn Fn(CancellationToken) -> Work + Send + Sync;

/// A future that is started, stopped and watched as a task of this process.
///
/// The factory makes a new future for each start, and gives it a token that fires when it should end. A
/// future that has not ended after the grace is aborted. One that ends by itself has failed, with an error
/// or without. Dropping it aborts the task.
pub struct LocalTask {
    factory: Box<Factory>,
    clock: Arc<dyn Clock>,
    /// Held while it starts or stops, so that these take turns.
    turn: tokio::sync::Mutex<()>,
    current: Mutex<Option<Running>>,
}

struct Running {
    since: Timestamp,
    token: CancellationToken,
    work: AbortHandle,
    /// Why it ended; `None` while it runs.
    ended: watch::Receiver<Option<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl LocalTask {
    /// A task that is not started yet.
    pub fn new<F, W>(factory: F) -> Self
    where
        F: Fn(CancellationToken) -> W + Send + Sync + 'static,
        W: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            factory: Box::new(move |token| Box::pin(factory(token))),
            clock: Arc::new(SystemClock),
            turn: tokio::sync::Mutex::default(),
            current: Mutex::default(),
        }
    }

    /// Where the time of its start is taken from. Default: the wall clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Waits until the task that runs now has ended, and says why. `None` if none was started.
    pub async fn ended(&self) -> Option<String> {
        let mut ended = lock(&self.current).as_ref()?.ended.clone();
        ended.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn spawn(&self) -> Running {
        let token = CancellationToken::new();
        let work = tokio::spawn((self.factory)(token.clone()));
        let abort = work.abort_handle();
        let (sender, ended) = watch::channel(None);
        // Ends with the work, which ends at the latest when it is aborted.
        tokio::spawn(async move {
            let reason = match work.await {
                Ok(Ok(())) => "ended without an error, though nobody asked it to".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_panic() => "panicked".to_owned(),
                Err(_) => "aborted".to_owned(),
            };
            sender.send_replace(Some(reason));
        });
        Running { since: self.clock.now(), token, work: abort, ended }
    }
}

#[async_trait]
impl Lifecycle for LocalTask {
    async fn start(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let mut current = lock(&self.current);
        let is_running = current.as_ref().is_some_and(|running| running.ended.borrow().is_none());
        if !is_running {
            *current = Some(self.spawn());
        }
        Ok(())
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (work, mut ended) = {
            let current = lock(&self.current);
            let Some(running) = current.as_ref() else { return Ok(()) };
            running.token.cancel();
            (running.work.clone(), running.ended.clone())
        };
        // It fails only if the watcher is gone, and then there is nothing to wait for.
        let _ = tokio::time::timeout(grace, ended.wait_for(Option::is_some)).await;
        work.abort();
        let _ = ended.wait_for(Option::is_some).await;
        *lock(&self.current) = None;
        Ok(())
    }

    async fn status(&self) -> Result<LifecycleStatus> {
        Ok(match &*lock(&self.current) {
            None => LifecycleStatus::Stopped,
            Some(running) => match &*running.ended.borrow() {
                None => LifecycleStatus::Running { since: running.since, pid: None },
                Some(_) if running.token.is_cancelled() => LifecycleStatus::Stopped,
                Some(reason) => LifecycleStatus::Failed { reason: reason.clone() },
            },
        })
    }
}

impl fmt::Debug for LocalTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTask").finish_non_exhaustive()
    }
}

/// Guards values that are whole at every moment, so that a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
