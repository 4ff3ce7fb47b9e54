//! An agent of one's own: whatever runs jobs. It knows nothing of links, heartbeats or retries; the
//! runtime gives it those.

#![expect(clippy::print_stdout, reason = "an example talks")]

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use mamos_core::agent::{Agent, AgentProfile, Attempt, LogStream};
use mamos_core::job::{Failure, Outcome, Progress};
use mamos_core::lease::RunRef;
use mamos_core::{AgentKind, Job, JobKind};
use serde::{Deserialize, Serialize};

/// What is asked for. The agent below never sees this type, only its bytes and the name of its kind.
#[derive(Serialize, Deserialize)]
struct Reverse(String);

impl Job for Reverse {
    const KIND: &'static str = "text.reverse";
    type Output = String;
}

/// Turns any text around. It could as well speak to a machine over a serial line.
struct Mirror {
    agent_kind: AgentKind,
    job_kind: JobKind,
}

#[async_trait]
impl Agent for Mirror {
    fn profile(&self) -> AgentProfile {
        let mut profile = AgentProfile::new(self.agent_kind.clone(), "on the wall");
        profile.kinds = vec![self.job_kind.clone()];
        profile.slots = 4;
        profile
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        attempt.reporter.progress(Progress::new(Some(50.0), "looking"));
        attempt.reporter.log(LogStream::Stdout, "I see something\n".into()).await;
        match serde_json::from_slice::<String>(&attempt.payload) {
            Ok(text) => {
                let turned: String = text.chars().rev().collect();
                Outcome::Succeeded { output: serde_json::Value::from(turned).to_string().into() }
            }
            // No further attempt can read it either.
            Err(error) => Outcome::Bury { failure: Failure::new("undecodable", error.to_string()) },
        }
    }
}

async fn run() -> Result<String> {
    let mirror = Mirror { agent_kind: AgentKind::new("mirror")?, job_kind: JobKind::new(Reverse::KIND)? };
    let orchestrator = mamos_examples::in_process(Arc::new(mirror)).await?;
    let job = orchestrator.enqueue(Reverse("mamos".to_owned())).await?;
    let turned = job.wait().await?;
    let record = job.record().await?;
    let run = RunRef { job: job.id(), epoch: record.epoch };
    for piece in orchestrator.log(run, 0, 4096).await? {
        print!("{}", String::from_utf8_lossy(&piece.bytes));
    }
    println!("{turned}");
    Ok(turned)
}

#[tokio::main]
async fn main() -> Result<()> {
    run().await.map(drop)
}

#[cfg(test)]
#[tokio::test]
async fn the_text_is_turned_around() {
    assert_eq!(run().await.unwrap(), "somam");
}
