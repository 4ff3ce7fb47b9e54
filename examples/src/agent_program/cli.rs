//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::check::CheckOrder;
use super::register::RegisterOrder;
use crate::program::ServiceOrder;

/// Runs whitelisted commands on this machine for a MAMOS orchestrator.
///
/// Flags win over variables (MAMOS_AGENT_SERVER, …), those over the file of settings, and that over the
/// defaults.
///
/// Exit codes: 0 all went well; 1 it did not; 2 wrong usage or settings; 4 another agent has the identity
/// or the state directory, or it is registered already; 5 the orchestrator refuses the agent; 6 the
/// orchestrator did not answer in time; 130 ended at once by a second signal.
#[derive(Debug, Parser)]
#[command(name = "mamos-agent", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) flags: Flags,
    #[command(subcommand)]
    pub(super) order: Order,
}

#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// Run until SIGTERM or SIGINT; a second one ends it at once. SIGHUP reads the whitelist anew
    Run,
    /// Register with a token, fill the state directory, and exit
    Register(RegisterOrder),
    /// Read the settings, the whitelist and the state, connect, and say what would happen
    Check(CheckOrder),
    /// The systemd service
    #[command(subcommand)]
    Service(ServiceOrder),
}

/// Settings as flags.
#[derive(Args)]
pub(super) struct Flags {
    /// The file of settings: TOML, or YAML by its ending [usual: /etc/mamos/agent.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// The orchestrator: wss://HOST, ws://HOST, tcp://HOST:PORT or unix:PATH, or a bus: nats://HOST,
    /// redis://HOST or amqp://HOST. May be given more than once, for several on one store
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub(super) server: Vec<String>,
    /// A file that holds it, for an address with a password
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) server_file: Option<String>,
    /// The authorities that may sign its certificate, as PEM; else the system's
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) ca: Option<String>,
    /// The fingerprint of its certificate: sha256: and 64 hexadecimal digits; over a bus its key, as
    /// `mamos-server check` shows it. May be given more than once
    // A key may begin with a hyphen.
    #[arg(long, value_name = "PIN", global = true, allow_hyphen_values = true)]
    pub(super) pin: Vec<String>,
    /// The name of links over a bus, as the broker's permissions have it [default: made of the name]
    #[arg(long, value_name = "NAME", global = true)]
    pub(super) bus_name: Option<String>,
    /// Allow ws://, tcp:// and unencrypted brokers on another machine
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) allow_plain_text: Option<bool>,
    /// A name for people [default: the name of the machine]
    #[arg(long, global = true)]
    pub(super) name: Option<String>,
    /// The kind of agent, the first part of its id [default: agent]
    #[arg(long, global = true)]
    pub(super) kind: Option<String>,
    /// What jobs can select it by; may be given more than once
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair, global = true)]
    pub(super) labels: Vec<(String, String)>,
    /// How many commands run at once [default: as many as the machine has processors]
    #[arg(long, global = true)]
    pub(super) slots: Option<u32>,
    /// Where the identity and results that were not sent are kept
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) state_directory: Option<String>,
    /// The commands that may run here; without it none
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) whitelist: Option<String>,
    /// The one-time token to register with; better in a file or a variable, where others cannot see it
    #[arg(long, value_name = "TOKEN", global = true)]
    pub(super) registration_token: Option<String>,
    /// A file that holds it
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) registration_token_file: Option<String>,
    /// How much to say: error, warn, info, debug or trace, or as RUST_LOG [default: info]
    #[arg(long, value_name = "FILTER", global = true)]
    pub(super) log: Option<String>,
    /// Send how busy the machine is [default: true]
    #[arg(long, value_name = "BOOL", global = true)]
    pub(super) report_load: Option<bool>,
    /// How long running commands may go on after a signal [default: 30s]
    #[arg(long, value_name = "DURATION", global = true)]
    pub(super) drain_timeout: Option<String>,
}

/// Prints without the token and the addresses, which may hold passwords.
impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flags").field("config", &self.config).finish_non_exhaustive()
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
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

    #[test]
    fn a_pin_may_begin_with_a_hyphen() {
        let cli = Cli::try_parse_from(["mamos-agent", "--pin", "-6EHv_POEL4", "run"]).unwrap();
        assert_eq!(cli.flags.pin, ["-6EHv_POEL4"]);
    }
}
