//! The shortest way to a first result: an orchestrator and an agent in one process.

#![expect(clippy::print_stdout, reason = "an example talks")]

use std::{error::Error, future::pending, sync::Arc, time::Duration};

use mamos_agent::{AgentRuntime, HandlerRegistry, JobContext, JobError};
use mamos_core::orchestrator::TokenScope;
use mamos_core::{AgentKind, Job, Orchestrator};
use mamos_store::MemoryStore;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct SendMail {
    to: String,
}

impl Job for SendMail {
    const KIND: &'static str = "mail.send";
    type Output = String;
}

async fn send_mail(job: SendMail, _: JobContext) -> Result<String, JobError> {
    Ok(format!("sent to {}", job.to))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (listener, connector) = mamos_transport::memory::pair();
    let orchestrator = Orchestrator::builder(Arc::new(MemoryStore::new())).listener(listener).build()?;
    let serving = orchestrator.clone();
    tokio::spawn(async move { serving.run(pending()).await });

    let (_, token) = orchestrator.create_token(TokenScope::once(Duration::from_secs(60))).await?;
    let mailer = HandlerRegistry::new(AgentKind::new("mailer")?, "ann").register::<SendMail, _>(send_mail)?;
    let agent = AgentRuntime::builder(Arc::new(mailer), Arc::new(connector)).registration(token).build()?;
    tokio::spawn(agent.run(pending()));

    let job = orchestrator.enqueue(SendMail { to: "bob@example.org".into() }).queue("mail").await?;
    println!("{}", job.wait().await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_comes_to_a_result() {
        super::main().unwrap();
    }
}
