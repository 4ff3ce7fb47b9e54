//! All that a simulation has: a store, thrones with one orchestrator after the other, agents, clients.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::auth::Secret;
use mamos_core::clock::{Clock, SimulatedClock, Timestamp};
use mamos_core::orchestrator::TokenScope;
use mamos_core::store::PageRequest;
use mamos_core::{Orchestrator, Result, Store};
use mamos_store::MemoryStore;
use mamos_store::broken::{Broken, Flaw};
use mamos_store::faulty::{Faults, Faulty};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clients::{Clients, Front};
use crate::crew::Sailor;
use crate::history::History;
use crate::jobs::Stage;
use crate::recorder::Recorder;
use crate::roads::Gate;

/// When all simulations begin: 2026-01-01.
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
/// The lease of a session. Short, so that it is lost and resumed often.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(6);

type Storage = Faulty<Faulty<Recorder>>;

pub(crate) struct World {
    pub(crate) random: fastrand::Rng,
    pub(crate) clock: SimulatedClock,
    /// The outer one fails now and then, the inner one in bursts.
    pub(crate) store: Arc<Storage>,
    /// The same without faults.
    pub(crate) honest: Arc<dyn Store>,
    pub(crate) stage: Stage,
    pub(crate) killed: mpsc::UnboundedReceiver<String>,
    pub(crate) gate: Gate,
    pub(crate) clients: Clients,
    pub(crate) token: Secret,
    /// One to three orchestrators at once, each the successor of another.
    pub(crate) thrones: Vec<Throne>,
    /// Those that were replaced before they ended.
    pub(crate) former: Vec<Reign>,
    pub(crate) crew: Vec<Sailor>,
    _directory: tempfile::TempDir,
}

/// Where one orchestrator is after the other.
pub(crate) struct Throne {
    pub(crate) present: Option<Reign>,
    /// That of its machine: nobody set it.
    clock: SimulatedClock,
}

/// An orchestrator while it runs.
pub(crate) struct Reign {
    orchestrator: Orchestrator,
    task: JoinHandle<Result<()>>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl World {
    pub(crate) async fn new(seed: u64, flaw: Option<Flaw>) -> anyhow::Result<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let history = History::default();
        let honest: Arc<dyn Store> = match flaw {
            Some(flaw) => Arc::new(Broken::new(MemoryStore::new(), flaw)),
            None => Arc::new(MemoryStore::new()),
        };
        let recorder = Recorder::new(Arc::clone(&honest), history.clone());
        let burst = Faults {
            error_before: 0.3,
            error_after: 0.3,
            delay: 0.5,
            max_delay: Duration::from_millis(random.u64(1..2000)),
        };
        let chance = random.f64() * 0.06;
        let steady = Faults {
            error_before: chance,
            error_after: chance,
            delay: random.f64() * 0.3,
            max_delay: Duration::from_millis(random.u64(1..100)),
        };
        let inner = Faulty::new(recorder, burst, random.u64(..));
        inner.set_faults(false);
        let clock = SimulatedClock::starting_at(START);
        let count = *random.choice(&[1, 1, 2, 3]).unwrap_or(&1);
        let mut store = Faulty::new(inner, steady, random.u64(..));
        let mut clocks = vec![clock.clone(); count];
        if count > 1 {
            // Machines that share a store align their clocks with it, and need to: theirs are hours off.
            store = store.with_clock(Arc::new(clock.clone()));
            let off = |random: &mut fastrand::Rng| Duration::from_secs(random.u64(..7200));
            for clock in &mut clocks {
                let start = if random.bool() { START + off(&mut random) } else { START - off(&mut random) };
                *clock = SimulatedClock::starting_at(start);
            }
        }
        let store = Arc::new(store);
        store.set_faults(false);
        let (stage, killed) = Stage::new(history.clone());
        let (gate, front) = (Gate::default(), Front::default());
        let directory = directory()?;
        let mut crew = Vec::new();
        for number in 0..random.usize(2..=5) {
            let own = directory.path().join(number.to_string());
            std::fs::create_dir(&own)?;
            crew.push(Sailor::new(number, &gate, own, &mut random)?);
        }
        let clients = Clients { seed, front, history, accepted: Arc::default() };
        let mut world = Self {
            random,
            clock,
            store,
            honest,
            stage,
            killed,
            gate,
            clients,
            token: Secret::new(""),
            thrones: clocks.into_iter().map(|clock| Throne { present: None, clock }).collect(),
            former: Vec::new(),
            crew,
            _directory: directory,
        };
        for throne in 0..world.thrones.len() {
            world.crown(throne)?;
        }
        let orchestrator = world.clients.front.get().await;
        let scope = TokenScope { uses: 100, ..TokenScope::once(Duration::from_secs(86_400)) };
        (_, world.token) = orchestrator.create_token(scope).await?;
        world.store.set_faults(random_bool(&mut world.random, 0.9));
        for number in 0..world.crew.len() {
            world.start_agent(number)?;
        }
        Ok(world)
    }

    /// Starts an orchestrator. One that reigned until now goes on without anybody coming to it.
    pub(crate) fn crown(&mut self, throne: usize) -> Result<()> {
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        let orchestrator = Orchestrator::builder(store)
            .listener(self.gate.open(throne))
            .name(format!("orchestrator-{throne}"))
            .clock(Arc::new(self.thrones[throne].clock.clone()))
            .seed(self.random.u64(..))
            .lease_ttl(LEASE_TTL)
            .heartbeat_every(LEASE_TTL / 3)
            .sweep_every(Duration::from_secs(1))
            .prefetch(self.random.u32(0..4))
            .keep_ended(None)
            .build()?;
        let (shutdown, asked) = oneshot::channel::<()>();
        let running = orchestrator.clone();
        let task = tokio::spawn(async move {
            let asked = async {
                if asked.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            running.run(asked).await
        });
        self.clients.front.set(throne, Some(orchestrator.clone()));
        let reign = Reign { orchestrator, task, shutdown: Some(shutdown) };
        self.former.extend(self.thrones[throne].present.replace(reign));
        Ok(())
    }

    /// Kills the orchestrator. One that is silent leaves its connections open, as a machine does that
    /// loses its power.
    pub(crate) async fn depose(&mut self, throne: usize, is_silent: bool) {
        let Some(reign) = self.thrones[throne].present.take() else { return };
        self.clients.front.set(throne, None);
        self.gate.close(throne, is_silent);
        reign.kill().await;
    }

    /// Asks the orchestrator to stop, and waits for that. Gives whether it did in time.
    pub(crate) async fn retire(&mut self, throne: usize) -> bool {
        let Some(reign) = self.thrones[throne].present.take() else { return true };
        self.clients.front.set(throne, None);
        let is_over = reign.retire().await;
        self.gate.close(throne, false);
        is_over
    }

    /// Lets agents take work again, by their names.
    pub(crate) async fn undrain(&self, is_meant: impl Fn(&str) -> bool) -> Result<()> {
        for mut agent in self.honest.agents(PageRequest::first(1000)).await?.items {
            if agent.is_draining && is_meant(&agent.profile.name) {
                let revision = agent.revision;
                agent.is_draining = false;
                self.honest.update_agent(agent, revision, self.clock.now()).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn start_agent(&mut self, number: usize) -> Result<()> {
        self.crew[number].start(&self.stage, &self.token, &self.clock)
    }
}

impl Reign {
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        drop(self.orchestrator);
    }

    /// Asks it to stop. Gives whether it did so within a minute, without an error.
    pub(crate) async fn retire(mut self) -> bool {
        if let Some(shutdown) = self.shutdown.take() {
            // Fails if it ended by itself.
            let _ = shutdown.send(());
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), &mut self.task).await;
        matches!(ended, Ok(Ok(Ok(()))))
    }
}

pub(crate) fn random_bool(random: &mut fastrand::Rng, chance: f64) -> bool {
    random.f64() < chance
}

/// In memory where the system offers that: journals of simulated agents need no disk.
fn directory() -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("mamos-sim-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir())
}
