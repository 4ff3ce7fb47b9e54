//! Runs until a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::load_policy;
use mamos_core::whitelist::Reloadable;
use mamos_http::{Server, Tls};
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use super::compose::{Composed, compose};
use super::settings::Settings;
use super::welcome;
use crate::program::{Ending, Signals, Trouble, Wish, show_traces, tell};

/// How long the whole of an orderly stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn run(settings: Settings, file: Option<PathBuf>) -> Result<Ending, Trouble> {
    show_traces(&settings.log)?;
    // First of all: a signal that comes while files are opened must not be lost.
    let mut signals = Signals::listen()?;
    let composed = compose(&settings).await?;
    let file = file.map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    let store = composed.orchestrator.store().describe();
    tracing::info!(settings = file, store, address = %composed.server.address(), "the server begins");
    let sqlite = composed.sqlite.clone();
    let ending = serve(&settings, composed, &mut signals).await?;
    let (Some(sqlite), Ending::Fine) = (sqlite, ending) else {
        return Ok(ending);
    };
    // By now nobody asks it any more: it waits for the calls that are under way.
    tokio::select! {
        closed = tokio::time::timeout(STOP_WITHIN, sqlite.close()) => {
            closed.map_err(|_| too_long())?;
            tracing::info!("the database is closed");
            Ok(Ending::Fine)
        }
        () = signals.stop() => Ok(at_once()),
    }
}

/// Serves until it is told to stop, and then until everything has ended.
async fn serve(settings: &Settings, composed: Composed, signals: &mut Signals) -> Result<Ending, Trouble> {
    let Composed { orchestrator, access, api, router, server, whitelist, on_bus, .. } = composed;
    let url = url(settings, &server);
    let tls = server.tls().map(Arc::clone);
    let stop = CancellationToken::new();
    let serving = server.run(router, {
        let (stop, api) = (stop.clone(), api.clone());
        async move {
            stop.cancelled().await;
            // The steps of a stop: not ready any more, streams end in words, then connections.
            api.close_streams();
        }
    });
    let running = orchestrator.run(stop.cancelled());
    let both = async {
        // Without an orchestrator there is nothing to serve.
        let running = async {
            let ran = running.await;
            stop.cancel();
            if let Some(on_bus) = on_bus {
                // Agents that were about to come are told to go elsewhere; the others were told by their sessions.
                on_bus.close().await;
            }
            ran
        };
        let (ran, ()) = tokio::join!(running, serving);
        ran
    };
    let mut both = std::pin::pin!(both);
    let greeting = welcome::greet(settings, &orchestrator, &access, &url);
    let mut greeting = std::pin::pin!(greeting);
    let mut is_greeted = false;
    // A part that hangs must not keep the rest for ever.
    let mut late = std::pin::pin!(async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    });
    loop {
        tokio::select! {
            ended = &mut both => {
                ended?;
                tracing::info!("stopped");
                return Ok(Ending::Fine);
            }
            greeted = &mut greeting, if !is_greeted => {
                greeted?;
                is_greeted = true;
                tell(&[NotifyState::Ready, NotifyState::Status(&format!("serves {url}"))]);
            }
            wish = signals.next() => match wish {
                Wish::Reload => reload(settings, &whitelist, tls.as_deref()),
                Wish::Stop if stop.is_cancelled() => return Ok(at_once()),
                Wish::Stop => {
                    tell(&[NotifyState::Stopping]);
                    tracing::info!(limit = ?STOP_WITHIN, "stopping; agents keep what they run. A second signal ends it at once");
                    stop.cancel();
                }
            },
            () = &mut late => return Err(too_long()),
        }
    }
}

fn at_once() -> Ending {
    tracing::warn!("ended at once; nothing that was acknowledged is lost");
    Ending::Interrupted
}

fn too_long() -> Trouble {
    let limit = humantime::format_duration(STOP_WITHIN);
    Trouble::new(Ending::Failed, format!("the stop took longer than {limit}"))
        .next("nothing that was acknowledged is lost; start it again")
}

/// Puts the whitelist and the certificate in force that are in their files now. A bad one changes nothing.
fn reload(settings: &Settings, whitelist: &Reloadable, tls: Option<&Tls>) {
    if let Some(path) = &settings.whitelist {
        match load_policy(path) {
            Ok(policy) => {
                whitelist.replace(policy);
                tracing::info!("the whitelist was read anew");
            }
            Err(errors) => tracing::error!(%errors, "the whitelist was not replaced"),
        }
    }
    if let Some(tls) = tls {
        match tls.reload() {
            // It says so itself.
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "the certificate was not replaced"),
        }
    }
}

/// Where people and agents find it: as set, else the address.
fn url(settings: &Settings, server: &Server) -> String {
    if let Some(url) = &settings.public_url {
        return url.trim_end_matches('/').to_owned();
    }
    let scheme = if server.tls().is_some() { "https" } else { "http" };
    let address = server.address();
    if address.ip().is_unspecified() {
        // Every address of this machine: one that certainly leads here.
        return format!("{scheme}://localhost:{}", address.port());
    }
    format!("{scheme}://{address}")
}
