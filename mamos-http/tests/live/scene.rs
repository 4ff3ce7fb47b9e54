//! An orchestrator with an API that is served over TCP, callers who are known by name, and an agent that
//! does what the test says.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::agent::AgentProfile;
use mamos_core::auth::{Credentials, Gatekeeper, Identified, KeyPair, Permission, Principal, Secret};
use mamos_core::id::{AgentKind, InstanceId, JobId, JobKind, QueueName};
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::{NewJob, Priority};
use mamos_core::lease::RunRef;
use mamos_core::orchestrator::{Builder, TokenScope};
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{
    Dispatched, FromAgent, Hello, OLDEST_VERSION, RunEvent, RunReport, ToAgent, VERSION,
};
use mamos_core::transport::Connector;
use mamos_core::{Error, ErrorKind, Orchestrator, Result, Store, Timestamp};
use mamos_http::{Api, ApiBuilder, Server, ServerBuilder};
use mamos_store::MemoryStore;
use mamos_transport::memory::{MemoryConnector, pair};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// Nothing in these tests takes so long.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Knows callers by their tokens until they are forgotten.
#[derive(Default)]
pub(crate) struct Doorman {
    known: Mutex<HashMap<String, Identified>>,
}

impl Doorman {
    pub(crate) fn know(&self, token: &str, permissions: &[Permission]) {
        let identified = Identified {
            principal: Principal::new(format!("user:{token}"), ["tester"]),
            permissions: permissions.iter().copied().collect::<BTreeSet<_>>(),
            agent: None,
        };
        self.known.lock().unwrap().insert(token.to_owned(), identified);
    }

    pub(crate) fn forget(&self, token: &str) {
        self.known.lock().unwrap().remove(token);
    }
}

#[async_trait]
impl Gatekeeper for Doorman {
    async fn identify(&self, bearer: &Secret, _: Option<IpAddr>, _: Timestamp) -> Result<Identified> {
        let known = self.known.lock().unwrap().get(bearer.expose()).cloned();
        known.ok_or_else(|| Error::new(ErrorKind::Denied, "test", "nobody is known by this token"))
    }
}

pub(crate) struct Scene {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) api: Api,
    pub(crate) doorman: Arc<Doorman>,
    pub(crate) connector: MemoryConnector,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<()>>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder, |builder| builder).await
    }

    pub(crate) async fn with(
        engine: impl FnOnce(Builder) -> Builder,
        settings: impl FnOnce(ApiBuilder) -> ApiBuilder,
    ) -> Self {
        let (listener, connector) = pair();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let orchestrator = engine(Orchestrator::builder(store).listener(listener)).build().unwrap();
        let doorman = Arc::new(Doorman::default());
        doorman.know("ann", &[Permission::Read]);
        doorman.know("bob", &[]);
        let gatekeeper = Arc::clone(&doorman) as Arc<dyn Gatekeeper>;
        let api = settings(Api::builder(&orchestrator).gatekeeper(gatekeeper)).build();
        let (stop, stopped) = oneshot::channel::<()>();
        let runs = orchestrator.clone();
        let running = tokio::spawn(async move {
            runs.run(async {
                let _ = stopped.await;
            })
            .await
        });
        while !orchestrator.is_serving() {
            tokio::task::yield_now().await;
        }
        Self { orchestrator, api, doorman, connector, stop: Some(stop), running }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }

    /// Serves the API on a port of this machine.
    pub(crate) async fn serve(&self, settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Served {
        let server = settings(Server::builder(LOOPBACK)).bind().await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let api = self.api.clone();
        let running = tokio::spawn(async move {
            server
                .run_api(&api, async {
                    let _ = stopped.await;
                })
                .await;
        });
        Served { address, stop, running }
    }

    /// Enqueues a job that is tried three times, at once.
    pub(crate) async fn enqueue(&self, key: &str) -> JobId {
        let lane = Lane::new("q".parse::<QueueName>().unwrap(), "k".parse().unwrap(), Selector::default());
        let job = NewJob {
            id: JobId::from_key(key),
            lane: Arc::new(lane),
            payload: "null".into(),
            priority: Priority(0),
            run_at: None,
            deadline: None,
            retry: RetryPolicy::fixed(3, Duration::ZERO),
            timeout: None,
            max_crashes: 3,
            unique_key: None,
            labels: Default::default(),
            traceparent: None,
            needs_approval: false,
        };
        self.orchestrator.enqueue_all(vec![job]).await.unwrap()[0].id
    }

    /// An agent with a slot.
    pub(crate) async fn agent(&self) -> Agent {
        let (_, token) = self.orchestrator.create_token(TokenScope::once(LIMIT)).await.unwrap();
        let link = OrchestratorLink::new(self.connector.connect().await.unwrap());
        let messages = link.receive().await.unwrap().unwrap();
        let ToAgent::Challenge { nonce } = &messages[0] else { panic!("{messages:?}") };
        let keys = KeyPair::generate().unwrap();
        let proof = keys.prove(nonce, token.expose());
        let mut profile = AgentProfile::new(AgentKind::new("test").unwrap(), "scripted");
        profile.kinds = vec![JobKind::new("k").unwrap()];
        let hello = Hello {
            oldest_version: OLDEST_VERSION,
            version: VERSION,
            credentials: Credentials::Registration { token, key: keys.public_key(), proof },
            profile,
            instance: InstanceId::from_parts(self.orchestrator.now(), 7),
            previous: None,
            number: 1,
            session: None,
            runs: Vec::new(),
            now: self.orchestrator.now(),
        };
        link.send(vec![FromAgent::Hello(Box::new(hello))]).await.unwrap();
        Agent { link, reported: 0 }
    }
}

/// A server that runs.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) running: JoinHandle<()>,
}

/// An agent that does just what the test says.
pub(crate) struct Agent {
    link: OrchestratorLink,
    reported: u64,
}

impl Agent {
    /// Waits for a job.
    pub(crate) async fn job(&mut self) -> Dispatched {
        loop {
            for message in self.link.receive().await.unwrap().expect("the link ended") {
                match message {
                    ToAgent::Dispatch(mut jobs) => return jobs.remove(0),
                    ToAgent::Refused { message, .. } => panic!("refused: {message}"),
                    _ => {}
                }
            }
        }
    }

    pub(crate) async fn report(&mut self, run: RunRef, event: RunEvent) {
        self.reported += 1;
        let reports = vec![RunReport { run, event }];
        self.link.send(vec![FromAgent::Reports { first: self.reported, reports }]).await.unwrap();
    }
}

/// One event of a stream, as a client reads it.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) event: String,
    pub(crate) data: serde_json::Value,
}

/// A client of server-sent events, by the book: an id counts once its event is complete.
pub(crate) struct Client {
    response: reqwest::Response,
    buffer: String,
    id: String,
    pub(crate) last_id: Option<String>,
}

impl Client {
    pub(crate) async fn open(address: SocketAddr, path: &str, token: &str, last_id: Option<&str>) -> Self {
        let mut request = http().get(format!("http://{address}{path}")).bearer_auth(token);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.status());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new(), id: String::new(), last_id: last_id.map(str::to_owned) }
    }

    /// The next event; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        let (mut event, mut data) = (String::new(), String::new());
        loop {
            while let Some(end) = self.buffer.find('\n') {
                let line: String = self.buffer.drain(..=end).collect();
                let line = line.trim_end_matches('\n');
                if line.is_empty() {
                    self.last_id = (!self.id.is_empty()).then(|| self.id.clone()).or(self.last_id.take());
                    if !data.is_empty() {
                        return Some(Heard { event, data: serde_json::from_str(&data).unwrap() });
                    }
                    event.clear();
                    continue;
                }
                match line.split_once(": ") {
                    Some(("id", id)) => self.id = id.to_owned(),
                    Some(("event", name)) => event = name.to_owned(),
                    Some(("data", text)) => data.push_str(text),
                    _ => {}
                }
            }
            let chunk =
                tokio::time::timeout(LIMIT, self.response.chunk()).await.expect("it goes on").ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event of that name.
    pub(crate) async fn expect(&mut self, name: &str) -> Heard {
        loop {
            let heard = self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
            if heard.event == name {
                return heard;
            }
        }
    }
}

/// A client that brings its own TLS: this process has no provider of cryptography of its own.
pub(crate) fn http() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(config).build().unwrap()
}

/// Asks once, as a stranger.
pub(crate) async fn fetch(url: impl reqwest::IntoUrl) -> reqwest::Result<reqwest::Response> {
    http().get(url).send().await
}
