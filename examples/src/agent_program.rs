//! `mamos-agent`: runs whitelisted commands on a machine.
//!
//! - `settings.rs`: what can be set; `cli.rs`: the command line, whose flags are settings too.
//! - `connect.rs`: the addresses of orchestrators become a connector. `over_bus.rs`: one over a bus.
//! - `run.rs`: runs until a signal. `register.rs`: fills the state directory. `check.rs`: says what would
//!   happen.

mod check;
mod cli;
mod connect;
mod over_bus;
mod register;
mod run;
mod settings;

use std::process::ExitCode;

pub use self::cli::Cli;
use self::cli::Order;
use crate::config::Loaded;
use crate::program::{Ending, Service, Trouble, complain, serve_as};

const SERVICE: Service = Service { name: "agent", description: "MAMOS agent: runs whitelisted commands" };

/// Does what the command line says, and gives the exit code: see [`Cli`].
pub async fn main(cli: Cli) -> ExitCode {
    let ending = obey(cli).await.unwrap_or_else(|trouble| {
        complain("mamos-agent", &trouble);
        trouble.ending
    });
    ending.into()
}

async fn obey(cli: Cli) -> Result<Ending, Trouble> {
    let Cli { flags, order } = cli;
    // The unit is made from what it is given, on whatever machine.
    if let Order::Service(order) = order {
        return serve_as(SERVICE, order);
    }
    let Loaded { settings, file } = settings::load(&flags)?;
    match order {
        Order::Run => run::run(settings, file).await,
        Order::Register(order) => register::run(settings, order).await,
        Order::Check(order) => check::run(settings, file, order).await,
        Order::Service(_) => Ok(Ending::Usage),
    }
}
