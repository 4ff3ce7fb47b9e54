//! Lives and copies of an agent, with a real orchestrator at the other end.

#![expect(clippy::unwrap_used, reason = "tests, and their helpers outside test functions")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::{AgentHandle, AgentRuntime, HandlerRegistry, Identity, Stopped};
use mamos_core::agent::AgentProfile;
use mamos_core::auth::Secret;
use mamos_core::event::What;
use mamos_core::orchestrator::{Seen, TokenScope};
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{FromAgent, Hello, ToAgent};
use mamos_core::store::{AgentStore, PageRequest};
use mamos_core::transport::Connector;
use mamos_core::{AgentKind, ErrorKind, Orchestrator, Result, Timestamp};
use mamos_store::MemoryStore;
use mamos_transport::memory::{MemoryConnector, pair};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Scene {
    orchestrator: Orchestrator,
    store: Arc<MemoryStore>,
    connector: MemoryConnector,
    token: Secret,
}

struct Program {
    handle: AgentHandle,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<Stopped>>,
}

impl Scene {
    async fn new() -> Self {
        let (listener, connector) = pair();
        let store = Arc::new(MemoryStore::new());
        let orchestrator = Orchestrator::builder(store.clone()).listener(listener).build().unwrap();
        let serving = orchestrator.clone();
        tokio::spawn(async move { serving.run(std::future::pending()).await });
        let (_, token) = orchestrator.create_token(TokenScope::once(Duration::from_secs(60))).await.unwrap();
        Self { orchestrator, store, connector, token }
    }

    fn start(&self, directory: &Path) -> Program {
        let agent = HandlerRegistry::new(AgentKind::new("test").unwrap(), "test");
        let runtime = AgentRuntime::builder(Arc::new(agent), Arc::new(self.connector.clone()))
            .registration(self.token.clone())
            .state_directory(directory)
            .build()
            .unwrap();
        let (handle, shutdown) = (runtime.handle(), CancellationToken::new());
        let ended = tokio::spawn(runtime.run(shutdown.clone().cancelled_owned()));
        Program { handle, shutdown, ended }
    }
}

impl Program {
    async fn connected(&self) {
        assert!(self.handle.wait_until(|status| status.is_connected).await.is_connected);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
    }

    async fn why_denied(self) -> String {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.ended).await;
        let error = ended.expect("it goes on").unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        error.to_string()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from.join("identity.json"), to.join("identity.json")).unwrap();
}

async fn until_copied(mut events: mamos_core::orchestrator::EventStream) {
    loop {
        if let Seen::Event(event) = events.next().await.unwrap()
            && matches!(event.what, What::IdentityCopied { .. })
        {
            return;
        }
    }
}

#[tokio::test]
async fn one_program_after_the_other_is_the_same_agent_however_they_end() {
    let (scene, directory) = (Scene::new().await, tempfile::tempdir().unwrap());
    for is_killed in [false, true, true, false, true] {
        let program = scene.start(directory.path());
        program.connected().await;
        if is_killed {
            program.ended.abort();
            assert!(program.ended.await.is_err());
        } else {
            program.stop().await;
        }
    }
    let agents = scene.store.agents(PageRequest::first(10)).await.unwrap().items;
    assert_eq!(agents.len(), 1);
    assert!(agents[0].revocation.is_none());
}

#[tokio::test]
async fn a_copy_beside_a_running_program_ends_both() {
    let (scene, directory) = (Scene::new().await, tempfile::tempdir().unwrap());
    // An identity that has been on disk as welcomed, as any that somebody would copy.
    let first = scene.start(directory.path());
    first.connected().await;
    first.stop().await;
    let original = scene.start(directory.path());
    original.connected().await;
    let events = scene.orchestrator.events();
    let elsewhere = tempfile::tempdir().unwrap();
    while !Identity::load(&directory.path().join("identity.json")).unwrap().unwrap().is_welcomed() {
        tokio::task::yield_now().await;
    }
    copy(directory.path(), elsewhere.path());
    let copied = scene.start(elsewhere.path());
    let said = original.why_denied().await;
    assert!(said.contains("copied"), "{said}");
    copied.why_denied().await;
    until_copied(events).await;
    let agents = scene.store.agents(PageRequest::first(10)).await.unwrap().items;
    assert!(agents[0].revocation.is_some());
}

#[tokio::test]
async fn a_copy_that_is_gone_again_is_found_when_the_original_comes_back() {
    let (scene, directory) = (Scene::new().await, tempfile::tempdir().unwrap());
    let original = scene.start(directory.path());
    original.connected().await;
    original.stop().await;
    let elsewhere = tempfile::tempdir().unwrap();
    copy(directory.path(), elsewhere.path());
    let copied = scene.start(elsewhere.path());
    copied.connected().await;
    copied.stop().await;
    let said = scene.start(directory.path()).why_denied().await;
    assert!(said.contains("copied") && said.contains("register a new agent"), "{said}");
}

/// It was killed with a hello on its way, which arrives after that of its next life.
#[tokio::test]
async fn a_late_hello_of_an_earlier_life_is_no_copy() {
    let (scene, directory) = (Scene::new().await, tempfile::tempdir().unwrap());
    let program = scene.start(directory.path());
    program.connected().await;
    program.stop().await;
    let earlier = Identity::load(&directory.path().join("identity.json")).unwrap().unwrap();
    let link = OrchestratorLink::new(scene.connector.connect().await.unwrap());
    let challenge = link.receive().await.unwrap().unwrap();
    let [ToAgent::Challenge { nonce }] = &challenge[..] else { panic!("{challenge:?}") };
    let program = scene.start(directory.path());
    program.connected().await;
    let late = Hello {
        oldest_version: 1,
        version: 1,
        credentials: earlier.credentials(&scene.token, nonce, None),
        profile: AgentProfile::new(AgentKind::new("test").unwrap(), "test"),
        instance: earlier.instance(),
        previous: earlier.previous(),
        number: 2,
        session: None,
        runs: Vec::new(),
        now: Timestamp::EPOCH,
    };
    link.send(vec![FromAgent::Hello(Box::new(late))]).await.unwrap();
    let answer = link.receive().await.unwrap().unwrap();
    assert!(matches!(&answer[..], [ToAgent::Refused { is_final: false, .. }]), "{answer:?}");
    assert!(program.handle.status().is_connected);
    program.stop().await;
    let agents = scene.store.agents(PageRequest::first(10)).await.unwrap().items;
    assert!(agents[0].revocation.is_none());
}
