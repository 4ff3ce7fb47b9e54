//! An orchestrator that runs until it is told to stop.

use std::sync::Arc;

use mamos_core::orchestrator::Builder;
use mamos_core::{Orchestrator, Store};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) struct Running {
    pub(crate) orchestrator: Orchestrator,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<mamos_core::Result<()>>,
}

impl Running {
    /// Runs an orchestrator over the store, with what else it is given.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        given: impl FnOnce(Builder) -> Builder,
    ) -> anyhow::Result<Self> {
        let orchestrator = given(Orchestrator::builder(store)).build()?;
        let (shutdown, stopped) = oneshot::channel::<()>();
        let serving = orchestrator.clone();
        let task = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            serving.run(stopped).await
        });
        Ok(Self { orchestrator, shutdown, task })
    }

    /// Stops the orchestrator in order.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let _ = self.shutdown.send(());
        Ok(self.task.await??)
    }
}
