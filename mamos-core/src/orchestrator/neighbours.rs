//! The other orchestrators on the same store: who is there, what they are told, and what they tell.
//!
//! There is no leader. Each serves the agents that are connected to it, and claims from the one store what
//! they can run. What one of them learns that another may want to know, it [tells](tell) as a hint;
//! whoever [hears](listen) one looks at the store. All of it can be lost: the store is the truth, and
//! everybody looks at it every now and then.

mod hint;
mod listen;
mod state;
mod tell;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(crate) use self::hint::hint_of_lanes;
use self::hint::{Hint, Life};
pub(crate) use self::listen::listen;
use self::state::State;
pub(crate) use self::tell::tell;
use crate::hint::Hints;
use crate::id::{AgentId, JobId, JobKind, QueueName, SessionId};
use crate::job::lane::LaneId;

/// How long an answer waits for its hint to be told, before it is given without.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// What carries the hints. Without, this orchestrator knows of no others, and tells nobody.
    hints: Option<Arc<dyn Hints>>,
    life: Life,
    state: Mutex<State>,
    /// Something has to be told.
    news: Notify,
    /// How often what had to be told was told.
    told: watch::Sender<u64>,
    /// Read without the lock on the hot path: how many neighbours there are, and how many jobs they watch.
    count: AtomicUsize,
    watched: AtomicUsize,
    /// Does this orchestrator hand out jobs? One that does not cannot know who is there, and tells all.
    is_running: AtomicBool,
    /// Somebody does not know yet that this one is there.
    owes_greeting: AtomicBool,
}

impl Neighbours {
    pub(crate) fn new(hints: Option<Arc<dyn Hints>>, life: Life) -> Self {
        Self {
            hints,
            life,
            state: Mutex::default(),
            news: Notify::new(),
            told: watch::Sender::new(0),
            count: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
            is_running: AtomicBool::new(false),
            owes_greeting: AtomicBool::new(false),
        }
    }

    /// Can they be told anything at all?
    pub(crate) fn can_be_told(&self) -> bool {
        self.hints.is_some()
    }

    /// It hands out jobs from now on, or no more.
    pub(crate) fn set_running(&self, is_running: bool) {
        self.is_running.store(is_running, Ordering::SeqCst);
        self.greet();
    }

    /// Does this orchestrator hand out jobs?
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::SeqCst)
    }

    /// Is anybody there who would want to hear something?
    pub(crate) fn are_there(&self) -> bool {
        self.can_be_told() && (self.count.load(Ordering::Relaxed) > 0 || !self.is_running())
    }

    /// For which kinds of jobs neighbours have free slots, and how many.
    pub(crate) fn idle(&self) -> BTreeMap<JobKind, u32> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return BTreeMap::new();
        }
        self.state().idle()
    }

    /// These lanes have more ready jobs than there are free slots here.
    pub(crate) fn lanes(&self, lanes: Vec<LaneId>) {
        self.add(Hint::Lanes(lanes));
    }

    /// This queue goes on.
    pub(crate) fn queue(&self, queue: QueueName) {
        self.add(Hint::Queues(vec![queue]));
    }

    /// Somebody here wants to hear of this job.
    pub(crate) fn watch(&self, jobs: Vec<JobId>) {
        self.add(Hint::Watched(jobs));
    }

    /// These sessions ended or moved, or hold a job that is to be cancelled.
    pub(crate) fn sessions(&self, sessions: Vec<SessionId>) {
        self.add(Hint::Sessions(sessions));
    }

    /// This agent was changed by an operator.
    pub(crate) fn agent(&self, agent: AgentId) {
        self.add(Hint::Agents(vec![agent]));
    }

    /// Something happened to these jobs. Costs next to nothing while nobody is there, and one lock otherwise.
    pub(crate) fn happened(&self, jobs: impl Iterator<Item = JobId>) {
        if self.count.load(Ordering::Relaxed) == 0 && self.watched.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.state().happened(jobs) {
            self.news.notify_one();
        }
    }

    /// Waits until what has to be told by now is told, but not long: it is a hint.
    pub(crate) async fn flushed(&self) {
        if !self.are_there() {
            return;
        }
        let mut told = self.told.subscribe();
        // What is being told right now may have been taken before.
        let enough = told.borrow_and_update().saturating_add(2);
        self.news.notify_one();
        let _ = tokio::time::timeout(TOLD_WITHIN, async {
            while told.changed().await.is_ok() && *told.borrow_and_update() < enough {
                self.news.notify_one();
            }
        })
        .await;
    }

    /// Somebody must hear what this one says of itself, before its time.
    fn greet(&self) {
        self.owes_greeting.store(true, Ordering::SeqCst);
        self.news.notify_one();
    }

    fn take_greeting(&self) -> bool {
        self.owes_greeting.swap(false, Ordering::SeqCst)
    }

    fn add(&self, hint: Hint) {
        if self.are_there() {
            self.state().add(hint);
            self.news.notify_one();
        }
    }

    /// Forgets who was not heard of for long.
    fn forget_gone(&self) {
        let mut state = self.state();
        self.count.store(state.forget_gone(Instant::now()), Ordering::Relaxed);
        // Or a job that was watched once would cost every later one a lock.
        self.watched.store(state.watched_count(), Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its methods leave it consistent between statements, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
