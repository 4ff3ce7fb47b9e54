//! A fresh store with an orchestrator over it, for one measure.

use std::sync::Arc;

use anyhow::Context;
use mamos_core::{Orchestrator, Store};
use mamos_store::{MemoryStore, SqliteSettings, SqliteStore};
use mamos_transport::memory::{MemoryConnector, pair};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::settings::{Durability, Settings, StoreKind};

/// What a measure runs on.
pub(crate) struct Bed {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) connector: MemoryConnector,
    shutdown: oneshot::Sender<()>,
    running: JoinHandle<mamos_core::Result<()>>,
    /// Removed with everything in it when the measure is over.
    _directory: Option<TempDir>,
}

impl Bed {
    /// Makes an empty store and runs an orchestrator over it.
    pub(crate) async fn make(settings: &Settings) -> anyhow::Result<Self> {
        let (store, directory) = open(settings).await?;
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
        Ok(Self { orchestrator, connector, shutdown, running, _directory: directory })
    }

    /// Stops the orchestrator in order.
    pub(crate) async fn clear(self) -> anyhow::Result<()> {
        drop(self.connector);
        let _ = self.shutdown.send(());
        self.running.await??;
        Ok(())
    }
}

/// How the store describes itself.
pub(crate) async fn describe(settings: &Settings) -> anyhow::Result<String> {
    let (store, _directory) = open(settings).await?;
    Ok(store.describe())
}

async fn open(settings: &Settings) -> anyhow::Result<(Arc<dyn Store>, Option<TempDir>)> {
    match settings.store {
        StoreKind::Memory => Ok((Arc::new(MemoryStore::new()), None)),
        StoreKind::Sqlite => {
            let directory = directory(settings)?;
            let durability = match settings.durability {
                Durability::Full => mamos_store::Durability::Full,
                Durability::Normal => mamos_store::Durability::Normal,
                Durability::Off => mamos_store::Durability::Off,
            };
            let wanted = SqliteSettings::new(directory.path().join("mamos.db")).durability(durability);
            Ok((Arc::new(SqliteStore::open(wanted).await?), Some(directory)))
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
