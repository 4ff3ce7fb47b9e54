//! Those who ask for work, and those who meddle with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mamos_core::job::NewJob;
use mamos_core::job::retry::{Backoff, RetryPolicy};
use mamos_core::store::EnqueueResult;
use mamos_core::{Job, JobId, Orchestrator, QueueName, Result};
use tokio::time::{Instant, sleep};

use crate::history::{Entry, History};
use crate::jobs::{Bulky, Common, Rare, Script};

/// The queues that jobs are put in.
pub(crate) const QUEUES: [&str; 2] = ["default", "night"];
/// How long a client waits before it tries again.
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// The orchestrators of the moment, for clients: each call goes to the next one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Front(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    orchestrators: BTreeMap<usize, Orchestrator>,
    last: usize,
}

impl Front {
    pub(crate) fn set(&self, throne: usize, orchestrator: Option<Orchestrator>) {
        let before = {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match orchestrator {
                Some(orchestrator) => open.orchestrators.insert(throne, orchestrator),
                None => open.orchestrators.remove(&throne),
            }
        };
        drop(before);
    }

    pub(crate) fn now(&self) -> Option<Orchestrator> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next =
            open.orchestrators.range(open.last + 1..).chain(open.orchestrators.range(..=open.last)).next();
        let (throne, orchestrator) = next.map(|(throne, orchestrator)| (*throne, orchestrator.clone()))?;
        open.last = throne;
        Some(orchestrator)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Orchestrator> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).orchestrators.values().cloned().collect()
    }

    /// Waits until there is one.
    pub(crate) async fn get(&self) -> Orchestrator {
        loop {
            if let Some(orchestrator) = self.now() {
                return orchestrator;
            }
            sleep(TRY_AGAIN).await;
        }
    }
}

/// What all clients share.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) seed: u64,
    pub(crate) front: Front,
    pub(crate) history: History,
    pub(crate) accepted: Arc<Mutex<Vec<JobId>>>,
}

impl Clients {
    pub(crate) fn accepted(&self) -> Vec<JobId> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Enqueues so many jobs, each again and again under the same id until it is accepted.
    pub(crate) async fn enqueue(self, name: usize, jobs: usize, mut random: fastrand::Rng) {
        let mut made = 0;
        while made < jobs {
            sleep(Duration::from_millis(random.u64(0..4000))).await;
            let count = random.usize(1..=8).min(jobs - made);
            let orchestrator = loop {
                let orchestrator = self.front.get().await;
                match orchestrator.align_clock().await {
                    Ok(()) => break orchestrator,
                    Err(_) => sleep(TRY_AGAIN).await,
                }
            };
            let mut batch = Vec::new();
            for n in made..made + count {
                let id = JobId::from_key(&format!("{}/{name}/{n}", self.seed));
                match ask(&orchestrator, id, &mut random) {
                    Ok(job) => batch.push(job),
                    Err(error) => tracing::error!(%error, "a simulated job is not valid"),
                }
            }
            drop(orchestrator);
            made += count;
            self.insist(batch).await;
        }
    }

    async fn insist(&self, batch: Vec<NewJob>) {
        loop {
            let answers = self.front.get().await.enqueue_all(batch.clone()).await;
            match answers {
                Ok(answers) => {
                    for answer in answers {
                        if matches!(answer.result, EnqueueResult::Stored(_) | EnqueueResult::Repeat(_)) {
                            self.history.add(Entry::Accepted { job: answer.id });
                            self.accepted.lock().unwrap_or_else(PoisonError::into_inner).push(answer.id);
                        }
                    }
                    return;
                }
                Err(error) => {
                    tracing::info!(%error, "a client tries again");
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Cancels, redrives, approves, pauses and resumes, until a moment.
    pub(crate) async fn meddle(self, until: Instant, mut random: fastrand::Rng) {
        while Instant::now() < until {
            sleep(Duration::from_millis(random.u64(200..3000))).await;
            let Some(orchestrator) = self.front.now() else { continue };
            let Some(job) = random.choice(self.accepted()) else { continue };
            let queue = QueueName::new(QUEUES[random.usize(..QUEUES.len())]);
            let Ok(queue) = queue else { continue };
            let grace = Duration::from_millis(random.u64(..2000));
            let done = match random.u8(..10) {
                0..4 => orchestrator.cancel(job, "the simulated client says so", grace).await.map(drop),
                4..6 => orchestrator.redrive(vec![job]).await.map(drop),
                6 => orchestrator.approve(vec![job]).await.map(drop),
                7 => orchestrator.pause(&queue).await,
                _ => orchestrator.resume(&queue).await,
            };
            if let Err(error) = done {
                tracing::info!(%error, "a client gives up");
            }
        }
    }
}

fn ask(orchestrator: &Orchestrator, id: JobId, random: &mut fastrand::Rng) -> Result<NewJob> {
    let mut script = Script { takes_ms: random.u64(..30), ..Script::default() };
    match random.u8(..20) {
        0..6 => {}
        6..9 => script.takes_ms = random.u64(100..3000),
        9 => script.takes_ms = random.u64(3000..15_000),
        10 | 11 => script.failures = random.u32(1..6),
        12 => script.panics = random.u32(1..3),
        13 => script.snoozes = random.u32(1..4),
        14 => script.kills = random.u32(1..5),
        15 | 16 => (script.prints, script.takes_ms) = (random.u32(1..60), random.u64(..4000)),
        17 | 18 => (script.is_stubborn, script.takes_ms) = (true, random.u64(500..8000)),
        _ => script.gives_up = true,
    }
    match random.u8(..4) {
        0 => asked(orchestrator, Rare(script), id, random),
        1 => asked(orchestrator, Bulky(script), id, random),
        _ => asked(orchestrator, Common(script), id, random),
    }
}

fn asked<J: Job>(
    orchestrator: &Orchestrator,
    job: J,
    id: JobId,
    random: &mut fastrand::Rng,
) -> Result<NewJob> {
    let (first, max) = (Duration::from_millis(100), Duration::from_secs(3));
    let backoff = Backoff::Exponential { first, factor: 2, max };
    let retry = RetryPolicy { max_attempts: random.u32(1..5), backoff, jitter: 0.3 };
    let mut asked = orchestrator
        .enqueue(job)
        .id(id)
        .retry(retry)
        .queue(QUEUES[usize::from(random.u8(..4) == 0)])
        .priority(random.i16(-1..=1));
    if random.u8(..4) == 0 {
        asked = asked.on(if random.bool() { "zone=a" } else { "zone=b" });
    }
    if random.u8(..6) == 0 {
        asked = asked.delay(Duration::from_millis(random.u64(..8000)));
    }
    if random.u8(..10) == 0 {
        asked = asked.give_up_after(Duration::from_millis(random.u64(1000..20_000)));
    }
    if random.u8(..10) == 0 {
        asked = asked.timeout(Duration::from_millis(random.u64(50..3000)));
    }
    if random.u8(..16) == 0 {
        asked = asked.unique(&format!("key-{}", random.u8(..3)));
    }
    if random.u8(..30) == 0 {
        asked = asked.needs_approval();
    }
    asked.build()
}
