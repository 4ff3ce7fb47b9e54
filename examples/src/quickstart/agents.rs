//! The process that an agent lives in: started, watched, killed and stopped.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use mamos_agent::Identity;
use mamos_agent::lifecycle::ChildProcess;
use mamos_core::orchestrator::{LiveAgent, TokenScope};
use mamos_core::{Lifecycle, Orchestrator};

use super::agent::TOKEN;
use super::place::{Place, absolute};

/// How long an agent may take to connect.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an agent may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// An agent in a process of its own: this very program, with other arguments.
pub(super) struct AgentProcess {
    name: &'static str,
    process: ChildProcess,
    is_new: bool,
}

impl AgentProcess {
    /// Prepares an agent, and makes a one-time registration token for it unless it has registered in
    /// an earlier run: then it still has its identity.
    pub(super) async fn prepare(
        name: &'static str,
        place: &Place,
        orchestrator: &Orchestrator,
    ) -> Result<Self> {
        let state = absolute(&place.agent_state(name));
        let identity = Identity::load(&state.join("identity.json"))?;
        let is_new = identity.is_none_or(|identity| !identity.is_registered());
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let mut process = ChildProcess::new(program)
            .argument("agent")
            .argument("--name")
            .argument(name)
            .argument("--socket")
            .argument(place.socket())
            .argument("--state")
            .argument(state)
            .show_output();
        for variable in ["RUST_LOG", "NO_COLOR"] {
            if let Ok(value) = std::env::var(variable) {
                process = process.variable(variable, value);
            }
        }
        if is_new {
            let (_, token) = orchestrator.create_token(TokenScope::once(Duration::from_secs(60))).await?;
            process = process.variable(TOKEN, token.expose());
        }
        Ok(Self { name, process, is_new })
    }

    /// Starts it, and waits until it is connected.
    pub(super) async fn start(&self, orchestrator: &Orchestrator) -> Result<LiveAgent> {
        let mut events = orchestrator.events();
        self.process.start().await?;
        let connected = async {
            loop {
                if let Some(agent) = self.live(orchestrator) {
                    return Some(agent);
                }
                events.next().await?;
            }
        };
        tokio::select! {
            connected = connected => connected.context("the orchestrator is gone"),
            why = self.process.ended() => {
                bail!("agent {} ended before it was connected: {}", self.name, why.unwrap_or_default())
            }
            () = tokio::time::sleep(PATIENCE) => bail!("agent {} did not connect within {PATIENCE:?}", self.name),
        }
    }

    /// The agent as the orchestrator sees it, while it is connected.
    pub(super) fn live(&self, orchestrator: &Orchestrator) -> Option<LiveAgent> {
        orchestrator.live_agents().into_iter().find(|agent| agent.name == self.name)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Must it register, because it has no identity yet?
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Kills it with SIGKILL: no goodbye, as in a power cut.
    pub(super) fn kill(&self) {
        self.process.kill();
    }

    /// Lets it finish what it runs and say goodbye.
    pub(super) async fn stop(&self) -> Result<()> {
        Ok(self.process.stop(GRACE).await?)
    }
}
