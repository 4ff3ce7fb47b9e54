//! `mamosctl tokens`: what new agents register with.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Map, Value};

use super::cli::pair;
use super::client::Client;
use super::ending::Ending;
use super::jobs::millis;
use super::output::Output;
use super::table::Column;
use super::trouble::Trouble;
use super::view::text;

const COLUMNS: [Column; 6] = [
    ("id", "id"),
    ("uses left", "uses_left"),
    ("kind", "agent_kind"),
    ("name", "agent_name"),
    ("labels", "labels"),
    ("expires at", "expires_at"),
];

#[derive(Debug, Subcommand)]
pub(super) enum TokensOrder {
    /// Make one; it is shown this once
    Create {
        /// How many agents may register with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long it is good
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        valid_for: Duration,
        /// Only for agents of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only for an agent of this name
        #[arg(long)]
        name: Option<String>,
        /// A label that its agents get; may be given more than once
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
        labels: Vec<(String, String)>,
    },
    /// List those that are still good
    List,
    /// Make one worthless
    Revoke { id: String },
}

pub(super) async fn run(order: TokensOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    const PATH: &str = "registration-tokens";
    match order {
        TokensOrder::Create { uses, valid_for, kind, name, labels } => {
            let mut body = Map::new();
            body.insert("uses".to_owned(), Value::from(uses));
            body.insert("valid_for_ms".to_owned(), millis(valid_for));
            body.extend(kind.map(|kind| ("agent_kind".to_owned(), Value::from(kind))));
            body.extend(name.map(|name| ("agent_name".to_owned(), Value::from(name))));
            if !labels.is_empty() {
                let labels = labels.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
                body.insert("labels".to_owned(), Value::Object(labels));
            }
            let call = client.post(&[PATH], "make a registration token").creating();
            let token = call.body(Value::Object(body)).send().await?.value;
            if output.is_json() {
                output.line(&token)?;
            } else {
                output.say(format_args!(
                    "token {}: {} uses, good until {}; it is shown this once",
                    text(&token, "id"),
                    text(&token, "uses_left"),
                    text(&token, "expires_at"),
                ));
                output.line(text(&token, "token"))?;
            }
        }
        TokensOrder::List => {
            let items = client.list(&[PATH], &[], usize::MAX, "list the registration tokens").await?;
            output.list(&COLUMNS, &items)?;
        }
        TokensOrder::Revoke { id } => {
            client.delete(&[PATH, &id], format!("revoke registration token {id}")).send().await?;
            output.say(format_args!("registration token {id} is worthless now"));
        }
    }
    Ok(Ending::Fine)
}
