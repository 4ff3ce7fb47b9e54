//! Port: the process that an agent lives in.

use std::time::Duration;

use async_trait::async_trait;

use crate::Result;
use crate::clock::Timestamp;

/// Starts, stops and watches the process that an agent lives in: a task of this process, a child
/// process, a container.
///
/// All methods tolerate being called at any time: starting what runs and stopping what does not are
/// successes that change nothing.
#[async_trait]
pub trait Lifecycle: Send + Sync + 'static {
    /// Starts it. Returns once it runs, not once it is connected.
    async fn start(&self) -> Result<()>;

    /// Asks it to stop, and ends it by force after `grace`. Returns once it is gone.
    async fn stop(&self, grace: Duration) -> Result<()>;

    /// What it is doing now.
    async fn status(&self) -> Result<LifecycleStatus>;
}

/// What the process is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LifecycleStatus {
    /// Not started, or stopped on request.
    Stopped,
    /// Runs since the given time.
    Running {
        /// When it was started.
        since: Timestamp,
        /// Its process id, if it has one of its own.
        pid: Option<u32>,
    },
    /// Ended by itself.
    Failed {
        /// Its exit code, or what ended it.
        reason: String,
    },
}
