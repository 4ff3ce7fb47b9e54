//! An orchestrator with a client in it, on any store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use mamos_core::Orchestrator;

use super::Link;
use crate::crash::{Files, Marks, enqueue, issue_token};

/// More than there are agents, and lives of them.
const AGENTS: u32 = 100;

/// What an orchestrator is told.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Where all files are.
    #[arg(long)]
    pub directory: PathBuf,
    /// Its name, unique on the store.
    #[arg(long)]
    pub name: String,
    /// The URL of the store.
    #[arg(long)]
    pub store: String,
    /// The ways for agents.
    #[arg(long)]
    pub link: Vec<Link>,
    /// The lease of a session, in seconds.
    #[arg(long)]
    pub lease: u64,
    /// What the client's jobs are drawn from.
    #[arg(long)]
    pub seed: u64,
}

/// Serves until the process is killed.
///
/// # Errors
///
/// Those of the store that do not pass, and of the file system.
pub async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let files = Files::new(&arguments.directory);
    let store = open(&arguments.store).await?;
    let mut builder = Orchestrator::builder(store);
    for link in &arguments.link {
        builder = builder.listener(link.listener().await?);
    }
    let program = std::env::current_exe()?;
    let lease = Duration::from_secs(arguments.lease);
    let orchestrator = builder
        .name(arguments.name.clone())
        .whitelist(Arc::new(Marks { program, file: files.marks() }))
        .lease_ttl(lease)
        .heartbeat_every(lease / 6)
        .sweep_every(Duration::from_millis(500))
        .prefetch(4)
        .keep_ended(None)
        .build()?;
    issue_token(&orchestrator, &files, AGENTS).await?;
    let who = format!("{}/{}/{}", arguments.seed, arguments.name, std::process::id());
    let running = orchestrator.run(std::future::pending());
    tokio::select! {
        ended = running => ended.context("the orchestrator ended"),
        ended = enqueue(&orchestrator, &files, &who) => ended.context("the client ended"),
    }
}

/// Opens a store, waiting for a server that is away.
pub(super) async fn open(url: &str) -> anyhow::Result<Arc<dyn mamos_core::Store>> {
    loop {
        match mamos_store::open(url).await {
            Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(100)).await,
            opened => return Ok(opened?),
        }
    }
}
