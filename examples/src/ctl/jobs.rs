//! `mamosctl jobs`, and what all orders about jobs share.

use std::io::Read;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::cli::pair;
use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::table::Column;
use super::trouble::Trouble;
use super::view::{harmless, text};

const COLUMNS: [Column; 7] = [
    ("id", "id"),
    ("kind", "kind"),
    ("queue", "queue"),
    ("state", "state"),
    ("attempt", "attempt"),
    ("agent", "agent"),
    ("created at", "created_at"),
];
const ATTEMPTS: [Column; 7] = [
    ("epoch", "epoch"),
    ("attempt", "attempt"),
    ("agent", "agent"),
    ("started at", "started_at"),
    ("ended at", "ended_at"),
    ("outcome", "outcome"),
    ("failure", "failure.message"),
];
/// The longest wait that the orchestrator takes for one request, in seconds.
const LONGEST_WAIT: u64 = 60;

#[derive(Debug, Subcommand)]
pub(super) enum JobsOrder {
    /// List jobs
    List {
        #[arg(long)]
        state: Option<String>,
        #[arg(long)]
        queue: Option<String>,
        #[arg(long)]
        kind: Option<String>,
        /// Only those that this agent holds
        #[arg(long)]
        agent: Option<String>,
        /// Only those with this label; may be given more than once
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one
    Get { job: String },
    /// Store a typed job
    Enqueue(EnqueueOrder),
    /// End jobs, or let them not begin
    Cancel {
        #[arg(required = true)]
        jobs: Vec<String>,
        /// Why, for those who look later
        #[arg(long)]
        reason: Option<String>,
        /// How long a running one may take to end
        #[arg(long, value_parser = humantime::parse_duration)]
        grace: Option<Duration>,
    },
    /// Try dead jobs again
    Redrive {
        #[arg(required = true)]
        jobs: Vec<String>,
    },
    /// Let jobs run that wait for approval
    Approve {
        #[arg(required = true)]
        jobs: Vec<String>,
    },
    /// List the attempts of one
    Attempts { job: String },
}

#[derive(Debug, Args)]
pub(super) struct EnqueueOrder {
    /// The kind of the job
    kind: String,
    /// Its arguments: JSON, @FILE, or - for standard input
    #[arg(long, default_value = "null")]
    payload: String,
    #[command(flatten)]
    options: JobOptions,
    /// Wait for its end, at most so long; exit code 7 if it failed
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

/// What both sorts of jobs take.
#[derive(Debug, Args)]
pub(super) struct JobOptions {
    #[arg(long)]
    queue: Option<String>,
    /// More is earlier
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i16>,
    /// Run it on agents with these labels, for example zone=eu,gpu
    #[arg(long, value_name = "SELECTOR")]
    on: Option<String>,
    /// Run it so much later
    #[arg(long, value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// How long an attempt may take (--attempt-timeout 5m)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    attempt_timeout: Option<Duration>,
    /// Give it up after so long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    give_up_after: Option<Duration>,
    /// While a job with this key is not ended, there is no second one
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// May be given more than once
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Let it wait until someone approves it
    #[arg(long)]
    needs_approval: bool,
}

impl JobOptions {
    /// Adds what was given to the body of a request.
    pub(super) fn add_to(self, body: &mut Map<String, Value>) {
        let mut add = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        add("queue", self.queue.map(Value::from));
        add("priority", self.priority.map(Value::from));
        add("on", self.on.map(Value::from));
        add("delay_ms", self.delay.map(millis));
        add("timeout_ms", self.attempt_timeout.map(millis));
        add("give_up_after_ms", self.give_up_after.map(millis));
        add("unique_key", self.unique_key.map(Value::from));
        let labels: Map<_, _> =
            self.labels.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
        add("labels", (!labels.is_empty()).then_some(Value::Object(labels)));
        add("needs_approval", self.needs_approval.then_some(Value::Bool(true)));
    }
}

pub(super) fn millis(duration: Duration) -> Value {
    Value::from(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

pub(super) async fn run(order: JobsOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    match order {
        JobsOrder::List { state, queue, kind, agent, labels, limit } => {
            let mut filters = Vec::new();
            let named = [("state", state), ("queue", queue), ("kind", kind), ("agent", agent)];
            filters.extend(named.into_iter().filter_map(|(name, value)| Some((name, value?))));
            filters.extend(labels.into_iter().map(|label| ("label", label)));
            let items = client.list(&["jobs"], &filters, limit, "list the jobs").await?;
            output.list(&COLUMNS, &items)?;
        }
        JobsOrder::Get { job } => {
            output.one(&client.get(&["jobs", &job], format!("show job {job}")).send().await?.value)?;
        }
        JobsOrder::Enqueue(order) => return enqueue(order, client, output).await,
        JobsOrder::Cancel { jobs, reason, grace } => {
            let mut body = Map::new();
            body.extend(reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
            body.extend(grace.map(|grace| ("grace_ms".to_owned(), millis(grace))));
            return each(client, output, &jobs, "cancel", Value::Object(body)).await;
        }
        JobsOrder::Redrive { jobs } => return each(client, output, &jobs, "redrive", json!({})).await,
        JobsOrder::Approve { jobs } => return each(client, output, &jobs, "approve", json!({})).await,
        JobsOrder::Attempts { job } => {
            let what = format!("list the attempts of job {job}");
            let answer = client.get(&["jobs", &job, "attempts"], what).send().await?;
            output.list(&ATTEMPTS, answer.value["items"].as_array().map_or(&[], Vec::as_slice))?;
        }
    }
    Ok(Ending::Fine)
}

pub(super) async fn why(job: &str, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let answer = client.get(&["jobs", job, "why"], format!("ask about job {job}")).send().await?;
    if output.is_json() {
        output.line(&answer.value)?;
    } else {
        output
            .line(harmless(answer.value["sentence"].as_str().unwrap_or("the orchestrator does not say")))?;
    }
    Ok(Ending::Fine)
}

/// Does the same to each job. One that is refused does not keep the others from it; the worst end counts.
async fn each(
    client: &Client,
    output: &Output,
    jobs: &[String],
    verb: &str,
    body: Value,
) -> Result<Ending, Trouble> {
    let mut worst = Ending::Fine;
    for job in jobs {
        let mut call = client.post(&["jobs", job, verb], format!("{verb} job {job}"));
        if body.as_object().is_some_and(|fields| !fields.is_empty()) {
            call = call.body(body.clone());
        }
        match call.send().await {
            Ok(answer) if answer.status.as_u16() == 202 => {
                output.done(format_args!("{verb}: asked the agent that runs job {job}"), &answer.value)?;
            }
            Ok(answer) => {
                let state = text(&answer.value, "state");
                output.done(format_args!("{verb}: job {job} is {state} now"), &answer.value)?;
            }
            Err(trouble) if jobs.len() == 1 => return Err(trouble),
            Err(trouble) => {
                super::output::complain(&trouble);
                worst = trouble.ending;
            }
        }
    }
    Ok(worst)
}

async fn enqueue(order: EnqueueOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let mut body = Map::new();
    body.insert("kind".to_owned(), Value::from(order.kind.as_str()));
    body.insert("payload".to_owned(), payload(&order.payload)?);
    order.options.add_to(&mut body);
    let what = format!("enqueue a job {}", order.kind);
    let job = store(client, output, Value::Object(body), &what).await?;
    match order.wait {
        None if output.is_json() => output.line(&job)?,
        None => output.line(text(&job, "id"))?,
        Some(patience) => {
            let job = wait_for_end(client, &text(&job, "id"), patience).await?;
            output.one(&job)?;
            return Ok(ending_of(&job, output));
        }
    }
    Ok(Ending::Fine)
}

/// Stores a job, and says so if it was there already.
pub(super) async fn store(
    client: &Client,
    output: &Output,
    body: Value,
    what: &str,
) -> Result<Value, Trouble> {
    let answer = client.post(&["jobs"], what).creating().body(body).send().await?;
    match answer.headers.get("X-Mamos-Result").and_then(|result| result.to_str().ok()) {
        Some("unique_key_taken") => output.say("another job has the unique key; this is that one"),
        Some("repeat") => output.say("the job was there already"),
        _ => {}
    }
    Ok(answer.value)
}

/// The job when it has ended.
pub(super) async fn wait_for_end(client: &Client, job: &str, patience: Duration) -> Result<Value, Trouble> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A request must end within its timeout, whatever it waits for.
        let most = client.timeout().saturating_sub(Duration::from_secs(2)).as_secs().clamp(1, LONGEST_WAIT);
        let wait = (left.as_secs_f64().ceil() as u64).clamp(1, most);
        let call = client.get(&["jobs", job], format!("wait for job {job}"));
        let found = call.header("Prefer", &format!("wait={wait}")).send().await?.value;
        if has_ended(&text(&found, "state")) {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            let state = text(&found, "state");
            let message = format!(
                "job {job} did not end within {}; it is {state}",
                humantime::format_duration(patience)
            );
            return Err(Trouble::new(Ending::Unavailable, message)
                .next(format!("`mamosctl why {job}` says what it waits for")));
        }
        // Should the orchestrator not wait, it is not to be flooded.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub(super) fn has_ended(state: &str) -> bool {
    matches!(state, "succeeded" | "dead" | "cancelled")
}

/// How an ended job ends the program. What failed is said.
pub(super) fn ending_of(job: &Value, output: &Output) -> Ending {
    let state = text(job, "state");
    if state == "succeeded" {
        return Ending::Fine;
    }
    let mut message = format!("job {} is {state}", text(job, "id"));
    if let Some(failure) = job["failure"].as_object() {
        let field = |name: &str| harmless(failure.get(name).and_then(Value::as_str).unwrap_or_default());
        message.push_str(&format!(": {} ({})", field("message"), field("code")));
    }
    for (field, name) in [("exit_code", "its exit code was"), ("signal", "it was ended by signal")] {
        if let Some(number) = job["output"][field].as_i64() {
            message.push_str(&format!("; {name} {number}"));
        }
    }
    output.say(format_args!("mamosctl: {message}"));
    Ending::JobFailed
}

fn payload(given: &str) -> Result<Value, Trouble> {
    let wrong =
        |error: std::io::Error| Trouble::usage(format!("the payload {given} cannot be read: {error}"));
    let text = match given.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(wrong)?,
        None if given == "-" => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).map_err(wrong)?;
            text
        }
        None => given.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| {
        Trouble::usage(format!("the payload is no JSON: {error}"))
            .next("a text needs quotes inside: '\"text\"'")
    })
}
