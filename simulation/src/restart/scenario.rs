//! What is done to the server, the agents and the network between.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;

use super::judge::{Effect, Outage};
use super::world::{Settings, World};
use crate::proxy::Weather;

/// The lease in all scenarios: short, so that it can be outwaited, and long enough for a busy machine.
const LEASE: Duration = Duration::from_secs(4);
/// An outage that is over long before the lease.
const SHORT: Duration = Duration::from_millis(1500);
/// One that takes longer than the lease.
const LONG: Duration = Duration::from_millis(6500);
/// Between two outages, so that backoffs begin anew.
const PAUSE: Duration = Duration::from_millis(1500);

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The server is killed twice, once for longer than the lease.
    ServerKilled,
    /// Agents are killed: with results that they could not report, and for good.
    AgentsKilled,
    /// The network is cut in each way, for a short time, and then for half of the agents for long.
    LinkCut,
    /// The server is paused for longer than the lease.
    ServerPaused,
    /// The server is stopped in order, and started again.
    ServerStopped,
}

impl Scenario {
    /// In words.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What the scenario needs.
    pub fn settings(self, agents: usize, seed: u64) -> Settings {
        let ways = if self == Self::LinkCut { 2 } else { 0 };
        // The longest jobs run through the longest outage.
        let longest = match self {
            Self::ServerStopped | Self::AgentsKilled => Duration::from_secs(5),
            Self::ServerKilled | Self::ServerPaused | Self::LinkCut => Duration::from_secs(10),
        };
        Settings { agents, seed, lease: LEASE, longest, ways, sabotage: None }
    }

    /// Does it.
    ///
    /// # Errors
    ///
    /// If a process ends by itself, or agents do not come back in time.
    pub async fn play(self, world: &mut World) -> anyhow::Result<()> {
        match self {
            Self::ServerKilled => {
                server_killed(world, "server killed", SHORT).await?;
                server_killed(world, "server killed for longer than the lease", LONG).await
            }
            Self::AgentsKilled => {
                agents_killed_with_results(world).await?;
                agents_killed_for_good(world).await
            }
            Self::LinkCut => {
                for weather in Weather::BAD {
                    link_cut_shortly(world, weather).await?;
                }
                link_cut_for_long(world).await
            }
            Self::ServerPaused => server_paused(world).await,
            Self::ServerStopped => server_stopped(world).await,
        }
    }
}

async fn settle(world: &mut World) -> anyhow::Result<()> {
    tokio::time::sleep(PAUSE).await;
    world.busy().await
}

async fn server_killed(world: &mut World, name: &str, outage: Duration) -> anyhow::Result<()> {
    settle(world).await?;
    world.say(name);
    let blow = Outage::begins(name, world.everyone());
    world.kill_server()?;
    tokio::time::sleep(outage).await;
    world.start_server()?;
    world.recover(Outage { relinks: true, has_jitter: true, ..blow.ends() }).await
}

async fn server_paused(world: &mut World) -> anyhow::Result<()> {
    settle(world).await?;
    world.say("server paused");
    let blow = Outage::begins("server paused for longer than the lease", world.everyone());
    world.signal_server(Signal::STOP)?;
    tokio::time::sleep(LONG).await;
    world.signal_server(Signal::CONT)?;
    world.recover(blow.ends()).await?;
    // If leases were lost by it, that shows within the time of one.
    tokio::time::sleep(LEASE).await;
    Ok(())
}

async fn server_stopped(world: &mut World) -> anyhow::Result<()> {
    settle(world).await?;
    world.say("server stopped in order");
    let blow = Outage::begins("server stopped in order", world.everyone());
    world.stop_server().await?;
    tokio::time::sleep(SHORT / 2).await;
    world.start_server()?;
    world.recover(Outage { relinks: true, has_jitter: true, ..blow.ends() }).await
}

/// While the server is away, attempts end and their agents are killed: their journals must report it.
async fn agents_killed_with_results(world: &mut World) -> anyhow::Result<()> {
    settle(world).await?;
    world.say("server and agents killed");
    let victims = world.some(5, &BTreeSet::new());
    let others: BTreeSet<usize> = world.everyone().difference(&victims).copied().collect();
    let away = Outage::begins("server killed", others);
    world.kill_server()?;
    tokio::time::sleep(SHORT).await;
    let killed = Outage::begins("agents killed with unreported results", victims.clone());
    world.kill_agents(&victims)?;
    tokio::time::sleep(SHORT / 5).await;
    world.start_agents(&victims)?;
    world.start_server()?;
    let (killed, away) = (killed.ends(), away.ends());
    let effect = Effect::Journaled { since: away.from };
    world.recover(Outage { relinks: true, effect, ..killed }).await?;
    world.recover(Outage { relinks: true, has_jitter: true, ..away }).await
}

/// Killed, and away until their jobs were given to others.
async fn agents_killed_for_good(world: &mut World) -> anyhow::Result<()> {
    settle(world).await?;
    world.say("agents killed");
    let victims = world.some(5, &BTreeSet::new());
    let killed = Outage::begins("agents killed", victims.clone());
    world.kill_agents(&victims)?;
    tokio::time::sleep(LONG).await;
    let killed = killed.ends();
    world.start_agents(&victims)?;
    world.recover(Outage { relinks: true, effect: Effect::Lost, ..killed }).await
}

async fn link_cut_shortly(world: &mut World, weather: Weather) -> anyhow::Result<()> {
    settle(world).await?;
    let name = format!("network cut: {}", weather.name());
    world.say(&name);
    let cut = Outage::begins(name, world.everyone());
    world.weather(None, weather);
    tokio::time::sleep(SHORT).await;
    world.weather(None, Weather::Clear);
    let relinks = matches!(weather, Weather::Reset | Weather::AgentsUnaware | Weather::ServerUnaware);
    world.recover(Outage { relinks, ..cut.ends() }).await
}

async fn link_cut_for_long(world: &mut World) -> anyhow::Result<()> {
    settle(world).await?;
    world.say("network cut for half of the agents");
    let cut = Outage::begins("network cut for longer than the lease", world.on_way(0));
    world.weather(Some(0), Weather::HoldBoth);
    tokio::time::sleep(LONG).await;
    let cut = cut.ends();
    world.weather(Some(0), Weather::Clear);
    world.recover(Outage { relinks: true, effect: Effect::Lost, ..cut }).await
}
