//! Serves the API over a memory store on a free port, with a key for each role, so that a fuzzer can be let
//! loose on it. See `scripts/fuzz-api.sh`.
//!
//! Prints the address, then a line `role key` for each role. Ends with its standard input.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use mamos_core::auth::{Gatekeeper, Identified, Principal, Role, Secret};
use mamos_core::whitelist::policy::{Policy, UncheckedPrograms};
use mamos_core::{Error, ErrorKind, JobKind, Orchestrator, Result, Timestamp};
use mamos_http::Api;
use mamos_store::MemoryStore;
use tokio::io::AsyncReadExt;

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

/// Knows a role by `fuzz-` and its name.
struct Roles;

#[async_trait]
impl Gatekeeper for Roles {
    async fn identify(&self, bearer: &Secret, _: Option<IpAddr>, _: Timestamp) -> Result<Identified> {
        let name = bearer.expose().strip_prefix("fuzz-").unwrap_or_default();
        let role = Role::built_in().into_iter().find(|role| role.name == name);
        let role = role.ok_or_else(|| Error::new(ErrorKind::Denied, "fuzz", "nobody is known by that"))?;
        let principal = Principal::new(format!("user:{name}"), [role.name]);
        Ok(Identified { principal, permissions: role.permissions, agent: None })
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let whitelist = Policy::parse(WHITELIST, "whitelist", &UncheckedPrograms)?;
    let orchestrator =
        Orchestrator::builder(Arc::new(MemoryStore::new())).whitelist(Arc::new(whitelist)).build()?;
    let kind = JobKind::new("mail.send")?;
    orchestrator.enqueue_untyped(kind, bytes::Bytes::from_static(b"{\"to\": \"ann\"}")).await?;
    let api = Api::builder(&orchestrator).gatekeeper(Arc::new(Roles)).build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "http://{}", listener.local_addr()?)?;
    for role in Role::built_in() {
        writeln!(out, "{} fuzz-{}", role.name, role.name)?;
    }
    out.flush()?;
    drop(out);
    let end = async {
        let mut input = tokio::io::stdin();
        let mut bytes = [0; 64];
        // An input that cannot be read has ended as well.
        while input.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    axum::serve(listener, api.router()).with_graceful_shutdown(end).await?;
    Ok(())
}
