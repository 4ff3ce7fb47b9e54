//! Says what would happen.

use std::path::PathBuf;

use mamos_agent::load_policy;
use mamos_core::whitelist::Whitelist;

use super::compose::compose;
use super::settings::Settings;
use crate::program::{Ending, Trouble, say};

/// Does everything up to serving, and says what it found.
pub(super) async fn run(settings: Settings, file: Option<PathBuf>) -> Result<Ending, Trouble> {
    let file = file.map_or_else(
        || "none: flags, environment and defaults".to_owned(),
        |file| file.display().to_string(),
    );
    say(format_args!("settings   {file}"));
    match &settings.whitelist {
        None => say("whitelist  none: no command may run"),
        Some(path) => {
            let policy =
                load_policy(path).map_err(|errors| Trouble::usage(format!("`whitelist`: {errors}")))?;
            say(format_args!("whitelist  {}: {} commands", path.display(), policy.commands().len()));
        }
    }
    let composed = compose(&settings).await?;
    say(format_args!("store      {}", composed.orchestrator.store().describe()));
    let tls = if composed.server.tls().is_some() { "TLS 1.3" } else { "no TLS" };
    say(format_args!("listens    {} ({tls})", composed.server.address()));
    let users = composed.access.has_users().await?;
    say(if users {
        "users      there are some"
    } else {
        "users      none yet: the first start shows how to make one"
    });
    if let Some(sqlite) = composed.sqlite {
        drop((composed.orchestrator, composed.api, composed.access));
        sqlite.close().await;
    }
    Ok(Ending::Fine)
}
