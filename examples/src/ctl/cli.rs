//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::access::{KeysOrder, RolesOrder, UsersOrder};
use super::account::{LoginOrder, SetupOrder};
use super::agents::AgentsOrder;
use super::audit::AuditOrder;
use super::commands::CommandsOrder;
use super::jobs::JobsOrder;
use super::logs::LogsOrder;
use super::queues::QueuesOrder;
use super::run::RunOrder;
use super::status::StatusOrder;
use super::tail::TailOrder;
use super::tokens::TokensOrder;
use super::trouble::Trouble;

/// Looks after agents, jobs, queues and users of a MAMOS orchestrator.
///
/// Exit codes: 0 all went well; 1 it did not; 2 wrong usage; 3 not found; 4 it contradicts what is there;
/// 5 not logged in, or not allowed; 6 nobody answered in time; 7 the awaited job failed; 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "mamosctl", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) globals: Globals,
    #[command(subcommand)]
    pub(super) order: Order,
}

/// What every order takes.
#[derive(Args)]
pub(super) struct Globals {
    /// The orchestrator, for example https://mamos.example; else that of the last login
    #[arg(long, value_name = "URL", env = "MAMOS_SERVER", global = true)]
    pub(super) server: Option<String>,
    /// An API key or a session; else that of the login
    #[arg(long, env = "MAMOS_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// A file that holds it
    #[arg(long, value_name = "FILE", env = "MAMOS_TOKEN_FILE", global = true)]
    token_file: Option<PathBuf>,
    /// The authorities that may sign the orchestrator's certificate, as PEM; else the system's
    #[arg(long, value_name = "FILE", env = "MAMOS_CA", global = true)]
    pub(super) ca: Option<PathBuf>,
    /// The fingerprint of the orchestrator's certificate: sha256: and 64 hexadecimal digits
    #[arg(long, value_name = "FINGERPRINT", env = "MAMOS_PIN", global = true)]
    pub(super) pin: Option<String>,
    /// Allow http:// to another machine
    #[arg(long, global = true)]
    pub(super) allow_plain_text: bool,
    /// Print the JSON of the API: one object, or one a line for lists and streams
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// When to use colours; NO_COLOR in the environment means never
    #[arg(long, value_enum, default_value = "auto", global = true)]
    pub(super) color: When,
    /// How long to wait for the orchestrator
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration, global = true)]
    pub(super) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// Log in with a password, and remember it on this machine
    Login(LoginOrder),
    /// Log out, here and at the orchestrator
    Logout,
    /// Show who you are and what you may do
    Whoami,
    /// Change your password
    Passwd {
        /// Read both passwords from standard input, a line each
        #[arg(long)]
        password_stdin: bool,
    },
    /// Make the first administrator, with the setup token (--token) that the orchestrator printed
    Setup(SetupOrder),
    /// What runs jobs
    #[command(subcommand)]
    Agents(AgentsOrder),
    /// What is to be run, runs and ran
    #[command(subcommand)]
    Jobs(JobsOrder),
    /// What new agents register with
    #[command(subcommand)]
    Tokens(TokensOrder),
    /// Named lines of jobs
    #[command(subcommand)]
    Queues(QueuesOrder),
    /// What the whitelist allows
    #[command(subcommand)]
    Commands(CommandsOrder),
    /// Run a whitelisted command on an agent
    Run(RunOrder),
    /// Print what a job printed
    Logs(LogsOrder),
    /// Say where a job is and what it waits for
    Why {
        /// The id of the job
        job: String,
    },
    /// Print what happens, as it happens
    Tail(TailOrder),
    /// Show agents, queues and jobs at a glance; refreshed on a terminal
    Status(StatusOrder),
    /// Who may log in
    #[command(subcommand)]
    Users(UsersOrder),
    /// API keys for programs
    #[command(subcommand)]
    Keys(KeysOrder),
    /// Named sets of permissions
    #[command(subcommand)]
    Roles(RolesOrder),
    /// Who did what
    Audit(AuditOrder),
    /// Print the key that agents pin over a bus
    LinkKey,
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the description of the API (OpenAPI 3.1)
    OpenApi,
}

impl Globals {
    /// The token that was given, if one was: as such, or in a file.
    pub(super) fn token(&self) -> Result<Option<String>, Trouble> {
        let filled = |text: &String| !text.is_empty();
        if let Some(token) = self.token.clone().filter(filled) {
            return Ok(Some(token));
        }
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Trouble::usage(format!("the token in {} cannot be read: {error}", path.display()))
        })?;
        Ok(Some(text.trim().to_owned()))
    }
}

/// Prints without the token.
impl std::fmt::Debug for Globals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Globals").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Reads `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, for example zone=eu".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }
}
