//! Serves the API over a memory store on a free port, with users, keys and a connected agent, so that a
//! fuzzer can be let loose on it. See `scripts/fuzz-api.sh`.
//!
//! Prints lines: `url` with the address, `role` with the name of a role and a token of somebody who has it,
//! `known` with the name of a parameter of paths and a value that something has, at last `ready`. Ends with
//! its standard input.

use std::future::pending;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::{AgentHandle, AgentRuntime, HandlerRegistry, JobContext, JobError};
use mamos_core::auth::Role;
use mamos_core::orchestrator::TokenScope;
use mamos_core::whitelist::policy::{Policy, UncheckedPrograms};
use mamos_core::{AgentKind, Job, JobKind, Orchestrator};
use mamos_http::{Access, Api, NewKey, Server, UserName};
use mamos_store::MemoryStore;
use mamos_transport::memory::{MemoryConnector, pair};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

type Error = Box<dyn std::error::Error>;

const WHITELIST: &str = r#"
version = 1
[commands.disk-usage]
description = "How full a file system is"
program = "/usr/bin/df"
arguments = ["-h", "{path}"]
allow = { roles = ["*"] }
[commands.disk-usage.parameters.path]
type = "path"
roots = ["/var"]
default = "/var"
"#;

#[derive(Serialize, Deserialize)]
struct Echo(serde_json::Value);

impl Job for Echo {
    const KIND: &'static str = "echo";
    type Output = serde_json::Value;
}

async fn echo(job: Echo, context: JobContext) -> Result<serde_json::Value, JobError> {
    context.log("a line\n").await;
    Ok(job.0)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let whitelist = Policy::parse(WHITELIST, "whitelist", &UncheckedPrograms)?;
    let (listener, connector) = pair();
    let builder = Orchestrator::builder(Arc::new(MemoryStore::new())).listener(listener);
    let orchestrator = builder.whitelist(Arc::new(whitelist)).build()?;
    let access = Access::new(&orchestrator);
    // A fuzzer asks as often as it can.
    let api = Api::builder(&orchestrator).access(Arc::clone(&access)).request_rate(None).build();
    let server = Server::builder(SocketAddr::from(([127, 0, 0, 1], 0))).bind().await?;
    let runs = orchestrator.clone();
    tokio::spawn(async move { runs.run(pending()).await });

    let mut said = format!("url http://{}\n", server.address());
    let agent = agent(&orchestrator, connector.clone()).await?.identity();
    let id = agent.agent().ok_or("a connected agent has an id")?;
    let token = agent.token().ok_or("a connected agent has a token")?;
    said += &format!("role agent {}\nknown agent {id}\n", token.expose());
    for role in ["read-only", "operator", "admin"] {
        said += &format!("role {role} {}\n", key(&access, role).await?);
    }
    said += &things(&orchestrator, &access).await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{said}ready")?;
    out.flush()?;
    drop(out);
    let end = async {
        let mut input = tokio::io::stdin();
        let mut bytes = [0; 64];
        // An input that cannot be read has ended as well.
        while input.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    server.run_api(&api, end).await;
    // While there is one, the listener is up, also after somebody revoked the agent.
    drop(connector);
    Ok(())
}

/// Connects an agent that has run a job.
async fn agent(orchestrator: &Orchestrator, connector: MemoryConnector) -> Result<AgentHandle, Error> {
    let (_, token) = orchestrator.create_token(TokenScope::once(Duration::from_secs(60))).await?;
    let registry = HandlerRegistry::new(AgentKind::new("web")?, "fuzzed").register::<Echo, _>(echo)?;
    let runtime =
        AgentRuntime::builder(Arc::new(registry), Arc::new(connector)).registration(token).build()?;
    let handle = runtime.handle();
    tokio::spawn(runtime.run(pending()));
    handle.wait_until(|status| status.is_connected).await;
    Ok(handle)
}

/// Makes a user with this role, and gives a key of theirs.
async fn key(access: &Access, role: &str) -> Result<String, Error> {
    let user = UserName::new(&format!("fuzz-{role}"))?;
    access.create_user(&user, None, [role.to_owned()].into()).await?;
    let new = NewKey { name: "fuzzing".to_owned(), ..NewKey::default() };
    Ok(access.create_key(&user, new).await?.1.expose().to_owned())
}

/// Makes something of each sort, and says by which parameters of paths it is found.
async fn things(orchestrator: &Orchestrator, access: &Access) -> Result<String, Error> {
    let mut said = String::new();
    for number in 0..4 {
        // The agent runs the first two; the others wait for one that does not come.
        let kind = JobKind::new(if number < 2 { Echo::KIND } else { "mail.send" })?;
        let payload = bytes::Bytes::from_static(b"{\"to\": \"ann\"}");
        let job = orchestrator.enqueue_untyped(kind, payload).await?;
        said += &format!("known job {}\n", job.id());
    }
    let (token, _) = orchestrator.create_token(TokenScope::once(Duration::from_secs(3600))).await?;
    said += &format!("known id {}\n", token.id);
    let ann = UserName::new("someone")?;
    access.create_user(&ann, None, ["read-only".to_owned()].into()).await?;
    let new = NewKey { name: "theirs".to_owned(), ..NewKey::default() };
    said += &format!("known id {}\n", access.create_key(&ann, new).await?.0.id);
    let role = Role { name: "night-shift".to_owned(), permissions: [].into() };
    access.put_role(&role).await?;
    for (parameter, value) in
        [("queue", "default"), ("command", "disk-usage"), ("user", "someone"), ("role", "night-shift")]
    {
        said += &format!("known {parameter} {value}\n");
    }
    Ok(said)
}
