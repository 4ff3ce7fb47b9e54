//! An orchestrator on SQLite with a client in it, made to be killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use mamos_core::Orchestrator;
use mamos_simulation::crash::{Files, LEASE_TTL, Marks, enqueue, issue_token};
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
    issue_token(&orchestrator, &files, 10).await?;
    let who = format!("{}/{}", arguments.seed, arguments.life);
    let running = orchestrator.run(std::future::pending());
    tokio::select! {
        ended = running => ended.context("the orchestrator ended"),
        ended = enqueue(&orchestrator, &files, &who) => ended.context("the client ended"),
    }
}
