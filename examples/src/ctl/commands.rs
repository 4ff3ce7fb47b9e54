//! `mamosctl commands`, and the description of the API.

use clap::Subcommand;

use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::table::Column;
use super::trouble::Trouble;

const COLUMNS: [Column; 3] = [("id", "id"), ("roles", "roles"), ("description", "description")];
const PARAMETERS: [Column; 4] =
    [("parameter", "name"), ("type", "type"), ("required", "required"), ("default", "default")];

#[derive(Debug, Subcommand)]
pub(super) enum CommandsOrder {
    /// List commands
    List,
    /// Show one and its parameters
    Get { command: String },
}

pub(super) async fn run(order: CommandsOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    match order {
        CommandsOrder::List => {
            let items = client.all(&["commands"], "list the commands").await?;
            output.list(&COLUMNS, &items)?;
        }
        CommandsOrder::Get { command } => {
            let mut found =
                client.get(&["commands", &command], format!("show command {command}")).send().await?.value;
            if output.is_json() {
                output.line(&found)?;
                return Ok(Ending::Fine);
            }
            let parameters = found["parameters"].take();
            if let Some(fields) = found.as_object_mut() {
                fields.remove("parameters");
            }
            output.one(&found)?;
            match parameters.as_array() {
                Some(parameters) if !parameters.is_empty() => {
                    output.line("")?;
                    output.list(&PARAMETERS, parameters)?;
                }
                _ => output.say("it has no parameters"),
            }
        }
    }
    Ok(Ending::Fine)
}

pub(super) async fn open_api(client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let answer = client.get(&["openapi.json"], "get the description of the API").send().await?;
    output.line(format_args!("{:#}", answer.value))?;
    Ok(Ending::Fine)
}
