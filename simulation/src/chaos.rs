//! What goes wrong: drawn from the seed, one thing after the other, and each set right after a while.

use std::collections::BTreeMap;
use std::time::Duration;

use mamos_transport::faulty::Faults;
use tokio::time::{Instant, sleep_until};

use crate::world::{World, random_bool};

/// Something that is set right later.
#[derive(Debug, Clone, Copy)]
enum Remedy {
    StartAgent(usize),
    Undrain(usize),
    CalmRoad(usize),
    CalmStore,
    Crown(usize),
    EndFormer,
}

/// Sets right what went wrong, in its time.
#[derive(Debug, Default)]
struct Agenda {
    remedies: BTreeMap<(Instant, u64), Remedy>,
    count: u64,
}

impl Agenda {
    fn put(&mut self, after: Duration, remedy: Remedy) {
        self.count += 1;
        self.remedies.insert((Instant::now() + after, self.count), remedy);
    }
}

/// Lets things go wrong until a moment, and leaves all agents and at least one orchestrator running.
pub(crate) async fn rage(world: &mut World, until: Instant) -> anyhow::Result<()> {
    let mut agenda = Agenda::default();
    let base = road(&mut world.random);
    for sailor in &world.crew {
        sailor.plan.set(base);
    }
    let mut next = Instant::now();
    while Instant::now() < until {
        let due = agenda.remedies.first_key_value().map_or(until, |((at, _), _)| *at);
        tokio::select! {
            biased;
            killed = world.killed.recv() => {
                let killed = world.crew.iter().position(|sailor| sailor.life() == killed.as_deref());
                if let Some(number) = killed {
                    kill_agent(world, &mut agenda, number).await;
                }
            }
            () = sleep_until(due.min(until)) => {
                if let Some(entry) = agenda.remedies.first_entry()
                    && entry.key().0 <= Instant::now()
                {
                    let remedy = entry.remove();
                    remedy_one(world, &mut agenda, remedy, base).await?;
                }
            }
            () = sleep_until(next) => {
                next = Instant::now() + millis(&mut world.random, 50, 4000);
                strike(world, &mut agenda).await?;
            }
        }
    }
    while let Some((_, remedy)) = agenda.remedies.pop_first() {
        remedy_one(world, &mut agenda, remedy, base).await?;
    }
    Ok(())
}

fn millis(random: &mut fastrand::Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.u64(from..to))
}

/// How bad all roads are all the time.
fn road(random: &mut fastrand::Rng) -> Faults {
    match random.u8(..3) {
        0 => Faults::none(),
        1 => Faults {
            lose: random.f64() * 0.05,
            duplicate: random.f64() * 0.1,
            reorder: random.f64() * 0.2,
            delay: millis(random, 0, 60),
            ..Faults::none()
        },
        _ => Faults::bad(),
    }
}

async fn strike(world: &mut World, agenda: &mut Agenda) -> anyhow::Result<()> {
    let number = world.random.usize(..world.crew.len());
    let throne = world.random.usize(..world.thrones.len());
    let what = world.random.u8(..32);
    tracing::info!(what, agent = number, "chaos strikes");
    match what {
        0..10 => worsen_road(world, agenda, number),
        10..13 => world.crew[number].plan.cut_all(),
        13..17 => kill_agent(world, agenda, number).await,
        17 | 18 => {
            world.crew[number].stop();
            agenda.put(millis(&mut world.random, 500, 9000), Remedy::StartAgent(number));
        }
        19 => {
            let agent = world.crew[number].handle().and_then(|handle| handle.status().agent);
            if let (Some(agent), Some(orchestrator)) = (agent, world.clients.front.now()) {
                if let Err(error) = orchestrator.drain_agent(&agent).await {
                    tracing::info!(%error, "an agent may be draining or not");
                }
                agenda.put(millis(&mut world.random, 500, 6000), Remedy::Undrain(number));
            }
        }
        20..25 => {
            world.store.inner().set_faults(true);
            agenda.put(millis(&mut world.random, 100, 5000), Remedy::CalmStore);
        }
        25..28 => {
            let is_silent = world.random.u8(..3) == 0;
            world.depose(throne, is_silent).await;
            let away = if world.random.bool() { 1000 } else { 10_000 };
            agenda.put(millis(&mut world.random, 1, away), Remedy::Crown(throne));
        }
        28 | 29 => {
            let is_over = world.retire(throne).await;
            anyhow::ensure!(is_over, "the orchestrator did not stop within a minute");
            agenda.put(millis(&mut world.random, 1, 3000), Remedy::Crown(throne));
        }
        _ => {
            // A successor begins before the one before has ended.
            if world.thrones[throne].present.is_some() {
                world.crown(throne)?;
                agenda.put(millis(&mut world.random, 1, 5000), Remedy::EndFormer);
            }
        }
    }
    Ok(())
}

fn worsen_road(world: &mut World, agenda: &mut Agenda, number: usize) {
    let random = &mut world.random;
    let bad = match random.u8(..7) {
        0 => Faults { lose: 0.5, ..Faults::bad() },
        1 => Faults { cut: 0.2, ..Faults::bad() },
        2 => Faults { mute_agents: true, ..Faults::none() },
        3 => Faults { mute_orchestrators: true, ..Faults::none() },
        4 => Faults { mute_agents: true, mute_orchestrators: true, ..Faults::none() },
        5 => Faults { refuse_connections: true, ..Faults::none() },
        _ => Faults { delay: millis(random, 100, 3000), reorder: 0.5, duplicate: 0.5, ..Faults::none() },
    };
    let also_cut = random.u8(..4) == 0;
    world.crew[number].plan.set(bad);
    if also_cut {
        world.crew[number].plan.cut_all();
    }
    agenda.put(millis(&mut world.random, 100, 12_000), Remedy::CalmRoad(number));
}

async fn kill_agent(world: &mut World, agenda: &mut Agenda, number: usize) {
    world.crew[number].kill(&world.stage).await;
    agenda.put(millis(&mut world.random, 20, 12_000), Remedy::StartAgent(number));
}

async fn remedy_one(
    world: &mut World,
    agenda: &mut Agenda,
    remedy: Remedy,
    base: Faults,
) -> anyhow::Result<()> {
    tracing::info!(?remedy, "something is set right");
    match remedy {
        Remedy::StartAgent(number) => {
            if world.crew[number].is_gone() {
                world.start_agent(number)?;
            } else if world.crew[number].is_stopping() {
                agenda.put(Duration::from_secs(1), Remedy::StartAgent(number));
                // While the agenda is worked off at the end, nothing else lets time pass.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Remedy::Undrain(number) => {
            let name = format!("agent-{number}");
            world.undrain(|agent| agent == name).await?;
            // It is leaving, or has left, or never heard of it: in any case it comes back.
            world.crew[number].stop();
            agenda.put(Duration::from_millis(500), Remedy::StartAgent(number));
        }
        Remedy::CalmRoad(number) => world.crew[number].plan.set(base),
        Remedy::CalmStore => world.store.inner().set_faults(false),
        Remedy::Crown(throne) => {
            if world.thrones[throne].present.is_none() {
                world.crown(throne)?;
            }
        }
        Remedy::EndFormer => {
            if !world.former.is_empty() {
                let reign = world.former.remove(0);
                if random_bool(&mut world.random, 0.5) {
                    reign.kill().await;
                } else {
                    anyhow::ensure!(
                        reign.retire().await,
                        "a former orchestrator did not stop within a minute"
                    );
                }
            }
        }
    }
    Ok(())
}
