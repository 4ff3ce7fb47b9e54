//! An address from which too many agents were refused waits, and nobody else does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn};
use axum::routing::MethodRouter;
use mamos_agent::{AgentRuntime, HandlerRegistry};
use mamos_core::auth::{Admission, Authenticator, Challenge, Secret};
use mamos_core::orchestrator::{Builder, TokenScope};
use mamos_core::protocol::Hello;
use mamos_core::transport::Connector as _;
use mamos_core::{AgentKind, Error, ErrorKind, Orchestrator, Result, Timestamp};
use mamos_http::{AGENT_LINK_PATH, AgentEndpoint, FailureLimiter, Rate};
use mamos_store::MemoryStore;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::raw::{UPGRADE, ask};
use crate::scene::{Serving, connector, serve};

/// How many may be refused before the next must wait.
const REFUSALS: u32 = 3;

/// An orchestrator behind a proxy that it trusts.
struct Host {
    orchestrator: Orchestrator,
    running: JoinHandle<Result<()>>,
    link: MethodRouter,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Host {
    fn new(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let joins = Arc::new(FailureLimiter::new(Rate::new(REFUSALS, Duration::from_secs(3600))));
        let endpoint =
            AgentEndpoint::new().limited_by(joins).trusted_proxies(["127.0.0.1/32".parse().unwrap()]);
        let (listener, link) = endpoint.split();
        let builder = Orchestrator::builder(Arc::new(MemoryStore::new())).listener(listener);
        let orchestrator = settings(builder).build().unwrap();
        let runs = orchestrator.clone();
        let running = tokio::spawn(async move { runs.run(std::future::pending()).await });
        Self { orchestrator, running, link }
    }

    /// A way in for agents that come from this address, as the proxy says.
    async fn from(&self, address: &'static str) -> (SocketAddr, Serving) {
        let forwarded = async move |mut request: Request, next: Next| {
            request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static(address));
            next.run(request).await
        };
        serve(Router::new().route(AGENT_LINK_PATH, self.link.clone()).layer(from_fn(forwarded))).await
    }

    fn agent(&self, address: SocketAddr, token: Secret) -> AgentRuntime {
        let registry = HandlerRegistry::new(AgentKind::new("test").unwrap(), "test");
        let connector = Arc::new(connector(address).build().unwrap());
        AgentRuntime::builder(Arc::new(registry), connector).registration(token).build().unwrap()
    }

    async fn is_connected(&self, address: SocketAddr) -> bool {
        let scope = TokenScope::once(Duration::from_secs(60));
        let (_, token) = self.orchestrator.create_token(scope).await.unwrap();
        let runtime = self.agent(address, token);
        let handle = runtime.handle();
        let running = tokio::spawn(runtime.run(std::future::pending()));
        let connected = handle.wait_until(|status| status.is_connected).await.is_connected;
        running.abort();
        connected
    }
}

#[tokio::test]
async fn an_address_from_which_too_many_were_refused_waits_and_others_do_not() {
    let host = Host::new(|builder| builder);
    let (bad, _bad) = host.from("198.51.100.1").await;
    let (good, _good) = host.from("198.51.100.2").await;
    for _ in 0..REFUSALS {
        let (_stream, head) = ask(bad, "GET", UPGRADE).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let wrong = Secret::new("mamos_reg_wrong");
        let error = host.agent(bad, wrong).run(std::future::pending()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    let (_stream, head) = ask(bad, "GET", UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    let wait = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
    assert!((3590..=3601).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    let error = connector(bad).build().unwrap().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "a good agent there comes again: {error}");
    assert!(host.is_connected(good).await);
}

#[tokio::test]
async fn good_agents_are_not_counted() {
    let host = Host::new(|builder| builder);
    let (address, _serving) = host.from("198.51.100.1").await;
    for _ in 0..=REFUSALS {
        assert!(host.is_connected(address).await);
    }
}

/// Cannot decide about anybody now. Counts who asked.
struct Undecided(Arc<Semaphore>);

#[async_trait]
impl Authenticator for Undecided {
    async fn admit(&self, _: &Hello, _: &Challenge, _: Timestamp) -> Result<Admission> {
        self.0.add_permits(1);
        Err(Error::new(ErrorKind::Unavailable, "test", "not now"))
    }
}

#[tokio::test]
async fn who_is_told_to_come_again_is_not_counted() {
    let asked = Arc::new(Semaphore::new(0));
    let undecided = Arc::new(Undecided(Arc::clone(&asked)));
    let host = Host::new(|builder| builder.authenticator(undecided));
    let (address, _serving) = host.from("198.51.100.1").await;
    let runtime = host.agent(address, Secret::new("mamos_reg_any"));
    let running = tokio::spawn(runtime.run(std::future::pending()));
    // Whoever asks was let in at the door, after the one before was refused.
    let _ = asked.acquire_many(REFUSALS + 2).await.unwrap();
    running.abort();
    assert!(ask(address, "GET", UPGRADE).await.1.starts_with("HTTP/1.1 101"));
}
