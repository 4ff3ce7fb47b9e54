//! An agent with a journal that writes down what it does, made to be killed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::{AgentRuntime, CommandRunner, HandlerRegistry, JobContext, JobError};
use mamos_core::AgentKind;
use mamos_core::auth::Secret;
use mamos_core::transport::Connector;

use super::{Files, Marks, Observed, Work, append, observe};
use crate::history::Entry;

const SLOTS: u32 = 6;

/// Serves as an agent until the process is killed. Its life has the name `agent#life` for the first one, and
/// `agent-number#life` for the others.
///
/// # Errors
///
/// Those of the file system, and if it is refused for good.
pub async fn serve(
    files: Files,
    number: usize,
    life: u64,
    connector: Arc<dyn Connector>,
) -> anyhow::Result<()> {
    let token = loop {
        match std::fs::read_to_string(files.token()) {
            Ok(token) => break Secret::new(token),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let life = life_name(number, life);
    observe(&files.observed(), &Entry::Slots { agent: life.clone(), slots: SLOTS })?;
    let kind = AgentKind::new("crash")?;
    let marks = Marks { program: std::env::current_exe()?, file: files.marks() };
    let commands = CommandRunner::builder(Arc::new(marks), kind.clone())
        .slots(SLOTS)
        .pids(files.agent(number).join("pids"))
        .build()?;
    let inner = HandlerRegistry::new(kind, "made to be killed")
        .slots(SLOTS)
        .register::<Work, _>(work)?
        .with_agent(Arc::new(commands))?;
    let observed = Observed { inner, file: files.observed(), life };
    let runtime = AgentRuntime::builder(Arc::new(observed), connector)
        .registration(token)
        .state_directory(files.agent(number))
        .connect_timeout(Duration::from_secs(2))
        // Links are cut every few seconds here, and not because of whom they lead to.
        .stable_after(Duration::from_secs(1))
        .build()?;
    runtime.run(std::future::pending()).await?;
    Ok(())
}

/// What a life of an agent is called in the observations.
pub fn life_name(number: usize, life: u64) -> String {
    if number == 0 { format!("agent#{life}") } else { format!("agent-{number}#{life}") }
}

/// Leaves a mark, as the program of the command does.
///
/// # Errors
///
/// Those of the file system.
pub fn mark(file: &Path, job: &str) -> std::io::Result<()> {
    append(file, &format!("{job}\n"), false)
}

async fn work(work: Work, context: JobContext) -> Result<(), JobError> {
    tokio::time::sleep(Duration::from_millis(work.takes_ms)).await;
    if context.attempt() <= work.failures {
        return Err(JobError::retry("this attempt is to fail"));
    }
    Ok(())
}
