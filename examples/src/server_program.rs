//! `mamos-server`: an orchestrator with its HTTP API and the agents' WebSocket.
//!
//! - `settings.rs`: what can be set; `cli.rs`: the command line, whose flags are settings too.
//! - `compose.rs`: the settings become an orchestrator, an API and a server. `run.rs`: runs them until a signal.
//! - `links.rs`: agents over a bus.
//! - `welcome.rs`: what whoever starts it for the first time must know. `check.rs`: says what would happen.
//!   `backup.rs`: copies the database.

mod backup;
mod check;
mod cli;
mod compose;
mod links;
mod run;
mod settings;
mod welcome;

use std::process::ExitCode;

pub use self::cli::Cli;
use self::cli::Order;
use crate::config::Loaded;
use crate::program::{Ending, Service, Trouble, complain, serve_as};

const SERVICE: Service = Service { name: "server", description: "MAMOS server: an orchestrator and its API" };

/// Does what the command line says, and gives the exit code: see [`Cli`].
pub async fn main(cli: Cli) -> ExitCode {
    let ending = obey(cli).await.unwrap_or_else(|trouble| {
        complain("mamos-server", &trouble);
        trouble.ending
    });
    ending.into()
}

async fn obey(cli: Cli) -> Result<Ending, Trouble> {
    let Cli { flags, order } = cli;
    let order = order.unwrap_or(Order::Run);
    // The unit is made from what it is given, on whatever machine.
    if let Order::Service(order) = order {
        return serve_as(SERVICE, order);
    }
    let Loaded { settings, file } = settings::load(&flags)?;
    match order {
        Order::Run => run::run(settings, file).await,
        Order::Check => check::run(settings, file).await,
        Order::Backup { file } => backup::run(&settings, &file).await,
        Order::Service(_) => Ok(Ending::Usage),
    }
}
