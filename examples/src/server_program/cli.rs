//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::program::ServiceOrder;

/// An orchestrator: keeps jobs and agents, and serves the API and the agents' WebSocket.
///
/// Flags win over variables (MAMOS_SERVER_LISTEN, …), those over the file of settings, and that over the
/// defaults.
///
/// Exit codes: 0 all went well, or stopped in order; 1 it failed; 2 wrong usage or settings; 3 there is no
/// database or unit; 4 what is to be written is there and differs; 6 the address is taken or the store does not
/// answer; 130 ended at once by a second signal.
#[derive(Debug, Parser)]
#[command(name = "mamos-server", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub(super) flags: Flags,
    #[command(subcommand)]
    pub(super) order: Option<Order>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// Run until SIGTERM or SIGINT; a second one ends it at once. SIGHUP reads the whitelist and the certificate anew
    Run,
    /// Read the settings, the whitelist and the certificate, open the store if there is one, and say what
    /// would happen; also while the server runs
    Check,
    /// Copy the database into a new file, consistent as of now; also while the server runs
    Backup {
        /// The file to make
        file: PathBuf,
    },
    /// The systemd service
    #[command(subcommand)]
    Service(ServiceOrder),
}

/// Settings as flags.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The file of settings: TOML, or YAML by its ending [usual: /etc/mamos/server.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// For trying out: on this machine only, in memory unless a store is named, with an admin, a key and a
    /// registration token that are shown
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) dev: Option<bool>,
    /// Where to listen [default: 127.0.0.1:7117]
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub(super) listen: Option<String>,
    /// How others reach it, for example https://mamos.example [default: the address]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) public_url: Option<String>,
    /// The certificate with its chain, as PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) tls_certificate: Option<String>,
    /// Its private key, as PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) tls_key: Option<String>,
    /// Serve other machines without TLS
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) allow_plain_text: Option<bool>,
    /// Where everything is kept: sqlite:FILE, postgres://USER@HOST/DATABASE, redis://HOST or memory; a
    /// password belongs into the file that `store_file` names [default: sqlite in the state directory]
    #[arg(long, value_name = "STORE", global = true)]
    pub(super) store: Option<String>,
    /// A file that holds the store's URL
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) store_file: Option<String>,
    /// Also take agents over a bus: nats://HOST, redis://HOST or amqp://HOST; a password belongs into the
    /// file that `bus_file` names
    #[arg(long, value_name = "BUS", global = true)]
    pub(super) bus: Option<String>,
    /// A file that holds the bus' URL
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) bus_file: Option<String>,
    /// The name of this orchestrator, unique among those on one store [default: main]
    #[arg(long, global = true)]
    pub(super) name: Option<String>,
    /// What an answer of SQLite survives: full, normal or off [default: full]
    #[arg(long, global = true)]
    pub(super) durability: Option<String>,
    /// Where the database is kept
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) state_directory: Option<String>,
    /// The commands that may run, and for whom; without it none
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) whitelist: Option<String>,
    /// Also take agents at this Unix socket
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) unix: Option<String>,
    /// Also take agents over plain TCP at this address, on this machine unless plain text is allowed
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub(super) tcp: Option<String>,
    /// After how long without a sign of an agent its jobs are given to others [default: 30s]
    #[arg(long, value_name = "DURATION", global = true)]
    pub(super) lease_ttl: Option<String>,
    /// How often agents must say something [default: 10s]
    #[arg(long, value_name = "DURATION", global = true)]
    pub(super) heartbeat_every: Option<String>,
    /// How much to say: error, warn, info, debug or trace, or as RUST_LOG [default: info]
    #[arg(long, value_name = "FILTER", global = true)]
    pub(super) log: Option<String>,
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
