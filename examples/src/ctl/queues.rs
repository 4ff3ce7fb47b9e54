//! `mamosctl queues`.

use clap::Subcommand;

use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::table::Column;
use super::trouble::Trouble;
use super::view::text;

pub(super) const COLUMNS: [Column; 6] = [
    ("queue", "queue"),
    ("paused", "paused"),
    ("ready", "counts.ready"),
    ("running", "counts.running"),
    ("dead", "counts.dead"),
    ("oldest ready at", "oldest_ready_at"),
];

#[derive(Debug, Subcommand)]
pub(super) enum QueuesOrder {
    /// List queues
    List,
    /// Show one
    Get { queue: String },
    /// Let its jobs wait; what runs goes on
    Pause { queue: String },
    /// Let its jobs run again
    Resume { queue: String },
}

pub(super) async fn run(order: QueuesOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let (queue, verb) = match order {
        QueuesOrder::List => {
            let items = client.list(&["queues"], &[], usize::MAX, "list the queues").await?;
            output.list(&COLUMNS, &items)?;
            return Ok(Ending::Fine);
        }
        QueuesOrder::Get { queue } => {
            output
                .one(&client.get(&["queues", &queue], format!("show queue {queue}")).send().await?.value)?;
            return Ok(Ending::Fine);
        }
        QueuesOrder::Pause { queue } => (queue, "pause"),
        QueuesOrder::Resume { queue } => (queue, "resume"),
    };
    let answer = client.post(&["queues", &queue, verb], format!("{verb} queue {queue}")).send().await?;
    let paused = text(&answer.value, "paused");
    output.done(format_args!("{verb}: queue {queue}, paused: {paused}"), &answer.value)?;
    Ok(Ending::Fine)
}
