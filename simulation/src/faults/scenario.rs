//! What is done to the servers and the processes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use mamos_testbed::{NatsServer, PostgresServer, RabbitServer, RedisServer};
use rustix::process::Signal;

use super::Link;
use super::fleet::{Fleet, Post};
use super::places::{Manned, Places};
use crate::crash::Verdicts;
use crate::proxy::{Proxy, Weather};

/// Work must go on so soon after the servers are back.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// The lease of sessions.
const LEASE: Duration = Duration::from_secs(6);
/// The same where the broker alone takes as long as that to start.
const LONG_LEASE: Duration = Duration::from_secs(20);
/// How long a server stays away.
const AWAY: Duration = Duration::from_millis(1500);
/// How long it works in between.
const UNDER_LOAD: Duration = Duration::from_millis(1500);
/// How many agents there are.
const AGENTS: usize = 4;

/// A set of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// PostgreSQL is stopped at once and started again, and its connections are ended.
    Postgres,
    /// Redis is killed and started again; it writes to disk before it answers.
    Redis,
    /// Links over NATS, which is killed and started again.
    Nats,
    /// Links over Redis, which is killed and started again.
    RedisBus,
    /// Links over RabbitMQ, which is killed and started again.
    Rabbitmq,
    /// Three orchestrators on one PostgreSQL: one is killed, one paused for longer than the lease, one cut off
    /// from the database.
    Three,
    /// Three orchestrators on one Redis, the same.
    ThreeRedis,
    /// Two orchestrators on one PostgreSQL; the clock of one is an hour ahead, that of the other an hour
    /// behind.
    Clocks,
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// What the checker found.
    pub verdicts: Verdicts,
    /// Each fault, and how soon work went on after it.
    pub faults: Vec<(String, Duration)>,
    /// What else was wrong.
    pub complaints: Vec<String>,
}

/// What is noted on the way.
struct Notes {
    faults: Vec<(String, Duration)>,
    complaints: Vec<String>,
    says: Box<dyn Fn(&str)>,
}

impl Notes {
    /// Something was done and undone: waits until work goes on everywhere.
    async fn recovers(&mut self, what: &str, fleet: &Fleet) -> anyhow::Result<()> {
        self.recovers_since(Instant::now(), what, fleet).await
    }

    /// The same, counted from a moment that is past: when it was done, and not only when it was undone.
    async fn recovers_since(&mut self, since: Instant, what: &str, fleet: &Fleet) -> anyhow::Result<()> {
        fleet.resumes(&fleet.everyone()).await.with_context(|| format!("after: {what}"))?;
        self.took(what, "work goes on", since.elapsed());
        Ok(())
    }

    /// An orchestrator was killed or stands still: waits until the agents that it had are at others, and from then
    /// on until work goes on everywhere. What agents had been sent before says nothing: they begin that anyway.
    async fn leave(
        &mut self,
        what: &str,
        fleet: &Fleet,
        places: &Places,
        manned: &Manned,
    ) -> anyhow::Result<()> {
        let took = places.left(manned).await.with_context(|| format!("after: {what}"))?;
        self.took(what, &format!("its {} agents are back at others", manned.agents()), took);
        self.recovers_since(manned.since(), what, fleet).await
    }

    /// Something was to happen soon after a fault, and did.
    fn took(&mut self, what: &str, happened: &str, took: Duration) {
        if took > BACK_WITHIN {
            self.complaints.push(format!("after {what}: {happened}, but only after {took:.1?}"));
        }
        (self.says)(&format!("{what}: {happened} after {took:.1?}"));
        self.faults.push((what.to_owned(), took));
    }
}

impl Scenario {
    /// Runs it. `says` is told what happens.
    ///
    /// # Errors
    ///
    /// If a process ends by itself, or work does not go on at all.
    pub async fn run(
        self,
        directory: &Path,
        seed: u64,
        says: impl Fn(&str) + 'static,
    ) -> anyhow::Result<Outcome> {
        let mut notes = Notes { faults: Vec::new(), complaints: Vec::new(), says: Box::new(says) };
        let verdicts = match self {
            Self::Postgres => postgres(directory, seed, &mut notes).await?,
            Self::Redis => redis(directory, seed, &mut notes).await?,
            Self::Nats => {
                let mut server = NatsServer::start();
                let url = server.url();
                bus(directory, seed, &url, &mut server, &mut notes).await?
            }
            Self::RedisBus => {
                let mut server = RedisServer::start();
                let url = server.url();
                bus(directory, seed, &url, &mut server, &mut notes).await?
            }
            Self::Rabbitmq => {
                let mut server = RabbitServer::start();
                let url = server.url();
                bus(directory, seed, &url, &mut server, &mut notes).await?
            }
            Self::Three => {
                let server = PostgresServer::start();
                three(directory, seed, &server.url(), server.port(), &mut notes).await?
            }
            Self::ThreeRedis => {
                let server = RedisServer::start();
                three(directory, seed, &server.url(), server.port(), &mut notes).await?
            }
            Self::Clocks => clocks(directory, seed, &mut notes).await?,
        };
        if verdicts.crashed > 0 && self != Self::Three && self != Self::ThreeRedis {
            // No agent was killed, and no outage lasted for as long as a lease.
            notes.complaints.push(format!("{} runs were taken from agents that lived", verdicts.crashed));
        }
        Ok(Outcome { verdicts, faults: notes.faults, complaints: notes.complaints })
    }
}

fn post(store: &str, link: Link) -> Post {
    Post { store: store.to_owned(), link, lease: LEASE, environment: Vec::new() }
}

fn socket(directory: &Path, number: usize) -> Link {
    Link::Unix(directory.join(format!("link-{number}")))
}

async fn postgres(directory: &Path, seed: u64, notes: &mut Notes) -> anyhow::Result<Verdicts> {
    let mut server = PostgresServer::start();
    let posts = [0, 1].map(|number| post(&server.url(), socket(directory, number)));
    let fleet = Fleet::start(directory, &posts, AGENTS, seed).await?;
    for _ in 0..3 {
        tokio::time::sleep(UNDER_LOAD).await;
        server.stop_immediately();
        tokio::time::sleep(AWAY).await;
        server.resume();
        notes.recovers("PostgreSQL stopped at once", &fleet).await?;
        tokio::time::sleep(UNDER_LOAD).await;
        for _ in 0..5 {
            server.kill_backends();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        notes.recovers("its connections ended", &fleet).await?;
    }
    fleet.finish().await
}

async fn redis(directory: &Path, seed: u64, notes: &mut Notes) -> anyhow::Result<Verdicts> {
    let mut server = RedisServer::start();
    let posts = [0, 1].map(|number| post(&server.url(), socket(directory, number)));
    let fleet = Fleet::start(directory, &posts, AGENTS, seed).await?;
    for _ in 0..3 {
        tokio::time::sleep(UNDER_LOAD).await;
        server.kill();
        tokio::time::sleep(AWAY).await;
        server.resume();
        notes.recovers("Redis killed", &fleet).await?;
        tokio::time::sleep(UNDER_LOAD).await;
        for _ in 0..5 {
            server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
            server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server.command(&["SCRIPT", "FLUSH"]);
        notes.recovers("its connections ended and its scripts forgotten", &fleet).await?;
    }
    fleet.finish().await
}

/// A broker that can be stopped.
trait Broker {
    fn kill(&mut self);
    fn resume(&mut self);
}

macro_rules! broker {
    ($($server:ty),+) => {$(
        impl Broker for $server {
            fn kill(&mut self) {
                Self::kill(self);
            }

            fn resume(&mut self) {
                Self::resume(self);
            }
        }
    )+};
}

broker!(NatsServer, RedisServer, RabbitServer);

/// Links over a bus; the store is PostgreSQL, which stays.
async fn bus(
    directory: &Path,
    seed: u64,
    url: &str,
    server: &mut impl Broker,
    notes: &mut Notes,
) -> anyhow::Result<Verdicts> {
    let database = PostgresServer::start();
    let link = Link::Bus(url.to_owned());
    let post = Post { lease: LONG_LEASE, ..post(&database.url(), link) };
    let posts = [post.clone(), post];
    let mut fleet = Fleet::start(directory, &posts, AGENTS, seed).await?;
    let places = fleet.places();
    for _ in 0..3 {
        tokio::time::sleep(UNDER_LOAD).await;
        server.kill();
        tokio::time::sleep(AWAY).await;
        server.resume();
        notes.recovers("the broker killed", &fleet).await?;
    }
    tokio::time::sleep(UNDER_LOAD).await;
    let number = places.busiest(posts.len()).await?;
    let manned = places.at(&Fleet::name_of(number)).await?;
    fleet.kill_orchestrator(number)?;
    notes.leave("an orchestrator on the bus killed", &fleet, &places, &manned).await?;
    fleet.start_orchestrator(number)?;
    fleet.finish().await
}

async fn three(
    directory: &Path,
    seed: u64,
    url: &str,
    port: u16,
    notes: &mut Notes,
) -> anyhow::Result<Verdicts> {
    let proxy = Proxy::before(([127, 0, 0, 1], port).into()).await?;
    let through_proxy = url.replace(&format!(":{port}"), &format!(":{}", proxy.address().port()));
    let posts = [
        post(url, socket(directory, 0)),
        post(url, socket(directory, 1)),
        post(&through_proxy, socket(directory, 2)),
    ];
    let mut fleet = Fleet::start(directory, &posts, 2 * AGENTS, seed).await?;
    let places = fleet.places();
    for _ in 0..2 {
        tokio::time::sleep(UNDER_LOAD).await;
        let manned = places.at(&Fleet::name_of(0)).await?;
        fleet.kill_orchestrator(0)?;
        notes.leave("one of three killed", &fleet, &places, &manned).await?;
        fleet.start_orchestrator(0)?;
        tokio::time::sleep(UNDER_LOAD).await;
        let manned = places.at(&Fleet::name_of(1)).await?;
        fleet.signal_orchestrator(1, Signal::STOP)?;
        notes.leave("one of three stands still", &fleet, &places, &manned).await?;
        tokio::time::sleep((LEASE + Duration::from_secs(2)).saturating_sub(manned.since().elapsed())).await;
        notes.recovers("it stood still for longer than the lease", &fleet).await?;
        fleet.signal_orchestrator(1, Signal::CONT)?;
        notes.recovers("it goes on", &fleet).await?;
        for weather in [Weather::Reset, Weather::HoldBoth] {
            tokio::time::sleep(UNDER_LOAD).await;
            let cut_at = Instant::now();
            proxy.set(weather);
            tokio::time::sleep(AWAY).await;
            proxy.set(Weather::Clear);
            let what = format!("one of three cut from the store for {AWAY:?} ({})", weather.name());
            notes.recovers_since(cut_at, &what, &fleet).await?;
        }
        fleet.restart_agent(3)?;
        notes.recovers("an agent killed", &fleet).await?;
    }
    fleet.finish().await
}

async fn clocks(directory: &Path, seed: u64, notes: &mut Notes) -> anyhow::Result<Verdicts> {
    let library = libfaketime().context(
        "libfaketime is not installed (Debian: apt-get install libfaketime); it makes clocks wrong",
    )?;
    let server = PostgresServer::start();
    let wrong = |offset: &str| {
        vec![
            ("LD_PRELOAD".to_owned(), library.clone()),
            ("FAKETIME".to_owned(), offset.to_owned()),
            // Timers go on as they should: it is the date that somebody set wrong.
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ("DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ]
    };
    let posts = [
        Post { environment: wrong("+3600s"), ..post(&server.url(), socket(directory, 0)) },
        Post { environment: wrong("-3600s"), ..post(&server.url(), socket(directory, 1)) },
        post(&server.url(), socket(directory, 2)),
    ];
    let mut fleet = Fleet::start(directory, &posts, AGENTS, seed).await?;
    // Some leases long: whoever believed its own clock would take what others hold, or let it lie.
    tokio::time::sleep(LEASE * 2).await;
    notes.recovers("clocks an hour ahead and an hour behind", &fleet).await?;
    let places = fleet.places();
    let manned = places.at(&Fleet::name_of(2)).await?;
    fleet.kill_orchestrator(2)?;
    notes.leave("the one with the right clock killed", &fleet, &places, &manned).await?;
    fleet.start_orchestrator(2)?;
    fleet.finish().await
}

fn libfaketime() -> Option<String> {
    let triples = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let candidates = triples.map(|triple| format!("/usr/lib/{triple}/faketime/libfaketime.so.1"));
    candidates.into_iter().find(|path| Path::new(path).exists())
}
