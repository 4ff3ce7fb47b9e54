//! A process becomes an agent: this program, started anew by `agents.rs`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mamos_agent::{AgentRuntime, CommandRunner, HandlerRegistry, SystemLoad};
use mamos_core::AgentKind;
use mamos_core::auth::Secret;
use mamos_transport::socket::UnixFrameConnector;
use tokio::signal::unix::{SignalKind, signal};

use super::cli::AgentOptions;
use super::ending::Ending;
use super::numbers::{Square, square};
use super::policy;

/// The variable that holds the registration token.
pub(super) const TOKEN: &str = "MAMOS_TOKEN";
/// How many jobs an agent runs at once. Many, because these jobs only wait.
const SLOTS: u32 = 100;

/// Runs jobs until it is told to stop.
pub(super) async fn run(options: AgentOptions) -> Result<Ending> {
    let kind = AgentKind::new("quickstart")?;
    // It asks its own whitelist again: an orchestrator cannot make it run anything else.
    let commands = CommandRunner::builder(policy::load()?, kind.clone()).pids(options.state.join("pids"));
    let agent = HandlerRegistry::new(kind, options.name)
        .slots(SLOTS)
        .version(env!("CARGO_PKG_VERSION"))
        .register::<Square, _>(square)?
        .with_agent(Arc::new(commands.build()?))?;
    let connector = UnixFrameConnector::new(options.socket);
    let mut runtime = AgentRuntime::builder(Arc::new(agent), Arc::new(connector))
        .state_directory(options.state)
        .drain_timeout(Duration::from_secs(3))
        .load(Arc::new(SystemLoad::new()?), 1);
    if let Ok(token) = std::env::var(TOKEN) {
        runtime = runtime.registration(Secret::new(token));
    }
    runtime.build()?.run(told_to_stop()?).await.context("the agent ended")?;
    Ok(Ending::Fine)
}

/// Completes at SIGTERM, or when the quickstart is gone: an agent without it has nothing to live for.
fn told_to_stop() -> Result<impl Future<Output = ()>> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let parent = std::os::unix::process::parent_id();
    Ok(async move {
        let mut look = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = terminated.recv() => return,
                _ = look.tick() => if std::os::unix::process::parent_id() != parent { return },
            }
        }
    })
}
