//! An agent with a journal, made to be killed. With `--mark` it is the program of the command instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use mamos_agent::{AgentRuntime, CommandRunner, HandlerRegistry, JobContext, JobError};
use mamos_core::AgentKind;
use mamos_core::auth::Secret;
use mamos_simulation::crash::{Files, Marks, Observed, Work, append, observe};
use mamos_simulation::history::Entry;
use mamos_transport::socket::UnixFrameConnector;

const SLOTS: u32 = 6;

#[derive(Parser)]
struct Arguments {
    /// Leaves a mark in the first file for the second argument, and does nothing else.
    #[arg(long, num_args = 2)]
    mark: Option<Vec<String>>,
    /// Where all files are.
    #[arg(required_unless_present = "mark")]
    directory: Option<PathBuf>,
    /// Which life this is.
    #[arg(default_value_t = 0)]
    life: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some([file, job]) = arguments.mark.as_deref() {
        append(Path::new(file), &format!("{job}\n"), false)?;
        return Ok(());
    }
    let directory = arguments.directory.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(agent(Files::new(directory), arguments.life))
}

async fn agent(files: Files, life: u64) -> anyhow::Result<()> {
    let token = loop {
        match std::fs::read_to_string(files.token()) {
            Ok(token) => break Secret::new(token),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let life = format!("agent#{life}");
    observe(&files.observed(), &Entry::Slots { agent: life.clone(), slots: SLOTS })?;
    let kind = AgentKind::new("crash")?;
    let marks = Marks { program: std::env::current_exe()?, file: files.marks() };
    let commands = CommandRunner::builder(Arc::new(marks), kind.clone())
        .slots(SLOTS)
        .pids(files.agent().join("pids"))
        .build()?;
    let inner = HandlerRegistry::new(kind, "made to be killed")
        .slots(SLOTS)
        .register::<Work, _>(work)?
        .with_agent(Arc::new(commands))?;
    let observed = Observed { inner, file: files.observed(), life };
    let runtime =
        AgentRuntime::builder(Arc::new(observed), Arc::new(UnixFrameConnector::new(files.socket())))
            .registration(token)
            .state_directory(files.agent())
            .connect_timeout(Duration::from_secs(2))
            .build()?;
    runtime.run(std::future::pending()).await?;
    Ok(())
}

async fn work(work: Work, context: JobContext) -> Result<(), JobError> {
    tokio::time::sleep(Duration::from_millis(work.takes_ms)).await;
    if context.attempt() <= work.failures {
        return Err(JobError::retry("this attempt is to fail"));
    }
    Ok(())
}
