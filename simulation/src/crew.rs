//! The simulated agents: each lives, is cut off, dies and lives again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::{AgentHandle, AgentRuntime, Identity, Journal, StopReason, WhenCutOff};
use mamos_core::agent::AgentProfile;
use mamos_core::auth::{KeyPair, Secret};
use mamos_core::clock::SimulatedClock;
use mamos_core::id::InstanceId;
use mamos_core::job::labels::Labels;
use mamos_core::{AgentKind, Result};
use mamos_transport::encoded::Writing;
use mamos_transport::faulty::FaultPlan;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::history::Entry;
use crate::jobs::Stage;
use crate::roads::{Gate, Road};

/// One agent, through all its lives.
pub(crate) struct Sailor {
    pub(crate) plan: FaultPlan,
    number: usize,
    profile: AgentProfile,
    /// What its disk holds. It is kept by the agents without a journal as well.
    identity: Identity,
    road: Road,
    /// Where its journal is; an agent without one forgets.
    directory: Option<PathBuf>,
    when_cut_off: WhenCutOff,
    random: fastrand::Rng,
    lives: u32,
    life: Option<Life>,
}

struct Life {
    name: String,
    task: JoinHandle<()>,
    handle: AgentHandle,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Sailor {
    pub(crate) fn new(
        number: usize,
        gate: &Gate,
        directory: PathBuf,
        random: &mut fastrand::Rng,
    ) -> Result<Self> {
        let mut profile = AgentProfile::new(AgentKind::new("sim")?, format!("agent-{number}"));
        // The first two can do everything between them, so that no job waits for an agent that cannot come.
        let rare =
            if number < 2 || random.bool() { &["sim.common", "sim.rare"][..] } else { &["sim.common"] };
        for kind in rare.iter().chain(&["sim.bulky"]) {
            profile.kinds.push(kind.parse()?);
        }
        let zone = if number.is_multiple_of(2) { "a" } else { "b" };
        profile.labels = Labels::new([("zone", zone)])?;
        profile.slots = random.u32(1..=4);
        let plan = FaultPlan::new(random.u64(..));
        let writing =
            *random.choice(&[Writing::Binary, Writing::Text, Writing::Alternating]).unwrap_or(&Writing::Text);
        let road = Road { gate: gate.clone(), plan: plan.clone(), writing };
        let when_cut_off = if random.u8(..4) == 0 { WhenCutOff::Stop } else { WhenCutOff::KeepRunning };
        let has_journal = random.u8(..3) > 0;
        let key = KeyPair::from_seed(std::array::from_fn(|_| random.u8(..)))?;
        Ok(Self {
            number,
            profile,
            identity: Identity::new(key, life_id(number, 0)),
            road,
            plan,
            directory: has_journal.then_some(directory),
            when_cut_off,
            random: random.fork(),
            lives: 0,
            life: None,
        })
    }

    /// Begins its next life, unless it lives.
    pub(crate) fn start(&mut self, stage: &Stage, token: &Secret, clock: &SimulatedClock) -> Result<()> {
        if self.life.as_ref().is_some_and(|life| !life.task.is_finished()) {
            return Ok(());
        }
        self.lives += 1;
        self.remember();
        self.identity.begin_life(life_id(self.number, self.lives));
        let name = format!("agent-{}#{}", self.number, self.lives);
        let handlers = stage.handlers(&self.profile, &name)?.clock(Arc::new(clock.clone()));
        let mut builder = AgentRuntime::builder(Arc::new(handlers), Arc::new(self.road.clone()))
            .registration(token.clone())
            .identity(self.identity.clone())
            .clock(Arc::new(clock.clone()))
            .seed(self.random.u64(..))
            .when_cut_off(self.when_cut_off)
            .drain_timeout(Duration::from_secs(2))
            .cancel_grace(Duration::from_secs(1))
            .connect_timeout(Duration::from_millis(self.random.u64(300..4000)))
            .stable_after(Duration::from_secs(5));
        if let Some(directory) = &self.directory {
            builder = builder.journal(Journal::open(directory.join("agent.journal"))?.inline());
        }
        let runtime = builder.build()?;
        let handle = runtime.handle();
        stage.history.add(Entry::Slots { agent: name.clone(), slots: self.profile.slots });
        let (shutdown, asked) = oneshot::channel::<()>();
        let (history, agent) = (stage.history.clone(), name.clone());
        let task = tokio::spawn(async move {
            let asked = async {
                if asked.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            match runtime.run(asked).await {
                Ok(stopped) if stopped.reason == StopReason::Shutdown => {}
                Ok(stopped) => tracing::info!(?stopped, "an agent was drained"),
                Err(error) => history.add(Entry::AgentGaveUp { agent, why: error.to_string() }),
            }
        });
        self.life = Some(Life { name, task, handle, shutdown: Some(shutdown) });
        Ok(())
    }

    /// Ends its life at once, with all that it runs.
    pub(crate) async fn kill(&mut self, stage: &Stage) {
        self.remember();
        let Some(life) = self.life.take() else { return };
        life.task.abort();
        let _ = life.task.await;
        stage.history.add(Entry::AgentDied { agent: life.name });
    }

    /// What the last life knew of itself is on disk.
    fn remember(&mut self) {
        if let Some(life) = &self.life {
            self.identity = life.handle.identity();
        }
    }

    /// Asks it to stop, and does not wait for that.
    pub(crate) fn stop(&mut self) {
        if let Some(shutdown) = self.life.as_mut().and_then(|life| life.shutdown.take()) {
            // Fails if it ended by itself.
            let _ = shutdown.send(());
        }
    }

    /// Has its life ended?
    pub(crate) fn is_gone(&self) -> bool {
        self.life.as_ref().is_none_or(|life| life.task.is_finished())
    }

    /// Was it asked to stop?
    pub(crate) fn is_stopping(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.shutdown.is_none())
    }

    /// The name of its present life.
    pub(crate) fn life(&self) -> Option<&str> {
        self.life.as_ref().map(|life| life.name.as_str())
    }

    pub(crate) fn handle(&self) -> Option<&AgentHandle> {
        self.life.as_ref().map(|life| &life.handle)
    }
}

fn life_id(number: usize, life: u32) -> InstanceId {
    InstanceId::from_key(&format!("agent-{number}#{life}"))
}
