//! Says what would happen, and why it would not.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mamos_agent::load_policy;
use mamos_core::whitelist::Whitelist;
use mamos_core::{Error, ErrorKind};

use super::connect::connector;
use super::register::registered;
use super::settings::Settings;
use crate::program::Ending;
use crate::program::Trouble;

/// How long the orchestrator may take for its first word.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct CheckOrder {
    /// Do not connect
    #[arg(long)]
    offline: bool,
}

/// What was found, line by line; the first trouble decides how the program ends.
#[derive(Debug, Default)]
struct Findings {
    lines: Vec<String>,
    ending: Option<Ending>,
}

impl Findings {
    fn add(&mut self, what: &str, found: Result<String, Trouble>) {
        let (mark, text) = match found {
            Ok(text) => ("ok", text),
            Err(trouble) => {
                self.ending.get_or_insert(trouble.ending);
                ("wrong", trouble.to_string())
            }
        };
        self.lines.push(format!("{mark:<6} {what:<11} {text}"));
    }
}

pub(super) async fn run(
    settings: Settings,
    file: Option<PathBuf>,
    order: CheckOrder,
) -> Result<Ending, Trouble> {
    let mut findings = Findings::default();
    let file = file
        .map_or_else(|| "no file, only flags and variables".to_owned(), |file| file.display().to_string());
    findings.add("settings", Ok(file));
    findings.add("agent", agent(&settings));
    findings.add("whitelist", whitelist(&settings));
    findings.add("state", state(&settings));
    if order.offline {
        findings.add("address", connector(&settings).map(|connector| connector.describe()));
    } else {
        findings.add("connection", connection(&settings).await);
    }
    // Nobody reading it is no error: the exit code says it too.
    let _ = writeln!(io::stdout().lock(), "{}", findings.lines.join("\n"));
    Ok(findings.ending.unwrap_or(Ending::Fine))
}

fn agent(settings: &Settings) -> Result<String, Trouble> {
    let (kind, labels) = (settings.kind()?, settings.labels()?);
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels = if labels.is_empty() { "no labels".to_owned() } else { labels.join(", ") };
    Ok(format!("{} of kind {kind}, {} slots, {labels}", settings.name, settings.slots))
}

fn whitelist(settings: &Settings) -> Result<String, Trouble> {
    let Some(path) = &settings.whitelist else {
        return Ok("none: no command may run here; set `whitelist`".to_owned());
    };
    let policy = load_policy(path)
        .map_err(|errors| Trouble::usage(errors.to_string()).next("docs/whitelist.md explains every key"))?;
    Ok(format!("{}: {} commands", path.display(), policy.commands().len()))
}

/// Who the agent is, or would become.
fn state(settings: &Settings) -> Result<String, Trouble> {
    let directory = settings.state_directory()?;
    let place = directory.display();
    match (registered(&directory.join("identity.json"))?, &settings.registration_token) {
        (Some(agent), _) => Ok(format!("{place}: it would connect as {agent}")),
        (None, Some(_)) => Ok(format!("{place}: it would register with the token")),
        (None, None) => {
            Err(Trouble::usage(format!("{place}: it is not registered and has no registration token"))
                .next("make one with `mamosctl tokens create`, then `mamos-agent register`"))
        }
    }
}

/// Connects as an agent would, and waits for the first word. It says nothing itself.
async fn connection(settings: &Settings) -> Result<String, Trouble> {
    let connector = connector(settings)?;
    let place = connector.describe();
    let late = || {
        Error::new(ErrorKind::Unavailable, "agent.check", format!("{place} said nothing for {PATIENCE:?}"))
    };
    let first = async {
        let connection = connector.connect().await?;
        let frame = connection.receive().await?.ok_or_else(late)?;
        let is_orchestrator = frame.into_to_agent().is_ok();
        connection.close().await;
        Ok::<_, Error>((is_orchestrator, connection.peer()))
    };
    let (is_orchestrator, peer) =
        tokio::time::timeout(PATIENCE, first).await.unwrap_or_else(|_| Err(late())).map_err(|error| {
            Trouble::from(error).next("see whether it runs there, and `server` and `pin`: docs/operating.md")
        })?;
    if !is_orchestrator {
        return Err(Trouble::new(
            Ending::Failed,
            format!("{place} answers, but is no orchestrator that this agent understands"),
        ));
    }
    Ok(format!("{place} answers ({peer})"))
}
