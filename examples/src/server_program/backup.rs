//! Copies the database.

use std::path::Path;

use super::compose::open;
use super::settings::{Settings, StoreChoice};
use crate::program::{Ending, Trouble, say};

/// Copies everything into a new file, consistent as of now. A server that runs on the database goes on.
pub(super) async fn run(settings: &Settings, target: &Path) -> Result<Ending, Trouble> {
    let StoreChoice::Sqlite(path) = settings.store()? else {
        return Err(Trouble::usage(
            "`store` is memory, which ends with the process: there is nothing to copy",
        ));
    };
    if !path.exists() {
        return Err(Trouble::new(Ending::NotFound, format!("there is no database at {}", path.display()))
            .next("set `store` or `state_directory` as the server has it"));
    }
    if target.exists() {
        return Err(Trouble::new(Ending::Conflict, format!("{} is there already", target.display()))
            .next("name a new file, or move the old one away"));
    }
    let store = open(settings, path).await?;
    let copied = store.backup(target).await;
    store.close().await;
    copied?;
    say(format_args!("{} holds everything as of now; `store = \"sqlite:FILE\"` serves it", target.display()));
    Ok(Ending::Fine)
}
