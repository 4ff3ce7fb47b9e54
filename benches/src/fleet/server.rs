//! The orchestrator's process: told what to do on stdin, answers on stdout.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::{NewJob, Priority};
use mamos_core::orchestrator::TokenScope;
use mamos_core::{JobId, JobKind, Orchestrator, QueueName, Store};
use mamos_http::{AGENT_LINK_PATH, AgentEndpoint, Server};
use mamos_store::{MemoryStore, SqliteSettings, SqliteStore};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use super::process::{Answer, Order, Paced};
use super::settings::ServerArguments;
use crate::agents::KIND;
use crate::settings::{Durability, StoreKind};

/// How many jobs go to the orchestrator at once.
const BATCH: u64 = 1000;
/// How many callers enqueue at once.
const CALLERS: u64 = 4;

/// Serves until it is told to stop.
pub(crate) async fn serve(arguments: ServerArguments) -> anyhow::Result<()> {
    let store: Arc<dyn Store> = match arguments.store {
        StoreKind::Memory => Arc::new(MemoryStore::new()),
        StoreKind::Postgres | StoreKind::Redis => {
            anyhow::bail!("a fleet is measured on memory or sqlite; choose one with --store")
        }
        StoreKind::Sqlite => {
            let durability = match arguments.durability {
                Durability::Full => mamos_store::Durability::Full,
                Durability::Normal => mamos_store::Durability::Normal,
                Durability::Off => mamos_store::Durability::Off,
            };
            Arc::new(SqliteStore::open(SqliteSettings::new(&arguments.file).durability(durability)).await?)
        }
    };
    let (listener, route) = AgentEndpoint::new().split();
    let orchestrator = Orchestrator::builder(Arc::clone(&store)).listener(listener).prefetch(1024).build()?;
    let router = axum::Router::new().route(AGENT_LINK_PATH, route);
    let server = Server::builder(arguments.listen).max_connections(30_000).bind().await?;
    let address = server.address().to_string();
    let serving = tokio::spawn(server.run(router, std::future::pending()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runs = orchestrator.clone();
    let running = tokio::spawn(async move {
        runs.run(async {
            let _ = stopped.await;
        })
        .await
    });
    let scope = TokenScope { uses: arguments.agents, ..TokenScope::once(Duration::from_secs(3600)) };
    let (_, token) = orchestrator.create_token(scope).await?;
    say(&Answer::Ready { address, token, store: store.describe() })?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = orders.next_line().await? {
        match serde_json::from_str(&line)? {
            Order::Enqueue(jobs) => {
                enqueue(&orchestrator, jobs).await?;
                say(&Answer::Enqueued)?;
            }
            Order::Pace { per_second, seconds } => {
                say(&Answer::Paced(pace(&orchestrator, per_second, Duration::from_secs(seconds)).await?))?;
            }
            Order::Stop => break,
        }
    }
    let _ = stop.send(());
    running.await??;
    serving.abort();
    Ok(())
}

async fn enqueue(orchestrator: &Orchestrator, jobs: u64) -> anyhow::Result<()> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let orchestrator = orchestrator.clone();
        let mut left = jobs / CALLERS + u64::from(caller < jobs % CALLERS);
        callers.spawn(async move {
            while left > 0 {
                let count = left.min(BATCH);
                orchestrator.enqueue_all((0..count).map(|_| job()).collect()).await?;
                left -= count;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Submits single jobs at an even pace, whether the ones before were answered or not.
async fn pace(orchestrator: &Orchestrator, per_second: u32, length: Duration) -> anyhow::Result<Paced> {
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut callers = JoinSet::new();
    let mut jobs = 0u64;
    while begun.elapsed() < length {
        tick.tick().await;
        let due = (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        for _ in jobs..due {
            let orchestrator = orchestrator.clone();
            callers.spawn(async move { orchestrator.enqueue_all(vec![job()]).await.map(|_| ()) });
        }
        jobs = due.max(jobs);
        while let Some(ended) = callers.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(Paced { jobs, seconds: begun.elapsed().as_secs_f64() })
}

/// A job that carries the time at which it was submitted.
fn job() -> NewJob {
    thread_local! {
        static LANE: Arc<Lane> = Arc::new(Lane::new(
            QueueName::default_queue(),
            JobKind::new(KIND).expect("the kind is a valid name"),
            Selector::default(),
        ));
    }
    let now = SystemClock.now();
    NewJob {
        id: JobId::from_parts(now, fastrand::u128(..)),
        lane: LANE.with(Arc::clone),
        payload: Bytes::copy_from_slice(now.as_micros().to_string().as_bytes()),
        priority: Priority(0),
        run_at: None,
        deadline: None,
        retry: RetryPolicy::default(),
        timeout: None,
        max_crashes: 3,
        unique_key: None,
        labels: Default::default(),
        traceparent: None,
        needs_approval: false,
    }
}

#[expect(clippy::print_stdout, reason = "the pipe to the process that asked")]
fn say(answer: &Answer) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}
