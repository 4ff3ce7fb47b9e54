//! A long job says how far it is, is watched, and is cancelled half-way: it stops by itself, in its own
//! time, and the reason is on record.

#![expect(clippy::print_stdout, reason = "an example talks")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mamos_agent::{HandlerRegistry, JobContext, JobError};
use mamos_core::event::What;
use mamos_core::orchestrator::{Seen, WaitError};
use mamos_core::{AgentKind, Job};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct CopyFiles {
    count: u32,
}

impl Job for CopyFiles {
    const KIND: &'static str = "files.copy";
    type Output = u32;
}

async fn copy_files(job: CopyFiles, context: JobContext) -> Result<u32, JobError> {
    for file in 0..job.count {
        context.progress(100.0 * file as f32 / job.count as f32, format!("file {file}"));
        tokio::select! {
            _grace = context.cancelled() => return Err(JobError::cancelled()),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    Ok(job.count)
}

/// Gives the progress at which it was cancelled, and the reason on record.
async fn run() -> Result<(f32, String)> {
    let agent =
        HandlerRegistry::new(AgentKind::new("copier")?, "copier").register::<CopyFiles, _>(copy_files)?;
    let orchestrator = mamos_examples::in_process(Arc::new(agent)).await?;
    let mut events = orchestrator.events();
    let job = orchestrator.enqueue(CopyFiles { count: 1000 }).await?;
    let reached = loop {
        let seen = events.next().await.context("the orchestrator is gone")?;
        if let Seen::Event(event) = seen
            && let What::JobProgress { run, progress } = &event.what
            && let (true, Some(percent)) = (run.job == job.id(), progress.percent)
        {
            println!("{percent:5.1} % {}", progress.note);
            if percent >= 5.0 {
                break percent;
            }
        }
    };
    orchestrator.cancel(job.id(), "changed my mind", Duration::from_secs(5)).await?;
    match job.wait().await {
        Err(WaitError::Cancelled(reason)) => {
            println!("cancelled: {reason}");
            Ok((reached, reason))
        }
        other => bail!("it should have been cancelled, and ended with {other:?}"),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    run().await.map(drop)
}

#[cfg(test)]
#[tokio::test]
async fn it_stops_half_way_and_says_why() {
    let (reached, reason) = run().await.unwrap();
    assert!((5.0..100.0).contains(&reached), "{reached}");
    assert_eq!(reason, "changed my mind");
}
