//! The program of an agent: one process of many, so it makes do with one thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use mamos_agent::{AgentHandle, AgentRuntime, HandlerRegistry};
use mamos_core::auth::Secret;
use mamos_core::{Agent, AgentKind};
use mamos_transport::WebSocketConnector;

use super::evidence::{Notebook, What};
use super::place::{Place, SLOTS, Sabotage, end_with_the_driver};
use super::work::Work;

/// What an agent must be told.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// Where all files are.
    pub directory: PathBuf,
    /// Which agent it is.
    #[arg(long)]
    pub number: usize,
    /// Where the server is, or what stands between.
    #[arg(long)]
    pub server: String,
    /// A fault to put in.
    #[arg(long)]
    pub sabotage: Option<Sabotage>,
}

/// Runs an agent until it is killed.
///
/// # Errors
///
/// If it cannot begin, or gives up.
pub fn run(arguments: AgentArguments) -> anyhow::Result<()> {
    end_with_the_driver();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let place = Place::new(&arguments.directory);
        let notebook = Notebook::open(&place, arguments.number)?;
        notebook.note(What::Began);
        let ended = live(&arguments, &place, &notebook).await;
        let why =
            ended.as_ref().err().map_or_else(|| "it was drained".to_owned(), |error| format!("{error:#}"));
        notebook.note(What::GaveUp { why });
        ended
    })
}

async fn live(arguments: &AgentArguments, place: &Place, notebook: &Notebook) -> anyhow::Result<()> {
    let secrets = std::fs::read_to_string(place.secrets()).context("no secrets yet")?;
    let token = Secret::new(secrets.lines().next().unwrap_or_default());
    let connector = Arc::new(WebSocketConnector::builder(&arguments.server).build()?);
    let handler = {
        let notebook = notebook.clone();
        move |work: Work, context| work.perform(notebook.clone(), context)
    };
    let registry =
        HandlerRegistry::new(AgentKind::new("restart")?, format!("agent {}", arguments.number)).slots(SLOTS);
    let agent: Arc<dyn Agent> = Arc::new(registry.register::<Work, _>(handler)?);
    let directory = place.agent(arguments.number);
    let is_forgetful = arguments.sabotage == Some(Sabotage::Amnesia);
    loop {
        let builder = AgentRuntime::builder(Arc::clone(&agent), Arc::clone(&connector) as _)
            .registration(token.clone())
            // Scenarios follow each other faster than outages in life.
            .stable_after(Duration::from_secs(1));
        let runtime = match is_forgetful {
            false => builder.state_directory(&directory).build()?,
            true => builder.identity_file(directory.with_extension("identity")).build()?,
        };
        let handle = runtime.handle();
        tokio::select! {
            ended = runtime.run(std::future::pending()) => {
                ended?;
                return Ok(());
            }
            () = watch_link(&handle, notebook, is_forgetful) => {}
        }
    }
}

/// Writes down when the link comes and goes; ends with the first link if the agent is to forget it.
async fn watch_link(handle: &AgentHandle, notebook: &Notebook, is_forgetful: bool) {
    loop {
        let status = handle.wait_until(|status| status.is_connected).await;
        let Some(session) = status.session.filter(|_| status.is_connected) else {
            return std::future::pending().await;
        };
        notebook.note(What::Linked { session });
        let status =
            handle.wait_until(|status| !status.is_connected || status.session != Some(session)).await;
        if !status.is_connected {
            notebook.note(What::Unlinked);
            if is_forgetful {
                return;
            }
        }
    }
}
