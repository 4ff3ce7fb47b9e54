//! A fresh store with an orchestrator over it, for one measure.

use std::sync::Arc;

use anyhow::Context;
use mamos_core::{Orchestrator, Store};
use mamos_store::{
    MemoryStore, PostgresSettings, PostgresStore, RedisSettings, RedisStore, SqliteSettings, SqliteStore,
};
use mamos_transport::memory::{MemoryConnector, pair};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::raw::postgres::Schema;
use crate::raw::redis::Prefix;
use crate::settings::{Durability, Settings, StoreKind};

/// What a measure runs on.
pub(crate) struct Bed {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) connector: MemoryConnector,
    shutdown: oneshot::Sender<()>,
    running: JoinHandle<mamos_core::Result<()>>,
    /// Removed with everything in it when the measure is over.
    files: Files,
}

impl Bed {
    /// Makes an empty store and runs an orchestrator over it.
    pub(crate) async fn make(settings: &Settings) -> anyhow::Result<Self> {
        let (store, files) = open(settings).await?;
        let (listener, connector) = pair();
        let orchestrator =
            Orchestrator::builder(store).listener(listener).prefetch(settings.prefetch).build()?;
        let (shutdown, stopped) = oneshot::channel::<()>();
        let serving = orchestrator.clone();
        let running = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            serving.run(stopped).await
        });
        Ok(Self { orchestrator, connector, shutdown, running, files })
    }

    /// Stops the orchestrator in order.
    pub(crate) async fn clear(self) -> anyhow::Result<()> {
        drop(self.connector);
        let _ = self.shutdown.send(());
        self.running.await??;
        self.files.remove().await
    }
}

/// What a store leaves behind.
enum Files {
    None,
    /// Removed when it is dropped.
    Directory(#[expect(dead_code, reason = "it is there to be dropped")] TempDir),
    Schema(Schema),
    Prefix(Prefix),
}

impl Files {
    async fn remove(self) -> anyhow::Result<()> {
        match self {
            Self::Schema(schema) => schema.remove().await,
            Self::Prefix(prefix) => prefix.remove().await,
            Self::None | Self::Directory(_) => Ok(()),
        }
    }
}

/// How the store describes itself.
pub(crate) async fn describe(settings: &Settings) -> anyhow::Result<String> {
    let (store, files) = open(settings).await?;
    let description = store.describe();
    drop(store);
    files.remove().await?;
    Ok(description)
}

async fn open(settings: &Settings) -> anyhow::Result<(Arc<dyn Store>, Files)> {
    match settings.store {
        StoreKind::Memory => Ok((Arc::new(MemoryStore::new()), Files::None)),
        StoreKind::Sqlite => {
            let directory = directory(settings)?;
            let durability = match settings.durability {
                Durability::Full => mamos_store::Durability::Full,
                Durability::Normal => mamos_store::Durability::Normal,
                Durability::Off => mamos_store::Durability::Off,
            };
            let wanted = SqliteSettings::new(directory.path().join("mamos.db")).durability(durability);
            Ok((Arc::new(SqliteStore::open(wanted).await?), Files::Directory(directory)))
        }
        StoreKind::Postgres => {
            let schema = Schema::unique(settings.url.as_deref());
            let wanted = PostgresSettings::new(&schema.url).schema(&schema.name);
            Ok((Arc::new(PostgresStore::open(wanted).await?), Files::Schema(schema)))
        }
        StoreKind::Redis => {
            let prefix = Prefix::new(settings);
            let wanted = RedisSettings::new(prefix.url()).prefix(prefix.name());
            Ok((Arc::new(RedisStore::open(wanted).await?), Files::Prefix(prefix)))
        }
    }
}

/// A new directory for the files of one measure.
pub(crate) fn directory(settings: &Settings) -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("mamos-bench-").tempdir_in(&settings.dir).with_context(|| {
        format!(
            "no directory can be made in {}; name one that can be written with --dir",
            settings.dir.display()
        )
    })
}
