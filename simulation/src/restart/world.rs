//! The processes of one scenario, the client and the network between them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use mamos_core::store::{JobStore, LogStore, PageRequest};
use mamos_store::{SqliteSettings, SqliteStore};
use rustix::process::Signal;

use super::client::{Caller, Client};
use super::evidence::Evidence;
use super::judge::{Effect, Findings, Kept, Log, Outage, Recorded};
use super::place::{Place, Sabotage, now};
use super::work::Work;
use crate::crash::retold;
use crate::process::Victim;
use crate::proxy::{Proxy, Weather};

/// Between two looks at what the agents wrote.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After whatever happened, all agents must be back within this time.
pub(super) const BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long starting everything may take, on a busy machine.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);
/// How long the server may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many agents.
    pub agents: usize,
    /// What the jobs and the victims are drawn from.
    pub seed: u64,
    /// How long a lease is.
    pub lease: Duration,
    /// How long the longest jobs take.
    pub longest: Duration,
    /// How many ways there are from the agents to the server that can be cut apart from each other; 0 for
    /// none but the direct one.
    pub ways: usize,
    /// A fault to put in.
    pub sabotage: Option<Sabotage>,
}

/// Everything that runs. Dropping it kills all of it.
pub struct World {
    pub(super) settings: Settings,
    pub(super) random: fastrand::Rng,
    place: Place,
    server: Victim,
    agents: Vec<Victim>,
    proxies: Vec<Proxy>,
    caller: Caller,
    client: Client,
    evidence: Evidence,
    outages: Vec<Outage>,
    progress: ProgressBar,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl World {
    /// Starts everything, and waits until it is busy.
    ///
    /// # Errors
    ///
    /// If something does not start.
    pub async fn start(place: Place, settings: Settings, progress: ProgressBar) -> anyhow::Result<Self> {
        std::fs::create_dir_all(place.directory())?;
        let server_address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let directory = place.directory().display().to_string();
        let sabotage: Vec<String> =
            settings.sabotage.iter().flat_map(|sabotage| as_flag(*sabotage)).collect();
        let mut arguments = vec!["server".to_owned(), directory.clone()];
        arguments.extend(["--port".to_owned(), server_address.port().to_string()]);
        arguments.extend(["--lease-ms".to_owned(), settings.lease.as_millis().to_string()]);
        arguments.extend(sabotage.iter().cloned());
        let mut server = Victim::new("the server", arguments, place.log("server"));
        progress.set_message("starting the server");
        server.start()?;
        let by = Instant::now() + BEGIN_WITHIN;
        while !place.secrets().exists() {
            server.must_run()?;
            anyhow::ensure!(Instant::now() < by, "the server did not begin within {BEGIN_WITHIN:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut proxies = Vec::new();
        for _ in 0..settings.ways {
            proxies.push(Proxy::before(server_address).await?);
        }
        let mut agents = Vec::new();
        for number in 0..settings.agents {
            let way = number.checked_rem(proxies.len()).and_then(|way| proxies.get(way));
            let address = way.map_or(server_address, Proxy::address);
            let mut arguments = vec!["agent".to_owned(), directory.clone()];
            arguments.extend(["--number".to_owned(), number.to_string()]);
            arguments.extend(["--server".to_owned(), format!("ws://{address}")]);
            arguments.extend(sabotage.iter().cloned());
            let name = format!("agent-{number}");
            let mut agent = Victim::new(&name, arguments, place.log(&name));
            agent.start()?;
            agents.push(agent);
        }
        let caller = Caller::new(&place, server_address)?;
        // About two jobs a second for each agent.
        let client =
            Client::start(caller.clone(), settings.seed, settings.agents.div_ceil(5), settings.longest);
        let mut world = Self {
            random: fastrand::Rng::with_seed(settings.seed),
            evidence: Evidence::of(settings.agents),
            outages: Vec::new(),
            settings,
            place,
            server,
            agents,
            proxies,
            caller,
            client,
            progress,
        };
        let all = world.settings.agents;
        world.wait("all agents are linked", BEGIN_WITHIN, |evidence| evidence.linked() == all).await?;
        world.busy().await?;
        Ok(world)
    }

    /// All agents.
    pub(super) fn everyone(&self) -> BTreeSet<usize> {
        (0..self.settings.agents).collect()
    }

    /// The agents that take one of the ways.
    pub(super) fn on_way(&self, way: usize) -> BTreeSet<usize> {
        (0..self.settings.agents).filter(|agent| agent.checked_rem(self.proxies.len()) == Some(way)).collect()
    }

    /// A part of the agents, by chance, and none of those that are left out.
    pub(super) fn some(&mut self, part: usize, without: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut agents: Vec<usize> = self.everyone().difference(without).copied().collect();
        self.random.shuffle(&mut agents);
        agents.into_iter().take((self.settings.agents / part).max(1)).collect()
    }

    pub(super) fn kill_server(&mut self) -> anyhow::Result<()> {
        self.server.kill()
    }

    pub(super) fn start_server(&mut self) -> anyhow::Result<()> {
        self.server.start()
    }

    pub(super) fn signal_server(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.server.signal(signal)
    }

    /// Stops the server in order.
    pub(super) async fn stop_server(&mut self) -> anyhow::Result<()> {
        let status = self.server.stop(STOP_WITHIN).await?;
        anyhow::ensure!(status.success(), "the server ended with {status} after SIGTERM");
        Ok(())
    }

    pub(super) fn kill_agents(&mut self, agents: &BTreeSet<usize>) -> anyhow::Result<()> {
        agents.iter().try_for_each(|agent| self.agents[*agent].kill())
    }

    pub(super) fn start_agents(&mut self, agents: &BTreeSet<usize>) -> anyhow::Result<()> {
        agents.iter().try_for_each(|agent| self.agents[*agent].start())
    }

    /// Changes the network, on one way or on all.
    pub(super) fn weather(&self, way: Option<usize>, weather: Weather) {
        let ways = self.proxies.iter().enumerate();
        ways.filter(|(n, _)| way.is_none_or(|way| way == *n)).for_each(|(_, proxy)| proxy.set(weather));
    }

    /// Says what is being done.
    pub(super) fn say(&self, what: impl Into<String>) {
        self.progress.set_message(what.into());
        self.progress.tick();
    }

    /// Waits until most agents run something, of which some has run for a while.
    pub(super) async fn busy(&mut self) -> anyhow::Result<()> {
        let most = (self.settings.agents / 2).max(1);
        self.wait("most agents run something", BEGIN_WITHIN, |evidence| {
            let moment = now();
            let running = evidence.ran().into_iter().filter(|ran| ran.is_at(moment));
            let agents: BTreeSet<usize> = running.map(|ran| ran.agent).collect();
            agents.len() >= most
        })
        .await
    }

    /// An outage is over for everybody else: waits until its agents are back, and notes it.
    pub(super) async fn recover(&mut self, mut outage: Outage) -> anyhow::Result<()> {
        self.say(format!("{}: agents come back", outage.name));
        let (from, agents, relinks) = (outage.from, outage.agents.clone(), outage.relinks);
        let all = self.settings.agents;
        self.wait("all agents are back", BACK_WITHIN, |evidence| {
            evidence.linked() == all
                && agents.iter().all(|agent| !relinks || evidence.linked_after(*agent, from).is_some())
        })
        .await
        .with_context(|| format!("after: {}", outage.name))?;
        outage.settled = now();
        self.outages.push(outage);
        Ok(())
    }

    async fn wait(
        &mut self,
        what: &str,
        within: Duration,
        is_so: impl Fn(&Evidence) -> bool,
    ) -> anyhow::Result<()> {
        let by = Instant::now() + within;
        loop {
            self.evidence.catch_up(&self.place)?;
            self.progress.tick();
            if is_so(&self.evidence) {
                return Ok(());
            }
            self.agents.iter_mut().try_for_each(Victim::must_run)?;
            self.server.must_run()?;
            let linked = self.evidence.linked();
            anyhow::ensure!(Instant::now() < by, "not within {within:?}: {what} ({linked} are linked)");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets everything come to rest, ends it, and gathers what there is to know.
    ///
    /// # Errors
    ///
    /// If that fails; jobs that do not come to rest are for the judge.
    pub async fn finish(mut self) -> anyhow::Result<Findings> {
        self.say("the last jobs end");
        let accepted = self.client.stop().await?;
        let by = Instant::now() + self.settings.longest * 2 + BACK_WITHIN;
        // What is left unfinished then, the judge names.
        while Instant::now() < by && self.caller.open().await.is_ok_and(|open| open > 0) {
            self.agents.iter_mut().try_for_each(Victim::must_run)?;
            self.server.must_run()?;
            self.progress.tick();
            tokio::time::sleep(LOOK_EVERY * 2).await;
        }
        let status = self.server.stop(STOP_WITHIN).await?;
        anyhow::ensure!(status.success(), "the server ended with {status} after SIGTERM");
        self.agents.iter_mut().try_for_each(Victim::kill)?;
        self.evidence.catch_up(&self.place)?;
        self.progress.set_message("looking at what is left");
        let store = SqliteStore::open(SqliteSettings::new(self.place.database())).await?;
        let mut findings = Findings {
            evidence: self.evidence,
            accepted: accepted.into_iter().collect(),
            kept: Vec::new(),
            told: Vec::new(),
            outages: self.outages,
        };
        gather(&store, &mut findings).await?;
        store.close().await;
        Ok(findings)
    }
}

/// Adds what the store has.
async fn gather(store: &SqliteStore, findings: &mut Findings) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = store.jobs(Default::default(), PageRequest { limit: 500, after }).await?;
        for job in &page.items {
            let attempts = store.attempts(job.spec.id).await?;
            let work: Work = serde_json::from_slice(&job.spec.payload)?;
            let mut runs = Vec::new();
            for attempt in &attempts {
                let pieces = store.log(attempt.run, 0, 1024 * 1024).await?;
                let printed: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
                let prints = work.prints(attempt.run);
                let log = match prints.as_bytes().strip_prefix(printed.as_slice()) {
                    Some([]) => Log::Whole,
                    Some(_) => Log::Beginning,
                    None => Log::Wrong,
                };
                runs.push(Recorded { run: attempt.run, end: attempt.end, is_late: attempt.is_late, log });
            }
            findings.told.extend(retold(job, &attempts));
            findings.kept.push(Kept {
                job: job.spec.id,
                state: job.state,
                crashes: job.counters.crashes,
                runs,
            });
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// A port that keeps free while the server is down. Not one of those that the system gives away: agents that
/// connect to it in vain could be given it as their own and meet themselves.
fn free_port() -> anyhow::Result<u16> {
    let mut tries = std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).take(100);
    let free = tries.find(|port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.context("no port is free")
}

fn as_flag(sabotage: Sabotage) -> Vec<String> {
    use clap::ValueEnum;
    let name = sabotage.to_possible_value().map(|value| value.get_name().to_owned());
    name.into_iter().flat_map(|name| ["--sabotage".to_owned(), name]).collect()
}

impl Outage {
    /// One that begins now, for these agents.
    pub(super) fn begins(name: impl Into<String>, agents: BTreeSet<usize>) -> Self {
        let (from, name) = (now(), name.into());
        let effect = Effect::Unnoticed;
        Self { name, agents, from, until: from, settled: from, effect, relinks: false, has_jitter: false }
    }

    /// It ends now.
    pub(super) fn ends(mut self) -> Self {
        self.until = now();
        self
    }
}
