//! An orchestrator with one agent, all in this process: what the small examples begin with.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mamos_agent::AgentRuntime;
use mamos_core::orchestrator::TokenScope;
use mamos_core::{Agent, Orchestrator};
use mamos_store::MemoryStore;

/// Starts an orchestrator over a memory store, and an agent that is linked to it.
///
/// Returns once the agent is connected. Both run until the Tokio runtime ends; what they hold ends with
/// them.
///
/// # Errors
///
/// If the agent's profile is out of bounds, or it cannot connect.
pub async fn in_process(agent: Arc<dyn Agent>) -> Result<Orchestrator> {
    let (listener, connector) = mamos_transport::memory::pair();
    let orchestrator = Orchestrator::builder(Arc::new(MemoryStore::new())).listener(listener).build()?;
    let serving = orchestrator.clone();
    tokio::spawn(async move { serving.run(pending()).await });

    let (_, token) = orchestrator.create_token(TokenScope::once(Duration::from_secs(60))).await?;
    let runtime = AgentRuntime::builder(agent, Arc::new(connector)).registration(token).build()?;
    let handle = runtime.handle();
    tokio::spawn(runtime.run(pending()));
    let status = handle.wait_until(|status| status.is_connected).await;
    anyhow::ensure!(status.is_connected, "the agent could not connect");
    Ok(orchestrator)
}
