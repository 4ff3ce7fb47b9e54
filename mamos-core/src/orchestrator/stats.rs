//! What the engine did since it was built, counted as it goes.
//!
//! A few relaxed additions a job: nothing is locked per job, because jobs that follow each other mostly are
//! of one lane, whose [counts](LaneCounts) the caller keeps at hand.

mod measured;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::measured::Measured;
use self::measured::OPERATIONS;
use crate::job::Outcome;
use crate::job::lane::{Lane, LaneId};
use crate::store::Report;

/// How many pairs of queue and kind are counted apart. Further ones are counted together, so that whoever
/// invents names fills no memory here or in what collects the figures.
const MAX_PAIRS: usize = 1000;
/// How many lanes are remembered. Forgetting them costs a lookup by name.
const MAX_LANES: usize = 10_000;
/// The queue and the kind of jobs beyond [`MAX_PAIRS`], and of lanes that are not known here.
const OTHER: &str = "_other";

/// From a millisecond to an hour: what people wait for.
const JOB_BOUNDS: Bounds = &[
    1_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
];
/// From 50 µs to 10 s: what a store or the dispatcher takes.
const STEP_BOUNDS: Bounds = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];
const OUTCOMES: [&str; 5] = ["succeeded", "retry", "bury", "snooze", "cancelled"];
const VERBS: [&str; 5] = ["started", "progress", "log", "settle", "release"];

/// Upper bounds in microseconds, ascending.
type Bounds = &'static [u64];

/// What an orchestrator did since it was built, and how long that took. Counts only grow.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Jobs that were stored and attempts that ended, by queue and kind. At most 1001: the jobs of further
    /// pairs are counted together, under `_other`.
    pub jobs: Vec<JobStats>,
    /// From when a job could run to when it was claimed.
    pub wait: Spread,
    /// From when an agent said that an attempt started to when its end was on record.
    pub run: Spread,
    /// From when there was work for the dispatcher to when it had handed it out.
    pub dispatch_lag: Spread,
    /// Writes of runs that were no longer current, by what was to be written.
    pub stale_writes: Vec<(&'static str, u64)>,
    /// Operations of the store.
    pub store: Vec<OperationStats>,
}

/// See [`Stats`].
#[derive(Debug, Clone, PartialEq)]
pub struct JobStats {
    /// The queue.
    pub queue: String,
    /// The kind.
    pub kind: String,
    /// How many jobs were stored.
    pub enqueued: u64,
    /// How many attempts ended, by their outcome.
    pub settled: Vec<(&'static str, u64)>,
}

/// See [`Stats`].
#[derive(Debug, Clone, PartialEq)]
pub struct OperationStats {
    /// Its name, for example `claim`.
    pub operation: &'static str,
    /// How long it took, whether it worked or not.
    pub took: Spread,
    /// How often it failed.
    pub errors: u64,
}

/// How often something took how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// Upper bound in seconds and how often it took no longer than that, but longer than the bound before.
    /// The last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// All of them together, in seconds.
    pub sum_seconds: f64,
}

impl Spread {
    /// How often.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tally {
    lanes: Mutex<Lanes>,
    other: Arc<LaneCounts>,
    pub(crate) wait: Histogram,
    pub(crate) run: Histogram,
    pub(crate) dispatch_lag: Histogram,
    stale_writes: [AtomicU64; VERBS.len()],
    operations: [Operation; OPERATIONS.len()],
}

#[derive(Debug, Default)]
struct Lanes {
    by_id: HashMap<LaneId, Arc<LaneCounts>>,
    by_name: HashMap<(String, String), Arc<LaneCounts>>,
}

/// What is counted of one queue and kind.
#[derive(Debug, Default)]
pub(crate) struct LaneCounts {
    pub(crate) enqueued: AtomicU64,
    settled: [AtomicU64; OUTCOMES.len()],
}

#[derive(Debug)]
struct Operation {
    took: Histogram,
    errors: AtomicU64,
}

/// How often something took how long.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Bounds,
    counts: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            lanes: Mutex::default(),
            other: Arc::default(),
            wait: Histogram::new(JOB_BOUNDS),
            run: Histogram::new(JOB_BOUNDS),
            dispatch_lag: Histogram::new(STEP_BOUNDS),
            stale_writes: Default::default(),
            operations: std::array::from_fn(|_| Operation {
                took: Histogram::new(STEP_BOUNDS),
                errors: AtomicU64::new(0),
            }),
        }
    }
}

impl Tally {
    /// The counts of a lane. Keep them while jobs of one lane follow each other.
    pub(crate) fn lane(&self, lane: &Lane) -> Arc<LaneCounts> {
        let mut lanes = self.lock();
        if let Some(counts) = lanes.by_id.get(&lane.id()) {
            return Arc::clone(counts);
        }
        let name = (lane.queue().as_str().to_owned(), lane.kind().as_str().to_owned());
        let is_full = lanes.by_name.len() >= MAX_PAIRS;
        let counts = match lanes.by_name.get(&name) {
            Some(counts) => Arc::clone(counts),
            None if is_full => Arc::clone(&self.other),
            None => Arc::clone(lanes.by_name.entry(name).or_default()),
        };
        if lanes.by_id.len() >= MAX_LANES {
            lanes.by_id.clear();
        }
        lanes.by_id.insert(lane.id(), Arc::clone(&counts));
        counts
    }

    /// The counts of lanes that are not known.
    pub(crate) fn other(&self) -> Arc<LaneCounts> {
        Arc::clone(&self.other)
    }

    /// Counts a write that was refused.
    pub(crate) fn stale_write(&self, report: &Report) {
        let verb = match report {
            Report::Started => 0,
            Report::Progress(_) => 1,
            Report::Log(_) => 2,
            Report::Settle(_) => 3,
            Report::Release => 4,
        };
        self.stale_writes[verb].fetch_add(1, Ordering::Relaxed);
    }

    fn operation(&self, operation: usize, took: Duration, is_error: bool) {
        let operation = &self.operations[operation];
        operation.took.observe(took);
        if is_error {
            operation.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything, as it is now.
    pub(crate) fn read(&self) -> Stats {
        let of = |(queue, kind): (&str, &str), counts: &LaneCounts| JobStats {
            queue: queue.to_owned(),
            kind: kind.to_owned(),
            enqueued: counts.enqueued.load(Ordering::Relaxed),
            settled: named(OUTCOMES, &counts.settled),
        };
        let mut jobs: Vec<JobStats> = {
            let lanes = self.lock();
            lanes.by_name.iter().map(|((queue, kind), counts)| of((queue, kind), counts)).collect()
        };
        jobs.sort_unstable_by(|a, b| (&a.queue, &a.kind).cmp(&(&b.queue, &b.kind)));
        jobs.push(of((OTHER, OTHER), &self.other));
        let operations = OPERATIONS.into_iter().zip(&self.operations);
        Stats {
            jobs,
            wait: self.wait.read(),
            run: self.run.read(),
            dispatch_lag: self.dispatch_lag.read(),
            stale_writes: named(VERBS, &self.stale_writes),
            store: operations
                .map(|(operation, counts)| OperationStats {
                    operation,
                    took: counts.took.read(),
                    errors: counts.errors.load(Ordering::Relaxed),
                })
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneCounts {
    /// Counts an attempt that ended.
    pub(crate) fn settled(&self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Succeeded { .. } => 0,
            Outcome::Retry { .. } => 1,
            Outcome::Bury { .. } => 2,
            Outcome::Snooze { .. } => 3,
            Outcome::Cancelled => 4,
        };
        self.settled[outcome].fetch_add(1, Ordering::Relaxed);
    }
}

impl Histogram {
    fn new(bounds: Bounds) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_micros: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| *bound < micros);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn read(&self) -> Spread {
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let bounds = self.bounds.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Spread {
            buckets: bounds.zip(counts).collect(),
            sum_seconds: seconds(self.sum_micros.load(Ordering::Relaxed)),
        }
    }
}

fn named<const N: usize>(names: [&'static str; N], counts: &[AtomicU64; N]) -> Vec<(&'static str, u64)> {
    names.into_iter().zip(counts).map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
}

/// Wakes the dispatcher, and knows since when it has been asked for.
#[derive(Debug)]
pub(crate) struct Call {
    notify: Notify,
    began: Instant,
    /// Microseconds after `began`, plus one; 0 while nobody asks.
    since: AtomicU64,
}

impl Default for Call {
    fn default() -> Self {
        Self { notify: Notify::new(), began: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl Call {
    /// There may be work.
    pub(crate) fn notify_one(&self) {
        if self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(self.elapsed() + 1, Ordering::Relaxed);
        }
        self.notify.notify_one();
    }

    /// Waits until there may be work.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Answers the call: gives since when it was asked for, for [`Call::lag`].
    pub(crate) fn answer(&self) -> Option<u64> {
        self.since.swap(0, Ordering::Relaxed).checked_sub(1)
    }

    /// How long ago that was.
    pub(crate) fn lag(&self, since: u64) -> Duration {
        Duration::from_micros(self.elapsed().saturating_sub(since))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{JobKind, QueueName};
    use crate::job::labels::Selector;

    fn lane(queue: &str, kind: &str, selector: &str) -> Lane {
        Lane::new(
            QueueName::new(queue).unwrap(),
            JobKind::new(kind).unwrap(),
            selector.parse::<Selector>().unwrap(),
        )
    }

    #[test]
    fn lanes_of_one_queue_and_kind_are_counted_together() {
        let tally = Tally::default();
        tally.lane(&lane("q", "k", "a")).enqueued.fetch_add(2, Ordering::Relaxed);
        tally.lane(&lane("q", "k", "b")).enqueued.fetch_add(3, Ordering::Relaxed);
        tally.lane(&lane("q", "k", "b")).settled(&Outcome::Cancelled);
        let jobs = tally.read().jobs;
        assert_eq!((jobs[0].queue.as_str(), jobs[0].kind.as_str(), jobs[0].enqueued), ("q", "k", 5));
        assert_eq!(jobs[0].settled[4], ("cancelled", 1));
    }

    #[test]
    fn whoever_invents_names_fills_no_memory() {
        let tally = Tally::default();
        for n in 0..3 * MAX_LANES {
            tally.lane(&lane("q", &format!("k{n}"), "")).enqueued.fetch_add(1, Ordering::Relaxed);
        }
        let jobs = tally.read().jobs;
        assert_eq!(jobs.len(), MAX_PAIRS + 1);
        assert_eq!(jobs[MAX_PAIRS].enqueued, (3 * MAX_LANES - MAX_PAIRS) as u64);
        assert!(tally.lock().by_id.len() <= MAX_LANES);
    }

    #[test]
    fn what_took_just_as_long_as_a_bound_counts_for_it() {
        let histogram = Histogram::new(&[10, 20]);
        for micros in [9, 10, 11, 20, 21, 1_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let spread = histogram.read();
        assert_eq!(spread.buckets, [(0.000_01, 2), (0.000_02, 2), (f64::INFINITY, 2)]);
        assert_eq!((spread.count(), spread.sum_seconds), (6, 1.000_071));
    }

    #[tokio::test(start_paused = true)]
    async fn the_lag_counts_from_the_first_of_several_calls() {
        let call = Call::default();
        call.notify_one();
        tokio::time::advance(Duration::from_millis(30)).await;
        call.notify_one();
        call.notified().await;
        let since = call.answer().unwrap();
        assert_eq!(call.lag(since), Duration::from_millis(30));
        assert_eq!(call.answer(), None);
    }
}
