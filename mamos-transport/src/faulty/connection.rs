//! One end of a connection with faults.
//!
//! Losing happens when a frame is sent, the rest when it arrives: frames wait in order of the moment at
//! which they are due. So nothing has to run in the background.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::auth::Binding;
use mamos_core::transport::{Connection, Frame};
use mamos_core::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::{FaultPlan, Side, lock};

/// The most frames on their way; beyond that the inner connection fills up, and the sender waits.
const MAX_ON_THE_WAY: usize = 256;
/// How long an overtaken frame is held back, at the most.
const HOLD: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct FaultyConnection {
    inner: Arc<dyn Connection>,
    side: Side,
    plan: FaultPlan,
    sending: Mutex<fastrand::Rng>,
    arriving: Mutex<Arriving>,
    /// Fires when this connection is cut, alone or with all others.
    cut: CancellationToken,
    is_cut_counted: AtomicBool,
}

#[derive(Debug)]
struct Arriving {
    random: fastrand::Rng,
    on_the_way: BTreeMap<(Instant, u64), Frame>,
    last_number: u64,
    last_due: Instant,
    has_ended: bool,
}

impl FaultyConnection {
    pub(super) fn new(inner: Arc<dyn Connection>, side: Side, plan: FaultPlan) -> Self {
        let mut random = plan.random();
        let arriving = Arriving {
            random: random.fork(),
            on_the_way: BTreeMap::new(),
            last_number: 0,
            last_due: Instant::now(),
            has_ended: false,
        };
        let cut = plan.cut();
        Self {
            inner,
            side,
            plan,
            sending: Mutex::new(random),
            arriving: Mutex::new(arriving),
            cut,
            is_cut_counted: AtomicBool::new(false),
        }
    }

    async fn cut_off(&self) -> Error {
        self.cut.cancel();
        if !self.is_cut_counted.swap(true, Ordering::Relaxed) {
            self.plan.count(|counts| counts.cut += 1);
        }
        self.inner.close().await;
        Error::new(ErrorKind::Unavailable, "faulty", "the connection was cut: an injected fault")
    }

    /// Rolls all dice of a frame that is sent, always in the same order.
    fn fate(&self) -> Fate {
        let faults = self.plan.faults();
        let mut random = lock(&self.sending);
        let (cut, lost) = (random.f64() < faults.cut, random.f64() < faults.lose);
        match (cut, lost || faults.mutes(self.side)) {
            (true, _) => Fate::Cut,
            (false, true) => Fate::Lost,
            (false, false) => Fate::Sent,
        }
    }

    fn arrived(&self, frame: Frame) {
        let faults = self.plan.faults();
        let mut arriving = lock(&self.arriving);
        let twice = arriving.random.f64() < faults.duplicate;
        if twice {
            self.plan.count(|counts| counts.duplicated += 1);
            arriving.put(frame.clone(), faults.delay, None);
        }
        let overtaken = arriving.random.f64() < faults.reorder;
        let hold = arriving.random.f64();
        if overtaken {
            self.plan.count(|counts| counts.reordered += 1);
        }
        arriving.put(frame, faults.delay, overtaken.then(|| HOLD.mul_f64(hold)));
    }
}

enum Fate {
    Sent,
    Lost,
    Cut,
}

impl Arriving {
    fn put(&mut self, frame: Frame, delay: Duration, hold: Option<Duration>) {
        let due = Instant::now() + delay.mul_f64(self.random.f64());
        let due = match hold {
            Some(hold) => due + hold,
            None => {
                self.last_due = self.last_due.max(due);
                self.last_due
            }
        };
        self.last_number += 1;
        self.on_the_way.insert((due, self.last_number), frame);
    }

    fn take_due(&mut self, now: Instant) -> Option<Frame> {
        let first = self.on_the_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[async_trait]
impl Connection for FaultyConnection {
    async fn send(&self, frame: Frame) -> Result<()> {
        match self.fate() {
            Fate::Cut => Err(self.cut_off().await),
            Fate::Lost => {
                self.plan.count(|counts| counts.lost += 1);
                Ok(())
            }
            Fate::Sent => tokio::select! {
                biased;
                () = self.cut.cancelled() => Err(self.cut_off().await),
                sent = self.inner.send(frame) => sent,
            },
        }
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        loop {
            let (next_due, is_full, has_ended) = {
                let mut arriving = lock(&self.arriving);
                if let Some(frame) = arriving.take_due(Instant::now()) {
                    return Ok(Some(frame));
                }
                let next_due = arriving.on_the_way.first_key_value().map(|((due, _), _)| *due);
                (next_due, arriving.on_the_way.len() >= MAX_ON_THE_WAY, arriving.has_ended)
            };
            if has_ended && next_due.is_none() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return Err(self.cut_off().await),
                received = self.inner.receive(), if !is_full && !has_ended => match received? {
                    Some(frame) => self.arrived(frame),
                    None => lock(&self.arriving).has_ended = true,
                },
                () = tokio::time::sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {}
            }
        }
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn is_reliable(&self) -> bool {
        false
    }

    fn binding(&self) -> Option<Binding> {
        self.inner.binding()
    }

    fn peer(&self) -> String {
        self.inner.peer()
    }
}
