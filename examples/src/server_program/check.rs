//! Says what would happen.

use std::path::PathBuf;
use std::sync::Arc;

use mamos_core::auth::PublicKey;
use mamos_core::whitelist::Whitelist;
use mamos_core::{Orchestrator, Store};
use mamos_http::Access;

use super::compose::{open, tls, whitelist};
use super::links;
use super::settings::{Settings, StoreChoice};
use crate::program::{Ending, Trouble, say};

/// Reads everything that a server reads, and makes nothing. It does not listen: the server may be running.
pub(super) async fn run(settings: Settings, file: Option<PathBuf>) -> Result<Ending, Trouble> {
    let file = file
        .map_or_else(|| "no file, only flags and variables".to_owned(), |file| file.display().to_string());
    say(format_args!("settings   {file}"));
    let commands = whitelist(&settings)?.commands().len();
    match &settings.whitelist {
        None => say("whitelist  none: no command may run; set `whitelist`"),
        Some(path) => say(format_args!("whitelist  {}: {commands} commands", path.display())),
    }
    let encryption = if tls(&settings)?.is_some() { "TLS 1.3" } else { "no TLS" };
    say(format_args!("address    {} ({encryption})", settings.listen));
    if let Some(url) = &settings.bus {
        say(format_args!("bus        {} answers", links::open(url).await?.describe()));
    }
    let pin = store(&settings).await?;
    if settings.bus.is_some() {
        match pin {
            Some(pin) => say(format_args!("pin        {pin}: what agents pin over the bus")),
            None => say("pin        the first start makes the key that agents pin over the bus"),
        }
    }
    Ok(Ending::Fine)
}

/// Says what is kept, and gives what agents pin over a bus if it is there.
async fn store(settings: &Settings) -> Result<Option<PublicKey>, Trouble> {
    match settings.store()? {
        StoreChoice::Memory => {
            say("store      memory: lost when the server ends");
            Ok(None)
        }
        StoreChoice::Sqlite(path) if !path.exists() => {
            say(format_args!(
                "store      {} would be made, and the first administrator asked for",
                path.display()
            ));
            Ok(None)
        }
        StoreChoice::Sqlite(path) => {
            let sqlite = Arc::new(open(settings, path).await?);
            let described = users(Arc::clone(&sqlite) as Arc<dyn Store>).await;
            sqlite.close().await;
            described
        }
        StoreChoice::Server(url) => users(mamos_store::open(url.expose()).await?).await,
    }
}

/// Says which store it is, and whether somebody can use it.
async fn users(store: Arc<dyn Store>) -> Result<Option<PublicKey>, Trouble> {
    say(format_args!("store      {}", store.describe()));
    let pin = links::pin(&*store).await?;
    let orchestrator = Orchestrator::builder(store).build()?;
    say(if Access::new(&orchestrator).has_users().await? {
        "users      there are some"
    } else {
        "users      none: the next start shows how to make one"
    });
    Ok(pin)
}
