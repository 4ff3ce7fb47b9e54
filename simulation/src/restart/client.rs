//! A client that enqueues jobs through the HTTP API, again and again until each is acknowledged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use mamos_core::{Job, JobId};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::place::Place;
use super::work::Work;

/// How often jobs are enqueued.
const EVERY: Duration = Duration::from_millis(100);
/// How long an answer may take before the client asks again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the server.
#[derive(Clone)]
pub(super) struct Caller {
    http: reqwest::Client,
    base: String,
    key: String,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Verdict {
    id: JobId,
    result: String,
}

#[derive(Deserialize)]
struct Queue {
    counts: BTreeMap<String, u64>,
}

impl Caller {
    pub(super) fn new(place: &Place, server: SocketAddr) -> anyhow::Result<Self> {
        let secrets = std::fs::read_to_string(place.secrets())?;
        let key = secrets.lines().nth(1).context("the client has no key")?.to_owned();
        // Loopback only: no authority is trusted. reqwest has no provider of its own here.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(PATIENCE).build()?;
        Ok(Self { http, base: format!("http://{server}/api/v1"), key })
    }

    /// Gives the ids of those that are now stored, by the server's word.
    async fn enqueue(&self, jobs: &[(JobId, Work)]) -> anyhow::Result<Vec<JobId>> {
        let wishes: Vec<_> =
            jobs.iter().map(|(id, work)| json!({"id": id, "kind": Work::KIND, "payload": work})).collect();
        let request = self.http.post(format!("{}/jobs/bulk", self.base)).json(&json!({"jobs": wishes}));
        let answer = request.bearer_auth(&self.key).send().await?.error_for_status()?;
        let verdicts: Items<Verdict> = answer.json().await?;
        let stored = verdicts.items.into_iter().filter(|one| matches!(&*one.result, "stored" | "repeat"));
        Ok(stored.map(|verdict| verdict.id).collect())
    }

    /// How many jobs have not ended.
    pub(super) async fn open(&self) -> anyhow::Result<u64> {
        let request = self.http.get(format!("{}/queues", self.base)).bearer_auth(&self.key);
        let queues: Items<Queue> = request.send().await?.error_for_status()?.json().await?;
        let counts = queues.items.iter().flat_map(|queue| &queue.counts);
        let open =
            counts.filter(|(state, _)| matches!(&***state, "scheduled" | "ready" | "leased" | "running"));
        Ok(open.map(|(_, count)| count).sum())
    }
}

/// Enqueues until it is stopped.
pub(super) struct Client {
    stop: CancellationToken,
    accepted: Arc<Mutex<Vec<JobId>>>,
    enqueuing: AbortOnDropHandle<()>,
}

impl Client {
    /// `at_once` jobs each tenth of a second, the longest of which takes `longest`.
    pub(super) fn start(caller: Caller, seed: u64, at_once: usize, longest: Duration) -> Self {
        let (stop, accepted) = (CancellationToken::new(), Arc::<Mutex<Vec<JobId>>>::default());
        let enqueuing = tokio::spawn({
            let (stop, accepted) = (stop.clone(), Arc::clone(&accepted));
            async move {
                let mut draw = Draw { random: fastrand::Rng::with_seed(seed), longest, seed, number: 0 };
                while !stop.is_cancelled() {
                    let jobs: Vec<_> = (0..at_once.max(1)).map(|_| draw.next()).collect();
                    let stored = persist(&caller, &jobs, &stop).await;
                    accepted.lock().unwrap_or_else(PoisonError::into_inner).extend(stored);
                    tokio::time::sleep(EVERY).await;
                }
            }
        });
        Self { stop, accepted, enqueuing: AbortOnDropHandle::new(enqueuing) }
    }

    /// Stops, and gives all jobs that were acknowledged.
    pub(super) async fn stop(self) -> anyhow::Result<Vec<JobId>> {
        self.stop.cancel();
        self.enqueuing.await?;
        Ok(std::mem::take(&mut *self.accepted.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Under the same ids until they are acknowledged, or it is told to stop.
async fn persist(caller: &Caller, jobs: &[(JobId, Work)], stop: &CancellationToken) -> Vec<JobId> {
    loop {
        match caller.enqueue(jobs).await {
            Ok(stored) => return stored,
            Err(error) => tracing::debug!(%error, "not acknowledged; asking again"),
        }
        if stop.is_cancelled() {
            return Vec::new();
        }
        tokio::time::sleep(EVERY).await;
    }
}

struct Draw {
    random: fastrand::Rng,
    longest: Duration,
    seed: u64,
    number: u64,
}

impl Draw {
    /// Most are short, and some are longer than the outages.
    fn next(&mut self) -> (JobId, Work) {
        self.number += 1;
        let longest = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        let takes_ms = match self.random.u8(..10) {
            0..7 => self.random.u64(50..500),
            7..9 => self.random.u64(500..2000),
            _ => self.random.u64(longest * 2 / 3..=longest),
        };
        let work = Work { takes_ms, lines: self.random.u32(1..8) };
        (JobId::from_key(&format!("{}/{}", self.seed, self.number)), work)
    }
}
