//! One simulation: chaos, then calm, then the checker.

use std::time::Duration;

use mamos_core::orchestrator::LiveAgent;
use mamos_core::store::PageRequest;
use mamos_core::{JobId, Orchestrator, QueueName, Store};
use mamos_store::broken::Flaw;
use mamos_transport::faulty::Faults;
use tokio::time::{Instant, sleep, timeout};

use crate::chaos;
use crate::checker::{Violation, check};
use crate::clients::QUEUES;
use crate::history::Entry;
use crate::jobs::printed;
use crate::recorder::final_look;
use crate::world::{LEASE_TTL, World};

/// After the chaos everything must have come to rest within this time. Agents wait up to 30 s between
/// two tries to connect, and jobs run one after the other.
const REST_WITHIN: Duration = Duration::from_secs(600);

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long things go wrong, in virtual time. Default: 40 s.
    pub chaos_for: Duration,
    /// How many jobs each client enqueues at most. Default: 60.
    pub jobs: usize,
    /// A promise that the store breaks. Default: none.
    pub flaw: Option<Flaw>,
}

impl Default for Options {
    fn default() -> Self {
        Self { chaos_for: Duration::from_secs(40), jobs: 60, flaw: None }
    }
}

/// What came of a simulation.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What happened.
    pub history: Vec<Entry>,
    /// Which promises were broken.
    pub violations: Vec<Violation>,
    /// What did not come to rest, and why as far as is known.
    pub stuck: Vec<String>,
    /// How many jobs were accepted.
    pub accepted: usize,
}

impl Report {
    /// Were all promises kept?
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.stuck.is_empty()
    }
}

/// Simulates the whole system under a seed, in virtual time. The same seed gives the same report.
///
/// # Errors
///
/// If the simulation itself cannot go on, for example for want of a directory.
pub fn simulate(seed: u64, options: &Options) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(story(seed, options))
}

async fn story(seed: u64, options: &Options) -> anyhow::Result<Report> {
    let mut world = World::new(seed, options.flaw).await?;
    let history = world.clients.history.clone();
    let until = Instant::now() + options.chaos_for;
    let mut clients = Vec::new();
    for name in 0..world.random.usize(1..=3) {
        let (jobs, random) = (world.random.usize(1..=options.jobs), world.random.fork());
        clients.push(tokio::spawn(world.clients.clone().enqueue(name, jobs, random)));
    }
    clients.push(tokio::spawn(world.clients.clone().meddle(until, world.random.fork())));
    chaos::rage(&mut world, until).await?;
    let mut stuck = Vec::new();
    let rest_by = Instant::now() + REST_WITHIN;
    calm(&mut world).await?;
    for client in clients {
        if tokio::time::timeout_at(rest_by, client).await.is_err() {
            stuck.push("a client did not get its jobs accepted".to_owned());
        }
    }
    allow_everything(&world).await?;
    rest(&mut world, rest_by, &mut stuck).await?;
    for entry in proofs(&*world.honest).await? {
        history.add(entry);
    }
    final_look(&*world.honest, &history).await?;
    leave(&mut world, &mut stuck).await;
    let entries = history.entries();
    let violations = check(&entries);
    Ok(Report { seed, history: entries, violations, stuck, accepted: world.clients.accepted().len() })
}

/// Nothing goes wrong any more, and everybody is there.
async fn calm(world: &mut World) -> anyhow::Result<()> {
    tracing::info!("calm");
    world.store.set_faults(false);
    world.store.inner().set_faults(false);
    for reign in std::mem::take(&mut world.former) {
        reign.kill().await;
    }
    for throne in 0..world.thrones.len() {
        if world.thrones[throne].present.is_none() {
            world.crown(throne)?;
        }
    }
    world.undrain(|_| true).await?;
    for sailor in &world.crew {
        sailor.plan.set(Faults::none());
    }
    // Those that were told to drain leave first.
    sleep(Duration::from_secs(1)).await;
    for number in 0..world.crew.len() {
        if world.crew[number].handle().is_some_and(|handle| handle.status().is_draining) {
            world.crew[number].stop();
        }
        while world.crew[number].is_stopping() && !world.crew[number].is_gone() {
            sleep(Duration::from_millis(100)).await;
        }
        world.start_agent(number)?;
    }
    Ok(())
}

/// No job waits for a person.
async fn allow_everything(world: &World) -> anyhow::Result<()> {
    let orchestrator = world.clients.front.get().await;
    for queue in QUEUES {
        orchestrator.resume(&QueueName::new(queue)?).await?;
    }
    let accepted = world.clients.accepted();
    if !accepted.is_empty() {
        orchestrator.approve(accepted).await?;
    }
    Ok(())
}

/// Waits until every job has ended and every agent has nothing left to say.
async fn rest(world: &mut World, by: Instant, stuck: &mut Vec<String>) -> anyhow::Result<()> {
    let orchestrator = world.clients.front.get().await;
    for job in world.clients.accepted() {
        // A job that is lost is for the checker to find.
        let waiting = orchestrator.wait(job);
        while world.killed.try_recv().is_ok() {}
        if tokio::time::timeout_at(by, waiting).await.is_err() {
            stuck.push(explain(&orchestrator, job).await);
        }
        if stuck.len() > 4 {
            break;
        }
    }
    for number in 0..world.crew.len() {
        let Some(handle) = world.crew[number].handle().cloned() else { continue };
        let idle = handle.wait_until(|status| {
            status.is_connected && status.running == 0 && status.queued == 0 && status.unsent == 0
        });
        if timeout(Duration::from_secs(120), idle).await.is_err() {
            stuck.push(format!("agent {number} does not come to rest: {:?}", handle.status()));
        }
    }
    // What an agent thinks is not enough: it may talk to a machine that is gone.
    let by = Instant::now() + 2 * LEASE_TTL + Duration::from_secs(40);
    while live(world).len() < world.crew.len() && Instant::now() < by {
        sleep(Duration::from_millis(500)).await;
    }
    let now = live(world);
    if now.len() != world.crew.len() {
        let names: Vec<&str> = now.iter().map(|agent| agent.name.as_str()).collect();
        stuck.push(format!("of {} agents only these are connected: {names:?}", world.crew.len()));
    }
    for agent in now.iter().filter(|agent| agent.held > 0) {
        // Acknowledged by then, but the last report may just be on its way.
        sleep(Duration::from_secs(1)).await;
        let again = live(world);
        let held = again.iter().find(|other| other.agent == agent.agent).map_or(0, |other| other.held);
        if held > 0 {
            stuck.push(format!("{} holds {held} runs that it does not have", agent.name));
        }
    }
    Ok(())
}

/// The agents that are connected to any orchestrator.
fn live(world: &World) -> Vec<LiveAgent> {
    world.clients.front.all().iter().flat_map(Orchestrator::live_agents).collect()
}

async fn explain(orchestrator: &Orchestrator, job: JobId) -> String {
    let why = orchestrator.why(job).await;
    let record = orchestrator.job(job).await.map(|record| (record.state, record.epoch, record.counters));
    format!("job {job} does not end: {why:?}, {record:?}; live: {:?}", orchestrator.live_agents())
}

/// Compares what the store has of what runs printed with what they printed.
async fn proofs(store: &dyn Store) -> anyhow::Result<Vec<Entry>> {
    let mut proofs = Vec::new();
    let mut after = None;
    loop {
        let page = store.jobs(Default::default(), PageRequest { limit: 1000, after }).await?;
        for job in &page.items {
            for attempt in store.attempts(job.spec.id).await? {
                if attempt.is_late {
                    continue;
                }
                let pieces = store.log(attempt.run, 0, u32::MAX).await?;
                let kept: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect();
                if kept.is_empty() {
                    continue;
                }
                let expected: String = (0..64).map(|piece| printed(attempt.run, piece)).collect();
                let is_true = expected.as_bytes().starts_with(&kept);
                proofs.push(Entry::Printed { run: attempt.run, is_true });
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(proofs);
        }
    }
}

/// Everybody leaves in order.
async fn leave(world: &mut World, stuck: &mut Vec<String>) {
    for sailor in &mut world.crew {
        sailor.stop();
    }
    let by = Instant::now() + Duration::from_secs(60);
    while !world.crew.iter().all(|sailor| sailor.is_gone()) && Instant::now() < by {
        sleep(Duration::from_millis(100)).await;
    }
    if !world.crew.iter().all(|sailor| sailor.is_gone()) {
        stuck.push("an agent did not stop within a minute".to_owned());
    }
    for throne in 0..world.thrones.len() {
        if !world.retire(throne).await {
            stuck.push(format!("orchestrator {throne} did not stop within a minute"));
        }
    }
}
