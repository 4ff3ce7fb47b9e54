//! Agents: what runs jobs, and what an orchestrator knows about one.

pub mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::state::AgentState;
use crate::auth::PublicKey;
use crate::clock::Timestamp;
use crate::id::{AgentId, AgentKind, InstanceId, JobKind};
use crate::job::labels::Labels;
use crate::job::{Counters, Outcome, Progress};
use crate::lease::RunRef;
use crate::protocol::MAX_LOG_PIECE_BYTES;

/// The most kinds of job that one agent may offer.
pub const MAX_KINDS: usize = 4096;
/// The most attempts that one agent may run at once.
pub const MAX_SLOTS: u32 = 65_536;

/// What runs jobs: a registry of handlers, a runner of commands, or something of your own.
///
/// An agent knows nothing of links, heartbeats or retries: the runtime in `mamos-agent` gives it those.
#[async_trait]
pub trait Agent: Send + Sync + 'static {
    /// What this agent is and can do. Asked once for each session.
    fn profile(&self) -> AgentProfile;

    /// Runs one attempt to its end.
    ///
    /// Called for as many attempts at once as the profile has slots. Must return soon after
    /// [`Attempt::cancellation`] fires; a panic counts as a failed attempt.
    async fn run(&self, attempt: Attempt) -> Outcome;
}

/// What an agent is and can do, as it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentProfile {
    /// Its type, the first part of its id.
    pub kind: AgentKind,
    /// A name for people. At most 128 bytes.
    pub name: String,
    /// What jobs can select it by.
    pub labels: Labels,
    /// The kinds of job that it can run. At most [`MAX_KINDS`].
    pub kinds: Vec<JobKind>,
    /// How many attempts it runs at once. 1 to [`MAX_SLOTS`].
    pub slots: u32,
    /// The version of its program, for people.
    pub version: String,
}

impl AgentProfile {
    /// A profile with one slot, no labels and no kinds.
    pub fn new(kind: AgentKind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            labels: Labels::default(),
            kinds: Vec::new(),
            slots: 1,
            version: String::new(),
        }
    }

    /// Is it within its bounds? The error says which one is broken.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`](crate::ErrorKind::LimitExceeded).
    pub fn check(&self) -> crate::Result<()> {
        let broken = if self.name.len() > 128 || self.version.len() > 128 {
            "its name or version is longer than 128 bytes"
        } else if self.kinds.len() > MAX_KINDS {
            "it offers more than 4096 kinds of job"
        } else if self.slots == 0 || self.slots > MAX_SLOTS {
            "it must have 1 to 65536 slots"
        } else {
            return Ok(());
        };
        Err(crate::Error::new(crate::ErrorKind::LimitExceeded, "agent.profile", broken))
    }
}

/// One attempt, as an agent gets it.
#[derive(Debug)]
pub struct Attempt {
    /// The run, usable as a fencing token towards others.
    pub run: RunRef,
    /// What to run.
    pub kind: JobKind,
    /// The arguments.
    pub payload: Bytes,
    /// The number of this attempt, and the other counters.
    pub counters: Counters,
    /// How long this attempt may take.
    pub timeout: Option<Duration>,
    /// When the job is given up.
    pub deadline: Option<Timestamp>,
    /// W3C trace context of the enqueuer.
    pub traceparent: Option<Arc<str>>,
    /// Fires when the attempt should stop.
    pub cancellation: Cancellation,
    /// Where progress and output go while it runs.
    pub reporter: Reporter,
}

/// Tells an attempt to stop, and how much time it has for that.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    token: CancellationToken,
    grace: Arc<std::sync::OnceLock<Duration>>,
}

impl Cancellation {
    /// One that has not fired.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires it. The first call decides the grace.
    pub fn cancel(&self, grace: Duration) {
        // A second call loses on purpose: the grace is already running.
        let _ = self.grace.set(grace);
        self.token.cancel();
    }

    /// Has it fired?
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it fires, and gives the grace. Safe to drop and call again.
    pub async fn cancelled(&self) -> Duration {
        self.token.cancelled().await;
        self.grace.get().copied().unwrap_or_default()
    }
}

/// Which of a command's outputs a piece of its log came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output, or a handler's own log.
    Stdout,
    /// Standard error.
    Stderr,
    /// Said by the runtime, for example that output was cut.
    Note,
}

/// Takes what an attempt says while it runs.
#[async_trait]
pub trait ReportSink: Send + Sync + fmt::Debug {
    /// Takes progress. Only the newest matters, so older progress may be dropped.
    fn progress(&self, run: RunRef, progress: Progress);

    /// Takes a piece of the log, of 1 byte to 64 KiB, that begins at byte `offset` of the run's log. Waits when the link is
    /// slow, so that memory stays bounded; takes the piece at its last step, so that a call that is
    /// dropped has not taken it.
    async fn log(&self, run: RunRef, stream: LogStream, offset: u64, bytes: Bytes);
}

/// An attempt's way to say how far it is.
#[derive(Debug, Clone)]
pub struct Reporter {
    run: RunRef,
    sink: Arc<dyn ReportSink>,
    offset: Arc<tokio::sync::Mutex<u64>>,
}

impl Reporter {
    /// A reporter for one run.
    pub fn new(run: RunRef, sink: Arc<dyn ReportSink>) -> Self {
        Self { run, sink, offset: Arc::default() }
    }

    /// Says how far the attempt is.
    pub fn progress(&self, progress: Progress) {
        self.sink.progress(self.run, progress);
    }

    /// Appends to the run's log. Waits when the link is slow. Safe to drop: a first part of the bytes may
    /// have been taken then, and the log goes on after it without a gap.
    pub async fn log(&self, stream: LogStream, mut bytes: Bytes) {
        // Held while the sink takes the pieces, so that offsets reach it in order.
        let mut offset = self.offset.lock().await;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_LOG_PIECE_BYTES));
            let end = *offset + piece.len() as u64;
            self.sink.log(self.run, stream, *offset, piece).await;
            *offset = end;
        }
    }
}

/// An agent as a store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRecord {
    /// Its id.
    pub id: AgentId,
    /// Where it is in its life.
    pub state: AgentState,
    /// What it said of itself when it last opened a session.
    pub profile: AgentProfile,
    /// Labels that an operator gave it; they win over those of the profile.
    pub labels: Labels,
    /// An operator wants it to take no new work.
    pub is_draining: bool,
    /// What its proofs are checked with. Never changes: its id is derived from it.
    pub public_key: PublicKey,
    /// The life of its program that proved itself last; `None` until the first did.
    pub instance: Option<InstanceId>,
    /// Set while it may not connect.
    pub revocation: Option<Revocation>,
    /// When it was admitted.
    pub registered_at: Timestamp,
    /// When it last opened, resumed, closed or lost a session, or began another life.
    pub changed_at: Timestamp,
    /// Grows with every change, so that two edits do not overwrite each other.
    pub revision: u64,
}

/// Why an agent may not connect, until an operator reinstates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Since when.
    pub at: Timestamp,
    /// Why, for people. At most 512 bytes.
    pub reason: String,
}

impl Revocation {
    /// A revocation, its reason cut to 512 bytes.
    pub fn new(at: Timestamp, reason: &str) -> Self {
        Self { at, reason: reason[..reason.floor_char_boundary(512)].to_owned() }
    }
}

impl AgentRecord {
    /// The labels that jobs select by: the profile's, and the operator's over them.
    pub fn effective_labels(&self) -> Labels {
        let merged = self.profile.labels.iter().chain(self.labels.iter());
        // Both parts are valid; only their union can exceed the bound, and then the profile's count.
        Labels::new(merged).unwrap_or_else(|_| self.profile.labels.clone())
    }
}

/// What an agent measured on its machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLoad {
    /// Processor use over the last interval, `0.0..=100.0` over all cores.
    pub cpu_percent: f32,
    /// Memory in use, in bytes.
    pub memory_used_bytes: u64,
    /// Memory in all, in bytes.
    pub memory_total_bytes: u64,
    /// Space in use on all disks, in bytes.
    pub disk_used_bytes: u64,
    /// Space in all on all disks, in bytes.
    pub disk_total_bytes: u64,
    /// Bytes received on all interfaces since the agent started.
    pub network_received_bytes: u64,
    /// Bytes sent on all interfaces since the agent started.
    pub network_sent_bytes: u64,
    /// Operating system and its version.
    pub os: String,
    /// Seconds since the machine started.
    pub uptime_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_grace_counts() {
        let cancellation = Cancellation::new();
        assert!(!cancellation.is_cancelled());
        cancellation.cancel(Duration::from_secs(1));
        cancellation.cancel(Duration::from_secs(9));
        assert_eq!(cancellation.cancelled().await, Duration::from_secs(1));
    }

    /// Takes pieces while it has permits.
    #[derive(Debug)]
    struct Slow {
        permits: tokio::sync::Semaphore,
        taken: std::sync::Mutex<Vec<(u64, usize)>>,
    }

    #[async_trait]
    impl ReportSink for Slow {
        fn progress(&self, _: RunRef, _: Progress) {}

        async fn log(&self, _: RunRef, _: LogStream, offset: u64, bytes: Bytes) {
            self.permits.acquire().await.unwrap().forget();
            self.taken.lock().unwrap().push((offset, bytes.len()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_was_dropped_half_way_goes_on_without_a_gap() {
        let sink = Arc::new(Slow { permits: tokio::sync::Semaphore::new(1), taken: Default::default() });
        let run = RunRef { job: crate::id::JobId::from_key("a"), epoch: crate::lease::Epoch::from_number(1) };
        let reporter = Reporter::new(run, Arc::clone(&sink) as Arc<dyn ReportSink>);
        let long = Bytes::from(vec![0; MAX_LOG_PIECE_BYTES + 10]);
        let cut = tokio::time::timeout(Duration::from_secs(1), reporter.log(LogStream::Stdout, long)).await;
        assert!(cut.is_err(), "the second piece had to wait");
        sink.permits.add_permits(1);
        reporter.log(LogStream::Stdout, Bytes::from_static(b"end")).await;
        assert_eq!(*sink.taken.lock().unwrap(), [(0, MAX_LOG_PIECE_BYTES), (MAX_LOG_PIECE_BYTES as u64, 3)]);
    }

    #[test]
    fn a_profile_is_bounded() {
        let fine = AgentProfile::new(AgentKind::new("a").unwrap(), "n");
        assert!(fine.check().is_ok());
        assert!(AgentProfile { slots: 0, ..fine.clone() }.check().is_err());
        assert!(AgentProfile { slots: MAX_SLOTS + 1, ..fine.clone() }.check().is_err());
        assert!(AgentProfile { name: "n".repeat(129), ..fine }.check().is_err());
    }
}
