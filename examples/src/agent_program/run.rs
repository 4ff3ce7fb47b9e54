//! Runs until a signal.

use std::path::PathBuf;
use std::sync::Arc;

use mamos_agent::{AgentRuntime, AgentRuntimeBuilder, CommandRunner, StopReason, SystemLoad, load_policy};
use mamos_core::agent::Agent;
use mamos_core::whitelist::{DenyAll, Reloadable};
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use super::connect::connector;
use super::settings::{Settings, WhenCutOff};
use crate::program::{Ending, Signals, Trouble, Wish, make_directory, show_traces, tell};

/// A runtime that is to be, and the whitelist that it asks.
struct Prepared {
    runtime: AgentRuntime,
    /// Where it connects to, for people.
    place: String,
    whitelist: Reloadable,
}

pub(super) async fn run(settings: Settings, file: Option<PathBuf>) -> Result<Ending, Trouble> {
    show_traces(&settings.log)?;
    // First of all: a signal that comes while files are opened must not be lost.
    let mut signals = Signals::listen()?;
    let Prepared { runtime, place, whitelist } = prepare(&settings)?;
    let file = file.map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    tracing::info!(settings = file, server = place, slots = settings.slots, "the agent begins");
    let handle = runtime.handle();
    let (stop, stopped) = oneshot::channel();
    let running = runtime.run(async {
        // A dropped sender means the same as a sent word.
        let _ = stopped.await;
    });
    let mut running = std::pin::pin!(running);
    // The service is up when its settings are good: the orchestrator may come later.
    tell(&[NotifyState::Ready]);
    let mut connected = std::pin::pin!(handle.wait_until(|status| status.is_connected));
    let mut is_announced = false;
    let mut stop = Some(stop);
    loop {
        tokio::select! {
            ended = &mut running => {
                tell(&[NotifyState::Stopping]);
                let stopped = ended.map_err(why_ended)?;
                if stopped.unsent > 0 {
                    tracing::warn!(unsent = stopped.unsent, "results wait on disk for the next start");
                }
                let reason = match stopped.reason {
                    StopReason::Drained => "it was drained",
                    _ => "it was told to",
                };
                tracing::info!(reason, "the agent ended");
                return Ok(Ending::Fine);
            }
            status = &mut connected, if !is_announced => {
                is_announced = true;
                let agent = status.agent.map_or_else(String::new, |agent| agent.to_string());
                tracing::info!(agent, "connected");
                tell(&[NotifyState::Status(&format!("connected as {agent}"))]);
            }
            wish = signals.next() => match (wish, stop.take()) {
                (Wish::Reload, kept) => {
                    stop = kept;
                    reload(&settings, &whitelist);
                }
                (Wish::Stop, Some(stop)) => {
                    tell(&[NotifyState::Stopping]);
                    tracing::info!(limit = ?settings.drain_timeout, "no new work; what runs may finish. A second signal ends it at once");
                    // The runtime is there: it is polled above.
                    let _ = stop.send(());
                }
                (Wish::Stop, None) => {
                    tracing::warn!("ended at once: what runs is lost here, and rescued by the orchestrator");
                    return Ok(Ending::Interrupted);
                }
            }
        }
    }
}

/// The settings were checked before the runtime began. What it finds wrong with the way to the orchestrator may
/// pass, such as a portal that answers after a boot: the service is to try again.
fn why_ended(error: mamos_core::Error) -> Trouble {
    let mut trouble = Trouble::from(error).next("`mamos-agent check` says more");
    if trouble.ending == Ending::Usage {
        trouble.ending = Ending::Unavailable;
    }
    trouble
}

fn prepare(settings: &Settings) -> Result<Prepared, Trouble> {
    let connector = connector(settings)?;
    let place = connector.describe();
    let directory = settings.state_directory()?;
    let whitelist = whitelist(settings)?;
    let commands = CommandRunner::builder(Arc::new(whitelist.clone()), settings.kind()?)
        .name(&settings.name)
        .labels(settings.labels()?)
        .slots(settings.slots)
        .stop_grace(settings.stop_grace)
        .pids(directory.join("pids"));
    // The runtime makes the directory, for the owner only, and locks it; the runner's own is inside.
    make_directory(&directory)?;
    let mut builder = builder(settings, Arc::new(commands.build()?), connector, directory);
    if settings.report_load {
        builder = builder.load(Arc::new(SystemLoad::new()?), 1);
    }
    Ok(Prepared { runtime: builder.build()?, place, whitelist })
}

/// A runtime with the settings that `run` and `register` share.
pub(super) fn builder(
    settings: &Settings,
    agent: Arc<dyn Agent>,
    connector: Arc<dyn mamos_core::transport::Connector>,
    directory: PathBuf,
) -> AgentRuntimeBuilder {
    let when_cut_off = match settings.when_cut_off {
        WhenCutOff::KeepRunning => mamos_agent::WhenCutOff::KeepRunning,
        WhenCutOff::Stop => mamos_agent::WhenCutOff::Stop,
    };
    let builder = AgentRuntime::builder(agent, connector)
        .state_directory(directory)
        .drain_timeout(settings.drain_timeout)
        .when_cut_off(when_cut_off);
    match &settings.registration_token {
        Some(token) => builder.registration(token.clone()),
        None => builder,
    }
}

/// The whitelist of this machine. Without one, nothing may run.
fn whitelist(settings: &Settings) -> Result<Reloadable, Trouble> {
    match &settings.whitelist {
        None => {
            tracing::warn!("`whitelist` is not set: no command may run here");
            Ok(Reloadable::new(DenyAll))
        }
        Some(path) => load_policy(path).map(Reloadable::new).map_err(|errors| {
            Trouble::usage(format!("`whitelist`: {errors}")).next("docs/whitelist.md explains every key")
        }),
    }
}

/// Puts the whitelist in force that is in the file now. A bad one changes nothing.
fn reload(settings: &Settings, whitelist: &Reloadable) {
    let Some(path) = &settings.whitelist else {
        return;
    };
    match load_policy(path) {
        Ok(policy) => {
            whitelist.replace(policy);
            tracing::info!("the whitelist was read anew; new commands are offered from the next session on");
        }
        Err(errors) => tracing::error!(%errors, "the whitelist was not replaced"),
    }
}
