//! A program becomes an orchestrator: a store, a listener and a whitelist.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mamos_core::Orchestrator;
use mamos_core::store::PageRequest;
use mamos_store::{SqliteSettings, SqliteStore};
use mamos_transport::socket::UnixFrameListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::place::{Place, Taken};
use super::policy;

/// After how long without a sign of an agent its jobs go to others. Short, so that the tour is.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// An orchestrator that serves agents.
pub(super) struct Service {
    pub(super) orchestrator: Orchestrator,
    store: Arc<SqliteStore>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<mamos_core::Result<()>>,
    _taken: Taken,
}

impl Service {
    /// Opens the database, or creates it, and listens for agents.
    pub(super) async fn start(place: &Place) -> Result<Self> {
        let taken = place.take()?;
        let store = Arc::new(SqliteStore::open(SqliteSettings::new(place.database())).await?);
        let listener = UnixFrameListener::bind(place.socket()).await?;
        let orchestrator = Orchestrator::builder(store.clone())
            .listener(listener)
            .whitelist(policy::load()?)
            .lease_ttl(LEASE)
            .heartbeat_every(Duration::from_millis(900))
            .sweep_every(Duration::from_millis(250))
            .build()?;
        if orchestrator.agents(PageRequest::first(1)).await?.items.is_empty() {
            place.forget_agents()?;
        }
        let (stop, stopped) = oneshot::channel();
        let serving = orchestrator.clone();
        let running = tokio::spawn(async move {
            serving
                .run(async {
                    // A dropped sender means the same as a sent word.
                    let _ = stopped.await;
                })
                .await
        });
        Ok(Self { orchestrator, store, stop, running, _taken: taken })
    }

    /// Stops in order: links first, then the reports that had arrived, then the file.
    pub(super) async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        let ended = self.running.await.context("the orchestrator panicked")?;
        self.store.close().await;
        Ok(ended?)
    }
}

/// An orchestrator over the database that serves nobody: good for looking.
pub(super) async fn look_only(place: &Place) -> Result<Orchestrator> {
    let file = place.database();
    if !file.exists() {
        anyhow::bail!("there is no {}; run the quickstart first", file.display());
    }
    let store = SqliteStore::open(SqliteSettings::new(file)).await?;
    Ok(Orchestrator::builder(Arc::new(store)).build()?)
}
