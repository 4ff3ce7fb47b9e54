//! Everything together, over TLS: a real orchestrator behind its own server, a real agent that pins its
//! certificate, and a caller with a key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::{AgentRuntime, HandlerRegistry, JobContext, JobError, LoadSource};
use mamos_core::agent::HostLoad;
use mamos_core::auth::Secret;
use mamos_core::{AgentKind, ErrorKind, Job, Orchestrator};
use mamos_http::{AGENT_LINK_PATH, Access, AgentEndpoint, Api, NewKey, Server, Tls, UserName};
use mamos_store::MemoryStore;
use mamos_transport::WebSocketConnector;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};

use crate::certificates::Identity;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Job for Greet {
    const KIND: &'static str = "greet";
    type Output = String;
}

/// A machine that is not busy, whatever this one is.
struct Idle;

impl LoadSource for Idle {
    fn sample(&self) -> HostLoad {
        HostLoad { memory_used_bytes: 1 << 30, memory_total_bytes: 8 << 30, ..HostLoad::default() }
    }
}

/// Asks the API as an operator.
struct Caller {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Caller {
    async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Response {
        let response = request.bearer_auth(&self.key).send().await.unwrap();
        let (status, url) = (response.status(), response.url().clone());
        assert!(status.is_success(), "{url} was answered with {status}: {}", response.text().await.unwrap());
        response
    }

    async fn get(&self, path: &str) -> Value {
        self.send(self.http.get(format!("{}{path}", self.base))).await.json().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.send(self.http.post(format!("{}{path}", self.base)).json(&body)).await.json().await.unwrap()
    }

    /// Asks until the answer is as wished.
    async fn until(&self, path: &str, is_wished: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let answer = self.get(path).await;
                if is_wished(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, asking).await.expect("it becomes so")
    }
}

/// Names and data of server-sent events.
struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(event), Some(data)) = (field("event: "), field("data: ")) {
                    return Some((event.to_owned(), serde_json::from_str(data).unwrap()));
                }
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk()).await.expect("it goes on");
            self.buffer.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
        }
    }
}

fn client(identity: &Identity) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_registers_over_tls_runs_a_typed_job_is_watched_and_is_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::self_signed();
    let (certificate, key) = identity.files(directory.path());

    // The orchestrator, with its API and the agents' door on one port.
    let (listener, link) = AgentEndpoint::new().split();
    let store = Arc::new(MemoryStore::new());
    let orchestrator = Orchestrator::builder(store)
        .listener(listener)
        .heartbeat_every(Duration::from_millis(100))
        .lease_ttl(Duration::from_secs(2))
        .build()
        .unwrap();
    let access = Access::new(&orchestrator);
    let api = Api::builder(&orchestrator).access(Arc::clone(&access)).build();
    let server = Server::builder(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = server.tls(Tls::from_files(certificate, key).unwrap()).bind().await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let router = api.router().route(AGENT_LINK_PATH, link);
    let serving = tokio::spawn(server.run(router, async {
        let _ = stopped.await;
    }));
    let runs = orchestrator.clone();
    let running = tokio::spawn(async move { runs.run(std::future::pending()).await });

    // An operator with a key.
    let ann = UserName::new("ann").unwrap();
    access.create_user(&ann, None, ["operator".to_owned()].into()).await.unwrap();
    let new = NewKey { name: "test".to_owned(), ..NewKey::default() };
    let key = access.create_key(&ann, new).await.unwrap().1.expose().to_owned();
    let base = format!("https://localhost:{}", address.port());
    let caller = Caller { http: client(&identity), base, key };

    // An agent with a token from the API, which knows the orchestrator by its certificate alone.
    let wish = json!({ "uses": 1, "valid_for_ms": 60_000 });
    let token = caller.post("/api/v1/registration-tokens", wish).await["token"].as_str().unwrap().to_owned();
    let connector = WebSocketConnector::builder(format!("wss://localhost:{}", address.port()))
        .pinned_fingerprint(identity.fingerprint());
    let go = Arc::new(Semaphore::new(0));
    let goes = Arc::clone(&go);
    let greet = move |job: Greet, context: JobContext| {
        let goes = Arc::clone(&goes);
        async move {
            context.log(format!("greeting {}\n", job.name)).await;
            // The test has read the line by then.
            goes.acquire().await.map_err(|error| JobError::permanent(error.to_string()))?.forget();
            context.log("done\n").await;
            Ok(format!("hello {}", job.name))
        }
    };
    let registry = HandlerRegistry::new(AgentKind::new("greeter").unwrap(), "one");
    let registry = registry.register::<Greet, _>(greet).unwrap();
    let runtime = AgentRuntime::builder(Arc::new(registry), Arc::new(connector.build().unwrap()))
        .registration(Secret::new(token))
        .load(Arc::new(Idle), 1)
        .build()
        .unwrap();
    let handle = runtime.handle();
    let agent_runs = tokio::spawn(runtime.run(std::future::pending()));
    let status = tokio::time::timeout(LIMIT, handle.wait_until(|status| status.is_connected)).await.unwrap();
    let id = status.agent.unwrap();
    let agent = caller.get(&format!("/api/v1/agents/{id}")).await;
    assert_eq!((&agent["state"], &agent["connected"]), (&json!("running"), &json!(true)), "{agent}");
    assert_eq!(agent["kinds"], json!(["greet"]));

    // Its job, whose log is followed while it is printed.
    let wish = json!({ "kind": "greet", "payload": { "name": "Ann" } });
    let job = caller.post("/api/v1/jobs", wish).await["id"].as_str().unwrap().to_owned();
    let follow = caller.http.get(format!("{}/api/v1/jobs/{job}/log/follow", caller.base));
    let mut events = Events { response: caller.send(follow).await, buffer: String::new() };
    let mut text = String::new();
    let end = loop {
        let (event, data) = events.next().await.expect("an end");
        match event.as_str() {
            "log" => {
                text.push_str(data["text"].as_str().unwrap());
                if text == "greeting Ann\n" {
                    go.add_permits(1);
                }
            }
            "end" => break data,
            _ => {}
        }
    };
    assert_eq!(text, "greeting Ann\ndone\n");
    assert_eq!((&end["reason"], &end["state"]), (&json!("job_ended"), &json!("succeeded")), "{end}");
    let ended = caller.get(&format!("/api/v1/jobs/{job}")).await;
    assert_eq!((&ended["output"], &ended["agent"]), (&json!("hello Ann"), &json!(id.to_string())));

    // How it is.
    let health =
        caller.until(&format!("/api/v1/agents/{id}/health"), |health| !health["load"].is_null()).await;
    assert_eq!((&health["status"], &health["liveness"]), (&json!("ok"), &json!("live")), "{health}");
    let metrics = caller.get(&format!("/api/v1/agents/{id}/metrics")).await;
    assert_eq!(metrics["samples"][0]["memory_total_bytes"], json!(8_u64 << 30), "{metrics}");
    let logs = caller.get(&format!("/api/v1/agents/{id}/logs")).await;
    assert_eq!(logs["items"][0]["tail"], "greeting Ann\ndone\n", "{logs}");

    // Revoked: its program ends at once, and it is let in no more.
    let revoke = format!("/api/v1/agents/{id}/revoke");
    let revoked = caller.post(&revoke, json!({ "reason": "stolen laptop" })).await;
    assert_eq!(revoked["revoked"]["reason"], "stolen laptop");
    let stopped = tokio::time::timeout(Duration::from_secs(1), agent_runs).await.expect("within a second");
    let error = stopped.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let down =
        caller.until(&format!("/api/v1/agents/{id}/health"), |health| health["status"] == "down").await;
    assert!(!down["reasons"].as_array().unwrap().is_empty(), "{down}");

    stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, serving).await.expect("the server ends").unwrap();
    running.abort();
}
