//! Copies the database.

use std::path::Path;

use super::compose::open;
use super::settings::{Settings, StoreChoice};
use crate::program::{Ending, Trouble, say};

/// Copies everything into a new file, consistent as of now. A server that runs on the database goes on.
pub(super) async fn run(settings: &Settings, target: &Path) -> Result<Ending, Trouble> {
    let path = match settings.store()? {
        StoreChoice::Sqlite(path) => path,
        StoreChoice::Memory => {
            let message = "`store` is memory, which ends with the process: there is nothing to copy";
            return Err(Trouble::usage(message));
        }
        StoreChoice::Server(_) => {
            return Err(Trouble::usage("`store` is on a server, which has means of its own for copies")
                .next("use those of the server, for example pg_dump: docs/store-postgres.md and docs/store-redis.md"));
        }
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
