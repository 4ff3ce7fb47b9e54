//! An orchestrator on SQLite with a client in it, made to be killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use mamos_core::auth::Principal;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::orchestrator::TokenScope;
use mamos_core::store::{EnqueueResult, JobFilter, PageRequest};
use mamos_core::whitelist::CommandRequest;
use mamos_core::{CommandId, JobId, JobState, Orchestrator};
use mamos_simulation::crash::{COMMAND, Files, LEASE_TTL, Marks, Work, append};
use mamos_store::{SqliteSettings, SqliteStore};
use mamos_transport::socket::UnixFrameListener;

#[derive(Parser)]
struct Arguments {
    /// Where all files are.
    directory: PathBuf,
    /// Which life this is.
    life: u64,
    /// What the client's jobs are drawn from.
    seed: u64,
    /// The program of the agent, which is also that of the command.
    program: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let files = Files::new(&arguments.directory);
    let store = SqliteStore::open(SqliteSettings::new(files.database())).await?;
    let listener = UnixFrameListener::bind(files.socket()).await?;
    let orchestrator = Orchestrator::builder(Arc::new(store))
        .listener(listener)
        .whitelist(Arc::new(Marks { program: arguments.program.clone(), file: files.marks() }))
        .lease_ttl(LEASE_TTL)
        .heartbeat_every(LEASE_TTL / 4)
        .sweep_every(Duration::from_millis(200))
        .prefetch(4)
        .keep_ended(None)
        .build()?;
    if !files.token().exists() {
        let scope = TokenScope { uses: 10, ..TokenScope::once(Duration::from_secs(3600)) };
        let (_, token) = orchestrator.create_token(scope).await?;
        let temporary = files.token().with_extension("new");
        std::fs::write(&temporary, token.expose())?;
        std::fs::rename(temporary, files.token())?;
    }
    let running = orchestrator.run(std::future::pending());
    tokio::select! {
        ended = running => ended.context("the orchestrator ended"),
        ended = client(&orchestrator, &files, &arguments) => ended.context("the client ended"),
    }
}

/// Enqueues jobs until it is told to stop, then watches for the last of them to end.
async fn client(orchestrator: &Orchestrator, files: &Files, arguments: &Arguments) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(arguments.seed);
    let mut number = 0;
    while !files.stop().exists() {
        let mut jobs = Vec::new();
        for _ in 0..random.usize(1..=4) {
            number += 1;
            let id = JobId::from_key(&format!("{}/{}/{number}", arguments.seed, arguments.life));
            let takes_ms = if random.u8(..5) == 0 { random.u64(50..400) } else { random.u64(..15) };
            let retry = RetryPolicy::fixed(3, Duration::from_millis(50));
            let job = if random.u8(..5) == 0 {
                let request = CommandRequest::new(CommandId::new(COMMAND)?).with("job", id.to_string());
                orchestrator.run_command(request, &Principal::host())?.id(id).retry(retry).build()?
            } else {
                let failures = if random.u8(..8) == 0 { random.u32(1..4) } else { 0 };
                orchestrator.enqueue(Work { takes_ms, failures }).id(id).retry(retry).build()?
            };
            jobs.push(job);
        }
        let answers = orchestrator.enqueue_all(jobs).await?;
        let stored = answers.iter().filter(|answer| matches!(answer.result, EnqueueResult::Stored(_)));
        let lines: String = stored.map(|answer| format!("{}\n", answer.id)).collect();
        // On disk only now: what is in this file was acknowledged.
        append(&files.accepted(), &lines, true)?;
        tokio::time::sleep(Duration::from_millis(random.u64(5..60))).await;
    }
    let open = JobFilter {
        states: vec![JobState::Scheduled, JobState::Ready, JobState::Leased, JobState::Running],
        ..JobFilter::default()
    };
    loop {
        if orchestrator.jobs(open.clone(), PageRequest::first(1)).await?.items.is_empty() {
            std::fs::write(files.drained(), "")?;
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
