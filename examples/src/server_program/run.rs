//! Runs until a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::load_policy;
use mamos_core::whitelist::Reloadable;
use mamos_http::Tls;
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
    let Composed { orchestrator, access, api, router, server, whitelist, sqlite } =
        compose(&settings).await?;
    let file = file.map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    let store = orchestrator.store().describe();
    tracing::info!(settings = file, store, address = %server.address(), "the server begins");
    let scheme = if server.tls().is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", server.address());
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
        let (ran, ()) = tokio::join!(running, serving);
        ran
    };
    let mut both = std::pin::pin!(both);
    let greeting = welcome::greet(&settings, &orchestrator, &access, &url);
    let mut greeting = std::pin::pin!(greeting);
    let mut is_greeted = false;
    loop {
        tokio::select! {
            ended = &mut both => {
                ended?;
                break;
            }
            greeted = &mut greeting, if !is_greeted => {
                greeted?;
                is_greeted = true;
                tell(&[NotifyState::Ready, NotifyState::Status(&format!("serves {url}"))]);
            }
            wish = signals.next() => match wish {
                Wish::Reload => reload(&settings, &whitelist, tls.as_deref()),
                Wish::Stop if stop.is_cancelled() => {
                    tracing::warn!("ended at once; nothing that was acknowledged is lost");
                    return Ok(Ending::Interrupted);
                }
                Wish::Stop => {
                    tell(&[NotifyState::Stopping]);
                    tracing::info!(limit = ?STOP_WITHIN, "stopping; agents keep what they run. A second signal ends it at once");
                    stop.cancel();
                    let stop = stop.clone();
                    // A part that hangs must not keep the rest for ever.
                    tokio::spawn(async move {
                        tokio::time::sleep(STOP_WITHIN).await;
                        tracing::error!(limit = ?STOP_WITHIN, "the stop takes too long; ended as it is");
                        drop(stop);
                        std::process::exit(1);
                    });
                }
            }
        }
    }
    if let Some(sqlite) = sqlite {
        sqlite.close().await;
    }
    tracing::info!("stopped");
    Ok(Ending::Fine)
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
            Ok(()) => tracing::info!("the certificate was read anew"),
            Err(error) => tracing::error!(%error, "the certificate was not replaced"),
        }
    }
}
