//! Runs whitelisted commands.
//!
//! What runs is what both whitelists permit: the orchestrator's permit comes with the job, the agent asks
//! its own again and runs the narrower of the two. There is no shell: the program is started with exactly
//! the arguments of the permit, an empty environment but for the permit's own, and nothing on its input.
//!
//! A command ends as a whole. Whatever it started runs in its process group, and the group is killed when
//! the command has ended, took too long, was cancelled, or when the future that runs it is dropped. Only
//! a process that makes a session of its own escapes; a sandbox is the answer to that, not a signal.
//!
//! An agent that is itself killed with SIGKILL cannot kill anything. With [`CommandRunnerBuilder::pids`]
//! it remembers its process groups on disk, and the next agent that starts there ends what is left of
//! them before it takes work: the orchestrator will have given that work to someone.

mod output;
mod paths;
mod pids;
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::agent::{AgentProfile, Attempt};
use mamos_core::auth::Principal;
use mamos_core::job::labels::Labels;
use mamos_core::job::{Failure, Outcome};
use mamos_core::whitelist::{CommandOrder, Denial, Permit, Whitelist};
use mamos_core::{Agent, AgentKind, Error, JobKind, Result};

use self::pids::Pids;

/// How long a command that took too long may take to end by itself before it is killed.
const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(5);

/// An agent that runs the commands of its whitelist.
#[derive(Debug)]
pub struct CommandRunner {
    whitelist: SharedWhitelist,
    profile: AgentProfile,
    stop_grace: Duration,
    pids: Option<Pids>,
}

/// Settings of a [`CommandRunner`].
#[derive(Debug)]
#[must_use = "call `build` to get the runner"]
pub struct CommandRunnerBuilder {
    whitelist: SharedWhitelist,
    profile: AgentProfile,
    stop_grace: Duration,
    pids: Option<PathBuf>,
}

impl CommandRunner {
    /// A runner for the commands of a whitelist, its own: it can only narrow what the orchestrator permits.
    pub fn builder(whitelist: Arc<dyn Whitelist>, kind: AgentKind) -> CommandRunnerBuilder {
        let mut profile = AgentProfile::new(kind, "");
        profile.version = env!("CARGO_PKG_VERSION").to_owned();
        CommandRunnerBuilder {
            whitelist: SharedWhitelist(whitelist),
            profile,
            stop_grace: DEFAULT_STOP_GRACE,
            pids: None,
        }
    }
}

impl CommandRunnerBuilder {
    /// A name for people. At most 128 bytes; default: empty.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.profile.name = name.into();
        self
    }

    /// What jobs can select the agent by. Default: nothing.
    pub fn labels(mut self, labels: Labels) -> Self {
        self.profile.labels = labels;
        self
    }

    /// How many commands run at once. 1 to 65536; default: 1.
    pub fn slots(mut self, slots: u32) -> Self {
        self.profile.slots = slots;
        self
    }

    /// How long a command that exceeded its timeout may take to end by itself. Default: 5 s.
    ///
    /// A cancelled command has the grace of its cancellation instead.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// A directory, made if missing, in which the runner remembers what it runs. Default: none.
    ///
    /// For one runner at a time. What an earlier runner left running is killed by [`Self::build`].
    pub fn pids(mut self, directory: impl Into<PathBuf>) -> Self {
        self.pids = Some(directory.into());
        self
    }

    /// Checks the settings, and ends what an earlier runner left behind.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::LimitExceeded`](mamos_core::ErrorKind::LimitExceeded): the profile is out of bounds.
    /// - [`ErrorKind::Conflict`](mamos_core::ErrorKind::Conflict): another runner uses the directory.
    /// - [`ErrorKind::Config`](mamos_core::ErrorKind::Config): the directory cannot be used.
    pub fn build(self) -> Result<CommandRunner> {
        let pids = self.pids.map(|directory| Pids::open(&directory)).transpose()?;
        let runner = CommandRunner {
            whitelist: self.whitelist,
            profile: self.profile,
            stop_grace: self.stop_grace,
            pids,
        };
        runner.profile().check()?;
        Ok(runner)
    }
}

#[async_trait]
impl Agent for CommandRunner {
    /// Asked for each session, so that a replaced whitelist is offered from the next one on.
    fn profile(&self) -> AgentProfile {
        let kinds = self.whitelist.0.commands().iter().map(JobKind::of_command).collect();
        AgentProfile { kinds, ..self.profile.clone() }
    }

    /// Runs one command.
    ///
    /// Exit code 0 is success, with a [`CommandOutput`](mamos_core::whitelist::CommandOutput) in JSON. Any
    /// other end is a failure that another attempt may not repeat: `exit_code`, `signal` or `timeout`. A
    /// command that may not run, or that cannot be started, is buried.
    async fn run(&self, attempt: Attempt) -> Outcome {
        if attempt.cancellation.is_cancelled() {
            return Outcome::Cancelled;
        }
        let permit = match self.permit(&attempt) {
            Ok(permit) => permit,
            Err(failure) => return Outcome::Bury { failure },
        };
        let checked = tokio::task::spawn_blocking(move || paths::check(&permit).map(|()| permit));
        match checked.await {
            Ok(Ok(permit)) => run::run(&permit, &attempt, self.stop_grace, self.pids.as_ref()).await,
            Ok(Err(denial)) => Outcome::Bury { failure: of_denial(&denial) },
            Err(error) => {
                let failure = Failure::new("panicked", format!("its paths could not be checked: {error}"));
                Outcome::Retry { failure, after: None }
            }
        }
    }
}

impl CommandRunner {
    fn permit(&self, attempt: &Attempt) -> std::result::Result<Permit, Failure> {
        let of_error = |error: &Error| Failure::new("bad_order", error.to_string());
        let order = CommandOrder::decode(&attempt.payload).map_err(|error| of_error(&error))?;
        if attempt.kind.command().as_ref() != Some(&order.request.command) {
            let message = format!("a job of kind {} cannot run {}", attempt.kind, order.request.command);
            return Err(Failure::new("bad_order", message));
        }
        let principal = Principal::new(order.principal, order.roles);
        let own = self.whitelist.0.permit(&order.request, &principal);
        own.and_then(|own| own.narrow(&order.permit)).map_err(|denial| of_denial(&denial))
    }
}

fn of_denial(denial: &Denial) -> Failure {
    Failure::new(denial.code.as_str(), denial.message.clone())
}

struct SharedWhitelist(Arc<dyn Whitelist>);

impl std::fmt::Debug for SharedWhitelist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.digest())
    }
}
