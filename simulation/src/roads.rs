//! The network between simulated agents and the orchestrator of the moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mamos_core::transport::{Connection, Connector, Listener};
use mamos_core::{Error, ErrorKind, Result};
use mamos_transport::encoded::{self, Writing};
use mamos_transport::faulty::{self, FaultPlan, Side};
use mamos_transport::memory;
use tokio::sync::mpsc;

/// How many frames a connection holds in one direction.
const CAPACITY: usize = 16;

/// Where agents knock. Behind each of its doors is one orchestrator after the other, or nobody; whoever
/// knocks is sent to one door after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    doors: BTreeMap<usize, Behind>,
    last: usize,
    silent: Vec<Arc<dyn Connection>>,
}

/// What is behind a door.
#[derive(Debug)]
struct Behind {
    door: mpsc::UnboundedSender<Arc<dyn Connection>>,
    /// The orchestrator's ends of connections, so that a machine can go silent without closing them.
    ends: Vec<Arc<dyn Connection>>,
}

impl Gate {
    /// A listener for a new orchestrator: whoever is sent to that door from now on comes here.
    pub(crate) fn open(&self, number: usize) -> Door {
        let (door, receiver) = mpsc::unbounded_channel();
        let mut inside = self.inside();
        let ends = inside.doors.remove(&number).map(|before| before.ends).unwrap_or_default();
        inside.doors.insert(number, Behind { door, ends });
        Door(tokio::sync::Mutex::new(receiver))
    }

    /// Nobody is there any more. A machine that goes silent does not even close its connections.
    pub(crate) fn close(&self, number: usize, is_silent: bool) {
        let mut inside = self.inside();
        let ends = inside.doors.remove(&number).map(|behind| behind.ends).unwrap_or_default();
        if is_silent {
            inside.silent.extend(ends);
        } else {
            drop(inside);
            drop(ends);
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The orchestrator's side of the gate.
#[derive(Debug)]
pub(crate) struct Door(tokio::sync::Mutex<mpsc::UnboundedReceiver<Arc<dyn Connection>>>);

#[async_trait]
impl Listener for Door {
    async fn accept(&self) -> Result<Arc<dyn Connection>> {
        match self.0.lock().await.recv().await {
            Some(connection) => Ok(connection),
            // A newer orchestrator took the gate over: nobody comes here any more.
            None => std::future::pending().await,
        }
    }

    fn describe(&self) -> String {
        "the simulated gate".to_owned()
    }
}

/// An agent's way to the gate, with faults of its own.
#[derive(Debug, Clone)]
pub(crate) struct Road {
    pub(crate) gate: Gate,
    pub(crate) plan: FaultPlan,
    pub(crate) writing: Writing,
}

#[async_trait]
impl Connector for Road {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        let nobody = || Error::new(ErrorKind::Unavailable, "road.connect", "nobody answers");
        if self.plan.faults().refuse_connections {
            return Err(nobody());
        }
        let (ours, theirs) = memory::connected(CAPACITY);
        let end =
            |inner, side| encoded::connection(faulty::connection(inner, side, &self.plan), self.writing);
        let (ours, theirs) = (end(ours, Side::Agent), end(theirs, Side::Orchestrator));
        let mut inside = self.gate.inside();
        let next = inside.doors.range(inside.last + 1..).chain(inside.doors.range(..=inside.last)).next();
        let number = next.map(|(number, _)| *number).ok_or_else(nobody)?;
        inside.last = number;
        let behind = inside.doors.get_mut(&number).ok_or_else(nobody)?;
        behind.door.send(Arc::clone(&theirs)).map_err(|_| nobody())?;
        behind.ends.push(theirs);
        Ok(ours)
    }

    fn describe(&self) -> String {
        "the simulated gate".to_owned()
    }
}
