//! Agents that do nothing, thousands of them in one process. They come back when their link is cut.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use mamos_core::agent::AgentProfile;
use mamos_core::auth::{Credentials, KeyPair, Nonce, Secret};
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::id::{AgentKind, InstanceId, JobKind, SessionId};
use mamos_core::job::Outcome;
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{
    Dispatched, FromAgent, Hello, OLDEST_VERSION, RunEvent, RunReport, ToAgent, VERSION,
};
use mamos_core::transport::Connector;
use mamos_transport::WebSocketConnector;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::agents::KIND;

/// Reconnects wait at random up to this at first, twice as long each time, as an agent's runtime does.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Whatever takes longer counts as this long.
const LONGEST_LATENCY_MICROS: u64 = 600_000_000;
/// How many connect at once when the fleet is started: it is not what is measured.
const CONNECT_AT_ONCE: usize = 256;

/// The agents, and what they have seen.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

struct Shared {
    connector: WebSocketConnector,
    token: Secret,
    slots: u32,
    count: u32,
    starting: Semaphore,
    connected: AtomicU32,
    refusals: AtomicU64,
    heartbeats: AtomicU64,
    dispatched: AtomicU64,
    recorded: AtomicU64,
    latencies: Mutex<Histogram<u64>>,
}

/// From submit to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latencies {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Fleet {
    pub(crate) fn start(count: u32, slots: u32, address: &str, token: Secret) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            connector: WebSocketConnector::builder(format!("ws://{address}")).build()?,
            token,
            slots,
            count,
            starting: Semaphore::new(CONNECT_AT_ONCE),
            connected: AtomicU32::new(0),
            refusals: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            dispatched: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            latencies: Mutex::new(Histogram::new_with_bounds(1, LONGEST_LATENCY_MICROS, 3)?),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let agent = Agent::new(number, Arc::clone(&shared))?;
            let mut stopped = stopped.clone();
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    _ = stopped.changed() => {}
                    () = agent.live() => {}
                }
            });
        }
        Ok(Self { shared, stop, tasks })
    }

    pub(crate) fn connected(&self) -> u32 {
        self.shared.connected.load(Ordering::Acquire)
    }

    pub(crate) fn refusals(&self) -> u64 {
        self.shared.refusals.load(Ordering::Acquire)
    }

    pub(crate) fn heartbeats(&self) -> u64 {
        self.shared.heartbeats.load(Ordering::Acquire)
    }

    pub(crate) fn dispatched(&self) -> u64 {
        self.shared.dispatched.load(Ordering::Acquire)
    }

    pub(crate) fn recorded(&self) -> u64 {
        self.shared.recorded.load(Ordering::Acquire)
    }

    pub(crate) async fn all_connected(&self, patience: Duration) -> anyhow::Result<()> {
        let all = self.shared.count;
        until(patience, || self.connected() == all)
            .await
            .with_context(|| format!("{} of {all} agents have a link", self.connected()))
            .map(|_| ())
    }

    pub(crate) async fn all_gone(&self, patience: Duration) -> anyhow::Result<()> {
        until(patience, || self.connected() == 0).await.map(|_| ())
    }

    /// Waits until so many ends are on record, and gives when that was.
    pub(crate) async fn all_recorded(&self, count: u64, patience: Duration) -> anyhow::Result<Instant> {
        until(patience, || self.recorded() >= count)
            .await
            .with_context(|| format!("{} of {count} jobs have ended", self.recorded()))
    }

    pub(crate) fn forget_latencies(&self) {
        self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }

    pub(crate) fn latencies(&self) -> Latencies {
        let latencies = self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Latencies { p50_ms: ms(0.5), p99_ms: ms(0.99) }
    }

    pub(crate) async fn end(mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn until(patience: Duration, mut is_so: impl FnMut() -> bool) -> anyhow::Result<Instant> {
    let end = Instant::now() + patience;
    while !is_so() {
        anyhow::ensure!(Instant::now() < end, "nothing more within {patience:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(Instant::now())
}

struct Agent {
    shared: Arc<Shared>,
    number: u32,
    pair: KeyPair,
    instance: InstanceId,
    /// The token that it got, once it is registered.
    token: Option<Secret>,
    session: Option<SessionId>,
    hellos: u64,
}

/// What ends a link in a way that counts.
struct Refused;

impl Agent {
    fn new(number: u32, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let instance = InstanceId::from_parts(SystemClock.now(), fastrand::u128(..));
        Ok(Self {
            shared,
            number,
            pair: KeyPair::generate()?,
            instance,
            token: None,
            session: None,
            hellos: 0,
        })
    }

    async fn live(mut self) {
        let mut wait = FIRST_WAIT;
        let shared = Arc::clone(&self.shared);
        loop {
            // Only the first time: when they come back, nobody tells them to queue.
            let place = if self.token.is_none() { shared.starting.acquire().await.ok() } else { None };
            let opened = self.open().await;
            drop(place);
            match opened {
                Ok(Some((link, beat))) => {
                    wait = FIRST_WAIT;
                    self.shared.connected.fetch_add(1, Ordering::AcqRel);
                    let ended = self.serve(link, beat).await;
                    self.shared.connected.fetch_sub(1, Ordering::AcqRel);
                    if ended.is_err() {
                        self.shared.refusals.fetch_add(1, Ordering::AcqRel);
                    }
                }
                Ok(None) => {}
                Err(Refused) => {
                    self.shared.refusals.fetch_add(1, Ordering::AcqRel);
                }
            }
            tokio::time::sleep(wait.mul_f64(fastrand::f64())).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// A link on which it was welcomed, and how often it must beat.
    async fn open(&mut self) -> Result<Option<(OrchestratorLink, Duration)>, Refused> {
        let Ok(connection) = self.shared.connector.connect().await else { return Ok(None) };
        let link = OrchestratorLink::new(connection);
        let Ok(Some(first)) = link.receive().await else { return Ok(None) };
        let [ToAgent::Challenge { nonce }] = first[..] else { return Err(Refused) };
        self.hellos += 1;
        let Some(hello) = self.hello(&nonce) else { return Err(Refused) };
        if link.send(vec![FromAgent::Hello(Box::new(hello))]).await.is_err() {
            return Ok(None);
        }
        let Ok(Some(answer)) = link.receive().await else { return Ok(None) };
        for message in answer {
            match message {
                ToAgent::Welcome(welcome) => {
                    if let Some(token) = welcome.issued {
                        self.token = Some(token);
                    }
                    self.session = Some(welcome.session);
                    return Ok(Some((link, welcome.heartbeat_every)));
                }
                ToAgent::Refused { is_final: true, .. } => return Err(Refused),
                _ => {}
            }
        }
        Ok(None)
    }

    fn hello(&self, nonce: &Nonce) -> Option<Hello> {
        let credentials = match &self.token {
            Some(token) => {
                let proof = self.pair.prove(nonce, token.expose());
                Credentials::Agent { token: token.clone(), proof }
            }
            None => {
                let (token, key) = (self.shared.token.clone(), self.pair.public_key());
                let proof = self.pair.prove(nonce, token.expose());
                Credentials::Registration { token, key, proof }
            }
        };
        let mut profile = AgentProfile::new(AgentKind::new("bench").ok()?, format!("bench-{}", self.number));
        profile.kinds = vec![JobKind::new(KIND).ok()?];
        profile.slots = self.shared.slots;
        Some(Hello {
            oldest_version: OLDEST_VERSION,
            version: VERSION,
            credentials,
            profile,
            instance: self.instance,
            previous: None,
            number: self.hellos,
            session: self.session,
            runs: Vec::new(),
            now: SystemClock.now(),
        })
    }

    async fn serve(&mut self, link: OrchestratorLink, beat: Duration) -> Result<(), Refused> {
        let mut next_report = 1;
        let mut recorded_through = 0;
        // Spread over the interval, as an agent's runtime does.
        let mut beat_at = tokio::time::Instant::now() + beat.mul_f64(fastrand::f64());
        loop {
            let messages = tokio::select! {
                biased;
                messages = link.receive() => messages,
                () = tokio::time::sleep_until(beat_at) => {
                    beat_at += beat;
                    if link.send(vec![FromAgent::Heartbeat { load: None }]).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
            };
            let Ok(Some(messages)) = messages else { return Ok(()) };
            let mut reports = Vec::new();
            for message in messages {
                match message {
                    ToAgent::Dispatch(jobs) => self.answer(jobs, &mut reports),
                    ToAgent::Recorded { through, .. } => {
                        if through == recorded_through {
                            self.shared.heartbeats.fetch_add(1, Ordering::AcqRel);
                        }
                        self.shared.recorded.fetch_add(through - recorded_through, Ordering::AcqRel);
                        recorded_through = through;
                    }
                    ToAgent::Token { token } => self.token = Some(token),
                    ToAgent::Refused { is_final: true, .. } | ToAgent::Superseded => return Err(Refused),
                    _ => {}
                }
            }
            if reports.is_empty() {
                continue;
            }
            let first = next_report;
            next_report += reports.len() as u64;
            if link.send(vec![FromAgent::Reports { first, reports }]).await.is_err() {
                return Ok(());
            }
        }
    }

    fn answer(&self, jobs: Vec<Dispatched>, reports: &mut Vec<RunReport>) {
        let now = SystemClock.now().as_micros();
        self.shared.dispatched.fetch_add(jobs.len() as u64, Ordering::AcqRel);
        {
            let mut latencies = self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            for job in &jobs {
                let submitted =
                    std::str::from_utf8(&job.payload).ok().and_then(|text| text.parse::<i64>().ok());
                let waited = now.saturating_sub(submitted.unwrap_or(now)).max(1);
                latencies.saturating_record(waited.unsigned_abs());
            }
        }
        reports.extend(jobs.into_iter().map(|job| RunReport {
            run: job.run,
            event: RunEvent::Ended(Outcome::Succeeded { output: Bytes::new() }),
        }));
    }
}
