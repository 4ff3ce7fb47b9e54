//! Agents and orchestrators over a bus that strangers share: jobs run, and nobody gets in between.

#![expect(clippy::unwrap_used, reason = "tests, and their helpers outside test functions")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_agent::{AgentHandle, AgentRuntime, HandlerRegistry, JobContext, JobError, Stopped};
use mamos_core::auth::{KeyPair, Secret};
use mamos_core::bus::{Bus, Message, Subscribe, Subscription};
use mamos_core::orchestrator::TokenScope;
use mamos_core::transport::{Connection, Connector, Listener};
use mamos_core::{AgentKind, ErrorKind, Job, Orchestrator, Result};
use mamos_store::MemoryStore;
use mamos_transport::bus::MemoryBus;
use mamos_transport::link_over_bus::{LinkName, LinkOverBusConnector, LinkOverBusListener, LinkSettings};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Serialize, Deserialize)]
struct Double(u32);

impl Job for Double {
    const KIND: &'static str = "double";
    type Output = u32;
}

/// An orchestrator that serves until it is stopped.
struct Serving {
    orchestrator: Orchestrator,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<()>>,
}

impl Serving {
    fn on(listener: impl Listener, store: Arc<MemoryStore>, name: &str) -> Self {
        let orchestrator = Orchestrator::builder(store).listener(listener).name(name).build().unwrap();
        let (serving, shutdown) = (orchestrator.clone(), CancellationToken::new());
        let ending = shutdown.clone().cancelled_owned();
        let ended = tokio::spawn(async move { serving.run(ending).await });
        Self { orchestrator, shutdown, ended }
    }

    async fn token(&self) -> Secret {
        self.orchestrator.create_token(TokenScope::once(Duration::from_secs(60))).await.unwrap().1
    }

    async fn runs_jobs(&self, count: u32) {
        let jobs = (0..count).map(|number| async move {
            let job = self.orchestrator.enqueue(Double(number)).await.unwrap();
            assert_eq!(job.wait().await.unwrap(), 2 * number);
        });
        let all = futures_util::future::join_all(jobs);
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("the jobs end");
    }
}

struct Program {
    handle: AgentHandle,
    ended: JoinHandle<Result<Stopped>>,
}

fn start(connector: impl Connector, token: Secret) -> Program {
    let agent = HandlerRegistry::new(AgentKind::new("test").unwrap(), "test")
        .register::<Double, _>(|Double(number): Double, _: JobContext| async move {
            Ok::<_, JobError>(2 * number)
        })
        .unwrap();
    let runtime = AgentRuntime::builder(Arc::new(agent), Arc::new(connector)).registration(token).build();
    let runtime = runtime.unwrap();
    let handle = runtime.handle();
    Program { handle, ended: tokio::spawn(runtime.run(std::future::pending())) }
}

impl Program {
    async fn until(&self, is_connected: bool) {
        let waiting = self.handle.wait_until(|status| status.is_connected == is_connected);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
    }
}

/// Remembers what was published.
#[derive(Clone, Default)]
struct Overheard {
    bus: MemoryBus,
    seen: Arc<Mutex<Vec<Message>>>,
}

#[async_trait]
impl Bus for Overheard {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        self.seen.lock().unwrap().extend(messages.iter().cloned());
        self.bus.publish(messages).await
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        self.bus.subscribe(subscribe).await
    }

    fn describe(&self) -> String {
        "an overheard bus".to_owned()
    }
}

/// One of the newest messages: again, changed, and on the topics of others.
fn forgeries(seen: &[Message], number: usize) -> Vec<Message> {
    let newest = &seen[seen.len().saturating_sub(16)..];
    let message = &newest[number % newest.len()];
    let mut changed = message.payload.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    if let Some(number) = changed.get_mut(1) {
        // One that is still to come: those that came are dropped before they are opened.
        *number ^= 1;
    }
    let changed = Message { payload: Bytes::from(changed), ..message.clone() };
    let moved = seen.iter().take(5).map(|m| Message { topic: m.topic.clone(), ..message.clone() });
    [message.clone(), changed].into_iter().chain(moved).collect()
}

#[tokio::test]
async fn jobs_run_over_a_bus_while_somebody_forges_on_all_topics() {
    let bus = Overheard::default();
    let settings = LinkSettings::default().with_signing_key(KeyPair::generate().unwrap());
    let listener = LinkOverBusListener::bind(Arc::new(bus.clone()), settings).await.unwrap();
    let pin = listener.public_key().unwrap();
    let serving = Serving::on(listener, Arc::new(MemoryStore::new()), "one");
    let connector = LinkOverBusConnector::new(Arc::new(bus.clone()), LinkSettings::default()).unwrap();
    let connector = connector.with_name(LinkName::new("rack-7").unwrap()).with_pinned_key(pin);
    let program = start(connector.clone(), serving.token().await);
    program.until(true).await;
    let forging = tokio::spawn({
        let bus = bus.clone();
        async move {
            // Slow enough to leave the bus to others: what a flood does is the business of the broker.
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            for number in 0.. {
                pace.tick().await;
                let forged = forgeries(&bus.seen.lock().unwrap(), number);
                bus.bus.publish(forged).await.unwrap();
            }
        }
    });
    let mut counts = connector.counts();
    let until_tried = async {
        while counts.forged < 50 || counts.replayed < 50 {
            serving.runs_jobs(5).await;
            counts = connector.counts();
        }
    };
    let tried = tokio::time::timeout(Duration::from_secs(15), until_tried).await;
    assert!(tried.is_ok(), "{:?} {:?}", connector.counts(), program.handle.status());
    forging.abort();
    assert!(program.handle.status().is_connected);
}

/// Passes on what comes, one way.
async fn relay(from: Arc<dyn Connection>, to: Arc<dyn Connection>) {
    while let Ok(Some(frame)) = from.receive().await {
        if to.send(frame).await.is_err() {
            return;
        }
    }
    to.close().await;
}

/// A broker that is not honest makes a link with each side, and hands on what they say: without a pin the agent
/// cannot tell, but the orchestrator can.
#[tokio::test]
async fn an_agent_behind_a_man_in_the_middle_is_refused() {
    let (near, far) = (Arc::new(MemoryBus::new()), Arc::new(MemoryBus::new()));
    let listener = LinkOverBusListener::bind(far.clone(), LinkSettings::default()).await.unwrap();
    let serving = Serving::on(listener, Arc::new(MemoryStore::new()), "one");
    let ear = LinkOverBusListener::bind(near.clone(), LinkSettings::default()).await.unwrap();
    let mouth = LinkOverBusConnector::new(far, LinkSettings::default()).unwrap();
    tokio::spawn(async move {
        while let Ok(agent) = ear.accept().await {
            let orchestrator = mouth.connect().await.unwrap();
            tokio::spawn(relay(agent.clone(), orchestrator.clone()));
            tokio::spawn(relay(orchestrator, agent));
        }
    });
    let connector = LinkOverBusConnector::new(near, LinkSettings::default()).unwrap();
    let program = start(connector, serving.token().await);
    let ended = tokio::time::timeout(Duration::from_secs(20), program.ended).await.expect("it is refused");
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("the proof is wrong"), "{error}");
}

#[tokio::test]
async fn agents_of_an_orchestrator_that_stops_are_back_at_another_within_five_seconds() {
    let (bus, store) = (Arc::new(MemoryBus::new()), Arc::new(MemoryStore::new()));
    let listener = || LinkOverBusListener::bind(bus.clone(), LinkSettings::default());
    let one = Serving::on(listener().await.unwrap(), store.clone(), "one");
    let connector = LinkOverBusConnector::new(bus.clone(), LinkSettings::default()).unwrap();
    let program = start(connector, one.token().await);
    program.until(true).await;
    one.runs_jobs(5).await;
    let two = Serving::on(listener().await.unwrap(), store, "two");
    let began = std::time::Instant::now();
    one.shutdown.cancel();
    one.ended.await.unwrap().unwrap();
    program.until(false).await;
    program.until(true).await;
    two.runs_jobs(5).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!program.ended.is_finished());
}
