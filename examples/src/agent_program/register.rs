//! Registers with a token, and exits: the state directory then holds who the agent is.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use mamos_agent::{CommandRunner, Identity};
use mamos_core::whitelist::DenyAll;
use tokio::sync::oneshot;

use super::connect::connector;
use super::run::builder;
use super::settings::Settings;
use crate::program::Ending;
use crate::program::{Trouble, make_directory, say};

#[derive(Debug, Args)]
pub(super) struct RegisterOrder {
    /// Become another agent if this one is registered; the old identity is kept beside it
    #[arg(long)]
    force: bool,
    /// How long to wait for the orchestrator
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(settings: Settings, order: RegisterOrder) -> Result<Ending, Trouble> {
    if settings.registration_token.is_none() {
        return Err(Trouble::usage("the registration token is missing").next(
            "make one with `mamosctl tokens create`, and give it with MAMOS_AGENT_REGISTRATION_TOKEN",
        ));
    }
    let directory = settings.state_directory()?;
    let path = directory.join("identity.json");
    let before = registered(&path)?;
    if let Some(agent) = &before {
        if !order.force {
            return Err(Trouble::new(Ending::Conflict, format!("this machine is registered as {agent}"))
                .next("run it with `mamos-agent run`, or register anew with --force"));
        }
        set_aside(&directory)?;
    }
    make_directory(&directory)?;
    match join(&settings, &directory, order.timeout).await {
        Ok(agent) => {
            say(format_args!("registered as {agent}; `mamos-agent run` runs it"));
            Ok(Ending::Fine)
        }
        Err(trouble) => {
            if before.is_some() && registered(&path)?.is_none() {
                bring_back(&directory)?;
            }
            Err(trouble)
        }
    }
}

/// Who the agent is, if it is registered.
pub(super) fn registered(path: &Path) -> Result<Option<String>, Trouble> {
    let identity = Identity::load(path)?;
    Ok(identity.and_then(|identity| identity.agent().map(ToString::to_string)))
}

/// Connects until it is welcomed, and leaves. It offers no kind of job, so it gets none.
async fn join(settings: &Settings, directory: &Path, timeout: Duration) -> Result<String, Trouble> {
    let connector = connector(settings)?;
    let place = connector.describe();
    let agent = CommandRunner::builder(Arc::new(DenyAll), settings.kind()?)
        .name(&settings.name)
        .labels(settings.labels()?)
        .slots(settings.slots);
    let runtime = builder(settings, Arc::new(agent.build()?), connector, directory.to_owned()).build()?;
    let handle = runtime.handle();
    let (stop, stopped) = oneshot::channel();
    let running = runtime.run(async {
        // A dropped sender means the same as a sent word.
        let _ = stopped.await;
    });
    let welcomed = async {
        let status = handle.wait_until(|status| status.is_connected && status.agent.is_some()).await;
        // The runtime is there, or has ended and says why.
        let _ = stop.send(());
        status.agent
    };
    let both = async { tokio::join!(running, welcomed) };
    match tokio::time::timeout(timeout, both).await {
        Err(_) => {
            let waited = humantime::format_duration(timeout);
            Err(Trouble::new(
                Ending::Unavailable,
                format!("{place} did not welcome the agent within {waited}"),
            )
            .next("`mamos-agent check` says how far it comes; the token is still good"))
        }
        Ok((Err(error), _)) => {
            Err(Trouble::from(error).next("the token may be used up, expired, or for other agents"))
        }
        Ok((Ok(_), Some(agent))) => Ok(agent.to_string()),
        Ok((Ok(_), None)) => Err(Trouble::new(Ending::Failed, "the agent ended before it was welcomed")),
    }
}

const FILES: [&str; 2] = ["identity.json", "agent.journal"];

/// Keeps the old identity, and what it did not report, under another name.
fn set_aside(directory: &Path) -> Result<(), Trouble> {
    rename_all(directory, |name| (name.to_owned(), format!("{name}.before")))
}

fn bring_back(directory: &Path) -> Result<(), Trouble> {
    rename_all(directory, |name| (format!("{name}.before"), name.to_owned()))
}

fn rename_all(directory: &Path, names: impl Fn(&str) -> (String, String)) -> Result<(), Trouble> {
    for name in FILES {
        let (from, to) = names(name);
        match fs::rename(directory.join(&from), directory.join(&to)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let message =
                    format!("{} cannot be renamed to {to}: {error}", directory.join(&from).display());
                return Err(Trouble::new(Ending::Failed, message));
            }
            _ => {}
        }
    }
    Ok(())
}
