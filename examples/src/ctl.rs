//! `mamosctl`: what an operator types. It speaks to the API of an orchestrator and knows nothing else.
//!
//! - `cli.rs`: the command line. Each noun has a file of its own with its orders: `agents.rs`, `jobs.rs` …
//! - `client.rs`: one request, tried again where that is safe. `stream.rs`: a stream that is taken up
//!   again where it was cut; `sse.rs` reads its format.
//! - `output.rs`: standard output holds data and nothing else. `table.rs` and `view.rs` draw it, pure.
//! - `trouble.rs`: what went wrong, why, what to do, and the exit code.

mod access;
mod account;
mod agents;
mod audit;
mod bytes;
mod cli;
mod client;
mod commands;
mod credentials;
mod ending;
mod jobs;
mod link_key;
mod logs;
mod output;
mod problem;
mod queues;
mod run;
mod sse;
mod status;
mod stream;
mod table;
mod tail;
mod tokens;
mod trouble;
mod trust;
mod view;

use std::process::ExitCode;

use clap::CommandFactory;

pub use self::cli::Cli;
use self::cli::Order;
use self::client::Client;
use self::ending::Ending;
use self::output::Output;
use self::trouble::Trouble;

/// Does what the command line says, and gives the exit code: see [`Cli`].
pub async fn main(cli: Cli) -> ExitCode {
    let ending = tokio::select! {
        result = obey(cli) => result.unwrap_or_else(|trouble| {
            output::complain(&trouble);
            trouble.ending
        }),
        Ok(()) = tokio::signal::ctrl_c() => Ending::Interrupted,
    };
    ending.into()
}

async fn obey(cli: Cli) -> Result<Ending, Trouble> {
    let Cli { globals, order } = cli;
    let output = &Output::new(globals.json, globals.color);
    let client = || Client::connect(&globals);
    match order {
        Order::Completions { shell } => {
            // In memory first: the generator takes a reader that has enough for a fault of the program.
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mamosctl", &mut text);
            output.raw(&text)?;
            Ok(Ending::Fine)
        }
        Order::Login(order) => account::login(&globals, order, output).await,
        Order::Setup(order) => account::setup(&globals, order, output).await,
        Order::Logout => account::logout(&globals, output).await,
        Order::Whoami => account::whoami(&client()?, output).await,
        Order::Passwd { password_stdin } => account::passwd(&client()?, output, password_stdin).await,
        Order::Agents(order) => agents::run(order, &client()?, output).await,
        Order::Jobs(order) => jobs::run(order, &client()?, output).await,
        Order::Tokens(order) => tokens::run(order, &client()?, output).await,
        Order::Queues(order) => queues::run(order, &client()?, output).await,
        Order::Commands(order) => commands::run(order, &client()?, output).await,
        Order::Run(order) => run::run(order, &client()?, output).await,
        Order::Logs(order) => logs::run(order, &client()?, output).await,
        Order::Why { job } => jobs::why(&job, &client()?, output).await,
        Order::Tail(order) => tail::run(order, &client()?, output).await,
        Order::Status(order) => status::run(order, &client()?, output).await,
        Order::Users(order) => access::users(order, &client()?, output).await,
        Order::Keys(order) => access::keys(order, &client()?, output).await,
        Order::Roles(order) => access::roles(order, &client()?, output).await,
        Order::Audit(order) => audit::run(order, &client()?, output).await,
        Order::LinkKey => link_key::run(&client()?, output).await,
        Order::OpenApi => commands::open_api(&client()?, output).await,
    }
}
