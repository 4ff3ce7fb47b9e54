//! The orchestrator's process, seen from outside.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use mamos_core::auth::Secret;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::settings::FleetSettings;
use crate::settings::{Durability, StoreKind};

/// What the orchestrator's process is told, a JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Enqueue so many jobs as fast as it goes.
    Enqueue(u64),
    /// Enqueue one job after the other.
    Pace { per_second: u32, seconds: u64 },
    /// Stop in order.
    Stop,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ready { address: String, token: Secret, store: String },
    Enqueued,
    Paced(Paced),
}

/// What became of an order to keep a pace.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Paced {
    pub(crate) jobs: u64,
    pub(crate) seconds: f64,
}

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu: Duration,
}

/// The orchestrator's process.
pub(crate) struct Server {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub(crate) address: String,
    pub(crate) token: Secret,
    pub(crate) store: String,
}

impl Server {
    /// Starts it, at an address if one is given.
    pub(crate) async fn start(settings: &FleetSettings, address: Option<&str>) -> anyhow::Result<Self> {
        let name = if address.is_some() || settings.restarts() { "fleet.db" } else { "work.db" };
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("fleet-server")
            .args(["--store", if settings.store == StoreKind::Sqlite { "sqlite" } else { "memory" }])
            .args(["--durability", durability(settings.durability)])
            .arg("--file")
            .arg(settings.directory.path().join(name))
            .args(["--listen", address.unwrap_or("127.0.0.1:0")])
            .args(["--agents", &(settings.count + settings.workers).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("the orchestrator's process cannot be started")?;
        let orders = child.stdin.take().context("no pipe to the orchestrator")?;
        let answers = child.stdout.take().context("no pipe from the orchestrator")?;
        let mut server = Self {
            child,
            orders,
            answers: BufReader::new(answers).lines(),
            address: String::new(),
            token: Secret::new(""),
            store: String::new(),
        };
        match server.answer().await? {
            Answer::Ready { address, token, store } => {
                (server.address, server.token, server.store) = (address, token, store);
                Ok(server)
            }
            other => anyhow::bail!("the orchestrator said {other:?} instead of where it listens"),
        }
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.id().context("the orchestrator has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 =
            resident.and_then(|text| text.split_whitespace().next()).context("no VmRSS")?.parse()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name, which may hold blanks, in parentheses.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let per_second = rustix::param::clock_ticks_per_second();
        // Fields 14 and 15 of proc(5): utime and stime.
        let cpu = Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64);
        Ok(Usage { memory_bytes: kib * 1024, cpu })
    }

    pub(crate) async fn enqueue(&mut self, jobs: u64) -> anyhow::Result<()> {
        self.order(Order::Enqueue(jobs)).await
    }

    /// Waits until it has enqueued all.
    pub(crate) async fn enqueued(&mut self) -> anyhow::Result<()> {
        match self.answer().await? {
            Answer::Enqueued => Ok(()),
            other => anyhow::bail!("the orchestrator said {other:?}"),
        }
    }

    pub(crate) async fn pace(&mut self, per_second: u32, length: Duration) -> anyhow::Result<Paced> {
        self.order(Order::Pace { per_second, seconds: length.as_secs() }).await?;
        match self.answer().await? {
            Answer::Paced(paced) => Ok(paced),
            other => anyhow::bail!("the orchestrator said {other:?}"),
        }
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.order(Order::Stop).await?;
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        anyhow::ensure!(ended.context("the orchestrator did not stop within 30 s")??.success(), "it failed");
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the orchestrator's process cannot be killed")
    }

    async fn order(&mut self, order: Order) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        self.orders.write_all(&line).await.context("the orchestrator's process does not listen any more")
    }

    async fn answer(&mut self) -> anyhow::Result<Answer> {
        let line = self.answers.next_line().await?.context("the orchestrator's process has ended")?;
        serde_json::from_str(&line).with_context(|| format!("not an answer: {line}"))
    }
}

fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Full => "full",
        Durability::Normal => "normal",
        Durability::Off => "off",
    }
}

/// Lets this process and those that it starts hold so many connections.
pub(crate) fn raise_file_limit(wanted: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map_or(wanted, |maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: Some(maximum) })
        .with_context(|| format!("{wanted} open files are needed; raise the limit with ulimit -n {wanted}"))
}
