//! `mamosctl agents`.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::table::Column;
use super::trouble::Trouble;
use super::view::{harmless, text};

const COLUMNS: [Column; 9] = [
    ("id", "id"),
    ("name", "name"),
    ("state", "state"),
    ("liveness", "liveness"),
    ("held", "held"),
    ("slots", "slots"),
    ("labels", "labels"),
    ("heard at", "heard_at"),
    ("revoked", "revoked.reason"),
];

#[derive(Debug, Subcommand)]
pub(super) enum AgentsOrder {
    /// List agents
    List {
        /// Only those in this state
        #[arg(long)]
        state: Option<String>,
        /// Only those with this label, NAME=VALUE; may be given more than once
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// Only those of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only those that are connected (true) or are not (false)
        #[arg(long)]
        connected: Option<bool>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show one
    Get { agent: String },
    /// Let it take no new work and finish what it runs
    Drain { agent: String },
    /// Let a drained one take work again
    Resume { agent: String },
    /// Cut it off at once, and let it not come back until it is reinstated
    Revoke {
        agent: String,
        /// Why, for those who look later
        #[arg(long)]
        reason: String,
    },
    /// Let a revoked one come back
    Reinstate { agent: String },
    /// Take it out of service for good
    Decommission { agent: String },
    /// Set labels (zone=eu) or remove them (zone-)
    Label {
        agent: String,
        /// NAME=VALUE sets, NAME- removes
        #[arg(required = true, value_name = "CHANGE")]
        changes: Vec<String>,
    },
    /// Say how it is; exit code 1 unless it is well
    Health { agent: String },
    /// Show the ends of its newest logs
    Logs {
        agent: String,
        /// At most so many runs
        #[arg(long, default_value_t = 10)]
        limit: usize,
    },
}

pub(super) async fn run(order: AgentsOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    match order {
        AgentsOrder::List { state, labels, kind, connected, limit } => {
            let mut filters = Vec::new();
            filters.extend(state.map(|state| ("state", state)));
            filters.extend(kind.map(|kind| ("kind", kind)));
            filters.extend(connected.map(|connected| ("connected", connected.to_string())));
            filters.extend(labels.into_iter().map(|label| ("label", label)));
            let items = client.list(&["agents"], &filters, limit, "list the agents").await?;
            output.list(&COLUMNS, &items)?;
        }
        AgentsOrder::Get { agent } => {
            let what = format!("show agent {agent}");
            output.one(&client.get(&["agents", &agent], what).send().await?.value)?;
        }
        AgentsOrder::Drain { agent } => act(client, output, &agent, "drain", None).await?,
        AgentsOrder::Resume { agent } => act(client, output, &agent, "resume", None).await?,
        AgentsOrder::Revoke { agent, reason } => {
            act(client, output, &agent, "revoke", Some(json!({"reason": reason}))).await?;
        }
        AgentsOrder::Reinstate { agent } => act(client, output, &agent, "reinstate", None).await?,
        AgentsOrder::Decommission { agent } => act(client, output, &agent, "decommission", None).await?,
        AgentsOrder::Label { agent, changes } => label(client, output, &agent, &changes).await?,
        AgentsOrder::Health { agent } => {
            let answer = client
                .get(&["agents", &agent, "health"], format!("ask agent {agent} how it is"))
                .send()
                .await?;
            output.one(&answer.value)?;
            return Ok(if answer.value["status"] == "ok" { Ending::Fine } else { Ending::Failed });
        }
        AgentsOrder::Logs { agent, limit } => logs(client, output, &agent, limit).await?,
    }
    Ok(Ending::Fine)
}

async fn act(
    client: &Client,
    output: &Output,
    agent: &str,
    verb: &str,
    body: Option<Value>,
) -> Result<(), Trouble> {
    let mut call = client.post(&["agents", agent, verb], format!("{verb} agent {agent}"));
    if let Some(body) = body {
        call = call.body(body);
    }
    let answer = call.send().await?;
    let (state, draining) = (text(&answer.value, "state"), text(&answer.value, "draining"));
    let said = if answer.value["revoked"].is_object() {
        format!("agent {agent} is revoked, and cut off")
    } else {
        format!("agent {agent} is {state}, draining: {draining}")
    };
    output.done(format_args!("{verb}: {said}"), &answer.value)
}

/// Changes the labels that operators gave it, if nobody else changes it meanwhile.
async fn label(client: &Client, output: &Output, agent: &str, changes: &[String]) -> Result<(), Trouble> {
    let what = format!("label agent {agent}");
    let before = client.get(&["agents", agent], what.as_str()).send().await?;
    let labels = changed(before.value["operator_labels"].as_object().cloned().unwrap_or_default(), changes)?;
    let call = client.patch(&["agents", agent], what).if_match(before.tag());
    let answer = call.body(json!({"labels": labels})).send().await?;
    output.done(format_args!("agent {agent} has the labels {}", text(&answer.value, "labels")), &answer.value)
}

fn changed(mut labels: Map<String, Value>, changes: &[String]) -> Result<Map<String, Value>, Trouble> {
    for change in changes {
        match (change.split_once('='), change.strip_suffix('-')) {
            (Some((name, value)), _) if !name.is_empty() => {
                labels.insert(name.to_owned(), Value::String(value.to_owned()));
            }
            (None, Some(name)) if !name.is_empty() => {
                labels.remove(name);
            }
            _ => {
                return Err(Trouble::usage(format!(
                    "{change:?} is no change; write zone=eu to set and zone- to remove"
                )));
            }
        }
    }
    Ok(labels)
}

async fn logs(client: &Client, output: &Output, agent: &str, limit: usize) -> Result<(), Trouble> {
    let what = format!("show the logs of agent {agent}");
    let answer = client.get(&["agents", agent, "logs"], what).query("limit", Some(limit)).send().await?;
    for item in answer.value["items"].as_array().into_iter().flatten() {
        if output.is_json() {
            output.line(item)?;
            continue;
        }
        let heading = ["at", "job", "kind", "epoch", "state"].map(|field| text(item, field)).join("  ");
        output.line(format_args!("== {heading}"))?;
        let tail = item["tail"].as_str().unwrap_or_default();
        output.line(harmless(tail.trim_end_matches('\n')))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed_and_the_others_stay() {
        let labels = json!({"zone": "eu", "rack": "1"}).as_object().cloned().unwrap();
        let changes = ["zone=us".to_owned(), "rack-".to_owned(), "new=a=b".to_owned()];
        assert_eq!(Value::Object(changed(labels, &changes).unwrap()), json!({"zone": "us", "new": "a=b"}));
        assert!(changed(Map::new(), &["zone".to_owned()]).is_err());
    }
}
