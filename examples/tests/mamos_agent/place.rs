//! An orchestrator, and an agent that is a program of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mamos_core::Orchestrator;
use mamos_core::auth::Principal;
use mamos_core::orchestrator::TokenScope;
use mamos_core::whitelist::policy::Policy;
use mamos_store::MemoryStore;
use mamos_transport::socket::UnixFrameListener;
use tokio::process::{Child, Command};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const WHITELIST: &str = r#"
version = 1

[commands.hello]
program = "/usr/bin/echo"
arguments = ["hello"]
allow = { roles = ["operator"] }

[commands.sleep]
program = "/usr/bin/sleep"
arguments = ["600"]
timeout = "1h"
allow = { roles = ["operator"] }
"#;

/// A directory with everything that an agent needs.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    store: Arc<MemoryStore>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("whitelist.toml"), WHITELIST).unwrap();
        let place = Self { directory, store: Arc::new(MemoryStore::new()) };
        let settings = format!(
            "server = 'unix:{}'\nname = 'one'\nslots = 2\nstate_directory = '{}'\nwhitelist = '{}'\n[labels]\nzone = 'eu'\n",
            place.path("orchestrator.sock"),
            place.path("state"),
            place.path("whitelist.toml"),
        );
        fs::write(place.path("agent.toml"), settings).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Starts an orchestrator over the same store, at the same socket.
    pub(crate) async fn orchestrator(&self) -> Running {
        let listener = UnixFrameListener::bind(PathBuf::from(self.path("orchestrator.sock"))).await.unwrap();
        let policy = Policy::parse(WHITELIST, "whitelist.toml", &mamos_agent::SystemPrograms).unwrap();
        let orchestrator = Orchestrator::builder(self.store.clone())
            .listener(listener)
            .whitelist(Arc::new(policy))
            .build()
            .unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = orchestrator.clone();
        let task = tokio::spawn(async move {
            serving
                .run(async {
                    let _ = stopped.await;
                })
                .await
                .unwrap();
        });
        Running { orchestrator, stop, task }
    }

    /// A command line for the agent, with the settings of this place.
    pub(crate) fn agent(&self, arguments: &[&str], token: Option<&str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mamos-agent"));
        command.args(["--config", &self.path("agent.toml")]).args(arguments);
        command
            .env_clear()
            .env("HOME", self.directory.path())
            .envs(token.map(|token| ("MAMOS_AGENT_REGISTRATION_TOKEN", token)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str], token: Option<&str>) -> (i32, String) {
        ended(self.agent(arguments, token).output().await.unwrap())
    }
}

/// The exit code, and everything that was printed.
pub(crate) fn ended(output: Output) -> (i32, String) {
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap_or(-1), text)
}

pub(crate) fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// An orchestrator that serves.
pub(crate) struct Running {
    pub(crate) orchestrator: Orchestrator,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) async fn token(&self) -> String {
        let scope = TokenScope::once(Duration::from_secs(600));
        let (_, token) = self.orchestrator.create_token(scope).await.unwrap();
        token.expose().to_owned()
    }

    /// Waits until so many agents are connected.
    pub(crate) async fn connected(&self, count: usize) {
        let mut events = self.orchestrator.events();
        let all_there = async {
            while self.orchestrator.live_agents().len() != count {
                events.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, all_there).await.unwrap();
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// Who asks for commands.
pub(crate) fn operator() -> Principal {
    Principal::new("user:you", ["operator"])
}
