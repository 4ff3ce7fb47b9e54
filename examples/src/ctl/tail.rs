//! `mamosctl tail`: what happens, as it happens.

use clap::Args;

use super::client::Client;
use super::ending::Ending;
use super::logs::missed;
use super::output::Output;
use super::stream::Stream;
use super::trouble::Trouble;
use super::view::{event_line, harmless};

#[derive(Debug, Args)]
pub(super) struct TailOrder {
    /// Only about agents, jobs or queues; may be given more than once
    #[arg(long, value_parser = ["agents", "jobs", "queues"])]
    topic: Vec<String>,
    #[arg(long)]
    job: Option<String>,
    #[arg(long)]
    agent: Option<String>,
    #[arg(long)]
    queue: Option<String>,
    /// Only about jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only events of this name, for example job_settled; may be given more than once
    #[arg(long)]
    event: Vec<String>,
    /// Begin after this event, <series>-<number>
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// End after so many
    #[arg(long)]
    limit: Option<u64>,
}

pub(super) async fn run(order: TailOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let mut query = Vec::new();
    for (name, values) in [("topic", order.topic), ("event", order.event)] {
        if !values.is_empty() {
            query.push((name, values.join(",")));
        }
    }
    let named = [
        ("job", order.job),
        ("agent", order.agent),
        ("queue", order.queue),
        ("kind", order.kind),
        ("after", order.after),
    ];
    query.extend(named.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let mut stream = Stream::new(client, &["events"], query, "watch what happens");
    let mut left = order.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let told = stream.next().await?;
        match told.name.as_str() {
            "gap" => output.say(format_args!("-- {} was missed", missed(&told.data))),
            // The stream is taken up again, unless the orchestrator then refuses.
            "end" => {
                let reason = told.data["reason"].as_str().unwrap_or("the orchestrator ended it");
                output.say(format_args!("-- the stream ended: {}", harmless(reason)));
            }
            _ => {
                left -= 1;
                if output.is_json() {
                    output.line(&told.data)?;
                } else {
                    output.line(event_line(&told.data))?;
                }
            }
        }
    }
    Ok(Ending::Fine)
}
