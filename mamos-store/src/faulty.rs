//! A store that fails on purpose, from a seed: for tests of whatever uses a store.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::{Clock, Timestamp};
use mamos_core::hint::{HintListener, Hints};
use mamos_core::id::{AgentId, JobId, QueueName, SessionId, TokenId};
use mamos_core::job::lane::Lane;
use mamos_core::job::{AttemptRecord, CancelRequest, JobRecord, NewJob};
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{
    AgentStore, Attach, Attached, CancelVerdict, ChangeVerdict, ClaimGroup, Claimed, Document,
    DocumentFilter, DocumentStore, DocumentWrite, Enqueued, HeldJob, JobFilter, JobStore, LogPiece, LogStore,
    Page, PageRequest, QueueRecord, QueueStore, Reported, RunWrite, SessionRecord, SessionStore, Store,
    Swept, TokenStore, Written,
};
use mamos_core::{Error, ErrorKind, Result};

/// How often a call of a [`Faulty`] store goes wrong. Probabilities are in `0.0..=1.0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// An error before anything was done. Default: 0.05.
    pub error_before: f64,
    /// An error although it was done: the answer is lost. Default: 0.05.
    pub error_after: f64,
    /// A wait before the call. Default: 0.1.
    pub delay: f64,
    /// The longest wait. Default: 200 ms.
    pub max_delay: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self { error_before: 0.05, error_after: 0.05, delay: 0.1, max_delay: Duration::from_millis(200) }
    }
}

/// How many calls went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Calls in all, those that went well included.
    pub calls: u64,
    /// Errors before anything was done.
    pub errors_before: u64,
    /// Errors although it was done.
    pub errors_after: u64,
    /// Calls that had to wait.
    pub delays: u64,
}

/// Passes every call on to another store, and makes some of them fail or wait.
///
/// Errors are of the kind [`Unavailable`](ErrorKind::Unavailable), which tells the caller that the work
/// may or may not have been done. Of its [hints](Store::hints) some are lost or told twice. With the same seed and the same order of calls the same calls fail.
pub struct Faulty<S> {
    inner: S,
    clock: Option<Arc<dyn Clock>>,
    faults: Arc<Injected>,
}

/// What goes wrong, at the store and at its hints.
struct Injected {
    is_on: AtomicBool,
    dice: Mutex<Dice>,
}

struct Dice {
    faults: Faults,
    random: fastrand::Rng,
    counts: FaultCounts,
}

/// What will happen to one call.
struct Fate {
    delay: Option<Duration>,
    fails_before: bool,
    fails_after: bool,
}

impl<S: Store> Faulty<S> {
    /// A store that fails as often as `faults` say, decided by `seed`.
    pub fn new(inner: S, faults: Faults, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let dice = Mutex::new(Dice { faults, random, counts: FaultCounts::default() });
        Self { inner, clock: None, faults: Arc::new(Injected { is_on: AtomicBool::new(true), dice }) }
    }

    /// Shows this clock as that of the server that keeps the data. Default: what the store behind shows.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Switches all faults off or on again. They are on at first.
    pub fn set_faults(&self, is_on: bool) {
        self.faults.is_on.store(is_on, Ordering::Relaxed);
    }

    /// What was injected so far.
    pub fn counts(&self) -> FaultCounts {
        self.faults.dice().counts
    }

    /// The store behind, which does not fail.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    async fn through<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let fate = self.faults.fate();
        if let Some(delay) = fate.delay {
            tokio::time::sleep(delay).await;
        }
        let injected = |message| Err(Error::new(ErrorKind::Unavailable, operation, message));
        if fate.fails_before {
            return injected("injected fault: nothing was done; try again");
        }
        let answer = call.await?;
        if fate.fails_after {
            return injected("injected fault: the answer was lost; try again");
        }
        Ok(answer)
    }
}

impl Injected {
    fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> Fate {
        let mut dice = self.dice();
        let Dice { faults, random, counts } = &mut *dice;
        counts.calls += 1;
        if !self.is_on.load(Ordering::Relaxed) {
            return Fate { delay: None, fails_before: false, fails_after: false };
        }
        let delay = (random.f64() < faults.delay).then(|| faults.max_delay.mul_f64(random.f64()));
        let fails_before = random.f64() < faults.error_before;
        let fails_after = !fails_before && random.f64() < faults.error_after;
        counts.delays += u64::from(delay.is_some());
        counts.errors_before += u64::from(fails_before);
        counts.errors_after += u64::from(fails_after);
        Fate { delay, fails_before, fails_after }
    }
}

/// Hints of a store that fails: some are lost without a word, some are told twice, and the teller may hear
/// of an error either way.
struct FaultyHints {
    inner: Arc<dyn Hints>,
    faults: Arc<Injected>,
}

#[async_trait]
impl Hints for FaultyHints {
    async fn tell(&self, hints: Vec<Bytes>) -> Result<()> {
        let failed = || Err(Error::new(ErrorKind::Unavailable, "hints.tell", "injected fault"));
        for hint in hints {
            let fate = self.faults.fate();
            match (fate.fails_before, fate.fails_after) {
                (true, _) if fate.delay.is_some() => return failed(),
                (true, _) => {}
                (_, true) => {
                    self.inner.tell(vec![hint.clone(), hint]).await?;
                    if fate.delay.is_some() {
                        return failed();
                    }
                }
                _ => self.inner.tell(vec![hint]).await?,
            }
        }
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn HintListener>> {
        self.inner.listen().await
    }

    fn describe(&self) -> String {
        format!("{} (faulty)", self.inner.describe())
    }
}

impl fmt::Debug for FaultyHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyHints({})", self.inner.describe())
    }
}

impl<S: Store> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("inner", &self.inner.describe())
            .field("is_on", &self.faults.is_on)
            .field("counts", &self.counts())
            .finish()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Faulty<S> {
    fn describe(&self) -> String {
        format!("{} (faulty)", self.inner.describe())
    }

    async fn time(&self) -> Result<Option<Timestamp>> {
        let shown = async {
            match &self.clock {
                Some(clock) => Ok(Some(clock.now())),
                None => self.inner.time().await,
            }
        };
        self.through("store.time", shown).await
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        Some(Arc::new(FaultyHints { inner: self.inner.hints()?, faults: Arc::clone(&self.faults) }))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> JobStore for Faulty<S> {
    async fn enqueue(&self, jobs: Vec<NewJob>, now: Timestamp) -> Result<Vec<Enqueued>> {
        self.through("store.enqueue", self.inner.enqueue(jobs, now)).await
    }

    async fn claim(&self, groups: Vec<ClaimGroup>, now: Timestamp) -> Result<Claimed> {
        self.through("store.claim", self.inner.claim(groups, now)).await
    }

    async fn report(&self, writes: Vec<RunWrite>, now: Timestamp) -> Result<Vec<Reported>> {
        self.through("store.report", self.inner.report(writes, now)).await
    }

    async fn sweep(&self, limit: u32, now: Timestamp) -> Result<Swept> {
        self.through("store.sweep", self.inner.sweep(limit, now)).await
    }

    async fn cancel(
        &self,
        jobs: Vec<JobId>,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Vec<CancelVerdict>> {
        self.through("store.cancel", self.inner.cancel(jobs, request, now)).await
    }

    async fn redrive(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.through("store.redrive", self.inner.redrive(jobs, now)).await
    }

    async fn approve(&self, jobs: Vec<JobId>, now: Timestamp) -> Result<Vec<ChangeVerdict>> {
        self.through("store.approve", self.inner.approve(jobs, now)).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>> {
        self.through("store.job", self.inner.job(id)).await
    }

    async fn jobs(&self, filter: JobFilter, page: PageRequest) -> Result<Page<JobRecord>> {
        self.through("store.jobs", self.inner.jobs(filter, page)).await
    }

    async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        self.through("store.attempts", self.inner.attempts(id)).await
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u32> {
        self.through("store.prune", self.inner.prune(before, limit)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> LogStore for Faulty<S> {
    async fn log(&self, run: RunRef, offset: u64, max_bytes: u32) -> Result<Vec<LogPiece>> {
        self.through("store.log", self.inner.log(run, offset, max_bytes)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> QueueStore for Faulty<S> {
    async fn queues(&self) -> Result<Vec<QueueRecord>> {
        self.through("store.queues", self.inner.queues()).await
    }

    async fn set_paused(&self, queue: &QueueName, is_paused: bool) -> Result<()> {
        self.through("store.set_paused", self.inner.set_paused(queue, is_paused)).await
    }

    async fn ready_lanes(&self) -> Result<Vec<Arc<Lane>>> {
        self.through("store.ready_lanes", self.inner.ready_lanes()).await
    }

    async fn paused_queues(&self) -> Result<Vec<QueueName>> {
        self.through("store.paused_queues", self.inner.paused_queues()).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> SessionStore for Faulty<S> {
    async fn attach(&self, request: Attach, now: Timestamp) -> Result<Attached> {
        self.through("store.attach", self.inner.attach(request, now)).await
    }

    async fn renew(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.through("store.renew", self.inner.renew(sessions, ttl, now)).await
    }

    async fn adopt(&self, sessions: Vec<SessionRef>, ttl: Duration, now: Timestamp) -> Result<Vec<Verdict>> {
        self.through("store.adopt", self.inner.adopt(sessions, ttl, now)).await
    }

    async fn detach(&self, session: SessionRef, now: Timestamp) -> Result<Verdict> {
        self.through("store.detach", self.inner.detach(session, now)).await
    }

    async fn held(&self, session: SessionId) -> Result<Vec<HeldJob>> {
        self.through("store.held", self.inner.held(session)).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>> {
        self.through("store.session", self.inner.session(id)).await
    }

    async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        self.through("store.sessions", self.inner.sessions()).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> AgentStore for Faulty<S> {
    async fn agent(&self, id: &AgentId) -> Result<Option<AgentRecord>> {
        self.through("store.agent", self.inner.agent(id)).await
    }

    async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>> {
        self.through("store.agents", self.inner.agents(page)).await
    }

    async fn update_agent(&self, agent: AgentRecord, revision: u64, now: Timestamp) -> Result<AgentRecord> {
        self.through("store.update_agent", self.inner.update_agent(agent, revision, now)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> TokenStore for Faulty<S> {
    async fn create_token(&self, token: RegistrationToken) -> Result<()> {
        self.through("store.create_token", self.inner.create_token(token)).await
    }

    async fn redeem(&self, hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> Result<AgentRecord> {
        self.through("store.redeem", self.inner.redeem(hash, agent, now)).await
    }

    async fn tokens(&self) -> Result<Vec<RegistrationToken>> {
        self.through("store.tokens", self.inner.tokens()).await
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool> {
        self.through("store.revoke_token", self.inner.revoke_token(id)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> DocumentStore for Faulty<S> {
    async fn document(&self, collection: &str, key: &str, now: Timestamp) -> Result<Option<Document>> {
        self.through("store.document", self.inner.document(collection, key, now)).await
    }

    async fn write_documents(&self, writes: Vec<DocumentWrite>, now: Timestamp) -> Result<Vec<Written>> {
        self.through("store.write_documents", self.inner.write_documents(writes, now)).await
    }

    async fn documents(
        &self,
        filter: DocumentFilter,
        page: PageRequest,
        now: Timestamp,
    ) -> Result<Page<Document>> {
        self.through("store.documents", self.inner.documents(filter, page, now)).await
    }

    async fn prune_documents(&self, now: Timestamp, limit: u32) -> Result<u32> {
        self.through("store.prune_documents", self.inner.prune_documents(now, limit)).await
    }
}
