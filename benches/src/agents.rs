//! Agents without work: they answer each dispatch at once, so that only the orchestrator is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use mamos_core::Orchestrator;
use mamos_core::agent::AgentProfile;
use mamos_core::auth::{Binding, Credentials, KeyPair, Nonce, Secret};
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::id::{AgentKind, InstanceId, JobKind};
use mamos_core::job::Outcome;
use mamos_core::orchestrator::TokenScope;
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{
    Dispatched, FromAgent, Hello, OLDEST_VERSION, RunEvent, RunReport, ToAgent, VERSION,
};
use mamos_core::transport::Connector;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::bed::Bed;

/// The kind of the jobs that are measured.
pub(crate) const KIND: &str = "bench.nothing";
/// Nothing has moved for this long: something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the agents have seen so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    dispatched: AtomicU64,
    recorded: AtomicU64,
    exceptions: AtomicU64,
    moved: Notify,
}

impl Tally {
    /// Jobs that were handed out, repeats counted again.
    pub(crate) fn dispatched(&self) -> u64 {
        self.dispatched.load(Ordering::Acquire)
    }

    /// Reports that were refused.
    pub(crate) fn exceptions(&self) -> u64 {
        self.exceptions.load(Ordering::Acquire)
    }

    /// Waits until that many ends are on record, and gives when it saw that.
    pub(crate) async fn reached(&self, count: u64) -> anyhow::Result<Instant> {
        loop {
            let moved = self.moved.notified();
            let recorded = self.recorded.load(Ordering::Acquire);
            if recorded >= count {
                return Ok(Instant::now());
            }
            if tokio::time::timeout(PATIENCE, moved).await.is_err() {
                anyhow::bail!(
                    "{recorded} of {count} jobs ended and no more in {PATIENCE:?}; run again with fewer --jobs, and \
                     report it if that hangs as well"
                );
            }
        }
    }
}

/// Agents that are connected.
pub(crate) struct Crew {
    pub(crate) tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Crew {
    /// Connects agents. With `arrivals`, each dispatched job is told of there, with the time.
    pub(crate) async fn connect(
        bed: &Bed,
        count: u32,
        slots: u32,
        arrivals: Option<mpsc::UnboundedSender<Instant>>,
    ) -> anyhow::Result<Self> {
        Self::connect_to(&bed.orchestrator, &bed.connector, count, slots, arrivals).await
    }

    /// The same to any orchestrator, over any transport.
    pub(crate) async fn connect_to(
        orchestrator: &Orchestrator,
        connector: &dyn Connector,
        count: u32,
        slots: u32,
        arrivals: Option<mpsc::UnboundedSender<Instant>>,
    ) -> anyhow::Result<Self> {
        let tally = Arc::new(Tally::default());
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let scope = TokenScope { uses: count, ..TokenScope::once(Duration::from_secs(3600)) };
        let (_, token) = orchestrator.create_token(scope).await?;
        for number in 0..count {
            let link = OrchestratorLink::new(connector.connect().await?);
            let challenge = link.receive().await?;
            let Some([ToAgent::Challenge { nonce }]) = challenge.as_deref() else {
                anyhow::bail!("the orchestrator did not begin with a challenge")
            };
            let binding = link.binding();
            let hello = hello(number, slots, token.clone(), nonce, binding.as_ref())?;
            link.send(vec![FromAgent::Hello(Box::new(hello))]).await?;
            let agent = Nothing {
                link,
                tally: Arc::clone(&tally),
                arrivals: arrivals.clone(),
                next_report: 1,
                recorded_through: 0,
                is_welcome: false,
            };
            tasks.spawn(agent.serve(stopped.clone()));
        }
        Ok(Self { tally, stop, tasks })
    }

    /// Waits until that many ends are on record; sooner if an agent fails.
    pub(crate) async fn reached(&mut self, count: u64) -> anyhow::Result<Instant> {
        let tally = Arc::clone(&self.tally);
        tokio::select! {
            biased;
            reached = tally.reached(count) => reached,
            Some(ended) = self.tasks.join_next() => {
                ended??;
                anyhow::bail!("an agent's link was closed by the orchestrator before the backlog was empty")
            }
        }
    }

    /// Lets the agents leave.
    pub(crate) async fn leave(mut self) -> anyhow::Result<()> {
        let _ = self.stop.send(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

fn hello(
    number: u32,
    slots: u32,
    token: Secret,
    nonce: &Nonce,
    binding: Option<&Binding>,
) -> anyhow::Result<Hello> {
    let pair = KeyPair::generate()?;
    let proof = pair.prove_bound(nonce, binding, token.expose());
    let mut profile = AgentProfile::new(AgentKind::new("bench")?, format!("bench-{number}"));
    profile.kinds = vec![JobKind::new(KIND)?];
    profile.slots = slots;
    Ok(Hello {
        oldest_version: OLDEST_VERSION,
        version: VERSION,
        credentials: Credentials::Registration { token, key: pair.public_key(), proof },
        profile,
        instance: InstanceId::from_parts(SystemClock.now(), fastrand::u128(..)),
        previous: None,
        number: 1,
        session: None,
        runs: Vec::new(),
        now: SystemClock.now(),
    })
}

/// An agent that does nothing, and says so at once.
struct Nothing {
    link: OrchestratorLink,
    tally: Arc<Tally>,
    arrivals: Option<mpsc::UnboundedSender<Instant>>,
    next_report: u64,
    recorded_through: u64,
    is_welcome: bool,
}

impl Nothing {
    async fn serve(mut self, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut heartbeat = tokio::time::interval(Duration::from_secs(5));
        loop {
            let messages = tokio::select! {
                biased;
                messages = self.link.receive() => messages?,
                _ = heartbeat.tick() => {
                    // A stranger may not say anything but hello.
                    if self.is_welcome {
                        self.link.send(vec![FromAgent::Heartbeat { load: None }]).await?;
                    }
                    continue;
                }
                _ = stopped.changed() => {
                    self.link.send(vec![FromAgent::Bye]).await.context("saying goodbye")?;
                    self.link.close().await;
                    return Ok(());
                }
            };
            let Some(messages) = messages else { return Ok(()) };
            let mut jobs = Vec::new();
            for message in messages {
                match message {
                    ToAgent::Dispatch(more) if jobs.is_empty() => jobs = more,
                    ToAgent::Dispatch(more) => jobs.extend(more),
                    ToAgent::Recorded { through, exceptions } => self.recorded(through, exceptions.len()),
                    ToAgent::Refused { message, .. } => {
                        anyhow::bail!("the orchestrator refused an agent: {message}")
                    }
                    ToAgent::Kill { runs } => {
                        self.tally.exceptions.fetch_add(runs.len() as u64, Ordering::AcqRel);
                    }
                    ToAgent::Welcome(_) => self.is_welcome = true,
                    _ => {}
                }
            }
            if !jobs.is_empty() {
                self.answer(jobs).await?;
            }
        }
    }

    async fn answer(&mut self, jobs: Vec<Dispatched>) -> anyhow::Result<()> {
        if let Some(arrivals) = &self.arrivals {
            let now = Instant::now();
            for _ in &jobs {
                // Nobody listens any more once the last sample was taken.
                let _ = arrivals.send(now);
            }
        }
        let count = jobs.len() as u64;
        self.tally.dispatched.fetch_add(count, Ordering::AcqRel);
        let ended = |job: Dispatched| RunReport {
            run: job.run,
            event: RunEvent::Ended(Outcome::Succeeded { output: Bytes::new() }),
        };
        let reports = jobs.into_iter().map(ended).collect();
        let first = self.next_report;
        self.next_report += count;
        self.link.send(vec![FromAgent::Reports { first, reports }]).await?;
        Ok(())
    }

    fn recorded(&mut self, through: u64, exceptions: usize) {
        let more = through.saturating_sub(self.recorded_through);
        self.recorded_through = through;
        self.tally.exceptions.fetch_add(exceptions as u64, Ordering::AcqRel);
        self.tally.recorded.fetch_add(more, Ordering::AcqRel);
        self.tally.moved.notify_one();
    }
}
