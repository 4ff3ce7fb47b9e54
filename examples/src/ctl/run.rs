//! `mamosctl run`: a whitelisted command on an agent.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::cli::pair;
use super::client::Client;
use super::ending::Ending;
use super::jobs::{JobOptions, ending_of, store, wait_for_end};
use super::logs;
use super::output::Output;
use super::trouble::Trouble;
use super::view::text;

/// The log has ended: the job is on record as ended in a moment.
const SOON: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct RunOrder {
    /// The command, as `mamosctl commands list` names it
    command: String,
    /// Its parameters
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// How often it may be tried when it fails
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    #[command(flatten)]
    options: JobOptions,
    /// Print what it prints, and end when it ends; exit code 7 if it failed
    #[arg(long, short)]
    follow: bool,
}

pub(super) async fn run(order: RunOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let parameters: Map<_, _> =
        order.parameters.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    let mut body = Map::new();
    body.insert("command".to_owned(), Value::from(order.command.as_str()));
    body.insert("parameters".to_owned(), Value::Object(parameters));
    // Whoever types a command sees it fail, and decides.
    body.insert("retry".to_owned(), json!({"max_attempts": order.attempts}));
    order.options.add_to(&mut body);
    let job = store(client, output, Value::Object(body), &format!("run {}", order.command)).await?;
    let id = text(&job, "id");
    if !order.follow {
        if output.is_json() {
            output.line(&job)?
        } else {
            output.line(id)?
        }
        return Ok(Ending::Fine);
    }
    output.say(format_args!("-- job {id}; `mamosctl jobs cancel {id}` ends it, an interrupt here does not"));
    logs::follow(client, output, &id, None).await?;
    let job = wait_for_end(client, &id, SOON).await?;
    if output.is_json() {
        output.line(&job)?;
    }
    Ok(ending_of(&job, output))
}
