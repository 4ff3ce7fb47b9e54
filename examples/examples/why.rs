//! Why does my job not run? The orchestrator says it, as data.

#![expect(clippy::print_stdout, reason = "an example talks")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mamos_agent::{HandlerRegistry, JobContext, JobError};
use mamos_core::job::labels::Labels;
use mamos_core::orchestrator::WaitsFor;
use mamos_core::{AgentKind, Job, QueueName};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Render;

impl Job for Render {
    const KIND: &'static str = "video.render";
    type Output = ();
}

/// A kind that no agent here can run.
#[derive(Serialize, Deserialize)]
struct Print;

impl Job for Print {
    const KIND: &'static str = "paper.print";
    type Output = ();
}

async fn render(_: Render, context: JobContext) -> Result<(), JobError> {
    context.cancelled().await;
    Err(JobError::cancelled())
}

/// Enqueues jobs that wait, each for another reason, and asks for the reasons.
async fn run() -> Result<Vec<WaitsFor>> {
    let agent = HandlerRegistry::new(AgentKind::new("renderer")?, "the only one")
        .labels(Labels::new([("zone", "eu")])?)
        .register::<Render, _>(render)?;
    let orchestrator = mamos_examples::in_process(Arc::new(agent)).await?;
    orchestrator.pause(&QueueName::new("paused")?).await?;

    let jobs = [
        orchestrator.enqueue(Print).await?,
        orchestrator.enqueue(Render).on("zone=us").await?,
        orchestrator.enqueue(Render).delay(Duration::from_secs(3600)).await?,
        orchestrator.enqueue(Render).needs_approval().await?,
        orchestrator.enqueue(Render).queue("paused").await?,
    ];
    let mut reasons = Vec::new();
    for job in jobs {
        let why = orchestrator.why(job.id()).await?;
        println!("job {} is {} and waits for {}", why.job, why.state.as_str(), why.waits_for);
        reasons.push(why.waits_for);
    }
    Ok(reasons)
}

#[tokio::main]
async fn main() -> Result<()> {
    run().await.map(drop)
}

#[cfg(test)]
#[tokio::test]
async fn every_job_waits_for_something_else() {
    let reasons = run().await.unwrap();
    assert!(matches!(&reasons[0], WaitsFor::AgentOfKind(kind) if kind.as_str() == "paper.print"));
    assert!(matches!(&reasons[1], WaitsFor::MatchingAgent { unmet } if unmet[0].1 == "zone=us"));
    assert!(matches!(&reasons[2], WaitsFor::Time { .. }));
    assert_eq!(reasons[3], WaitsFor::Approval);
    assert!(matches!(&reasons[4], WaitsFor::PausedQueue(queue) if queue.as_str() == "paused"));
}
