//! A scene for tests of the engine: an orchestrator over the memory store, and an agent that does just
//! what the test says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::agent::AgentProfile;
use mamos_core::auth::{Credentials, KeyPair, Nonce, Secret};
use mamos_core::clock::{Clock, SimulatedClock};
use mamos_core::id::InstanceId;
use mamos_core::job::Outcome;
use mamos_core::job::labels::Labels;
use mamos_core::lease::RunRef;
use mamos_core::orchestrator::{Builder, TokenScope};
use mamos_core::protocol::link::OrchestratorLink;
use mamos_core::protocol::{Dispatched, FromAgent, Hello, RunEvent, RunReport, ToAgent, VERSION, Welcome};
use mamos_core::store::Store;
use mamos_core::transport::Connector;
use mamos_core::{AgentKind, Job, Orchestrator, SessionId, Timestamp};
use mamos_store::MemoryStore;
use mamos_transport::memory::{MemoryConnector, pair};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
pub(crate) const TTL: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
pub(crate) struct Double {
    pub(crate) number: u32,
}

impl Job for Double {
    const KIND: &'static str = "math.double";
    type Output = u32;
}

/// An orchestrator that runs.
pub(crate) struct Scene {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) connector: MemoryConnector,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<SimulatedClock>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<mamos_core::Result<()>>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()))
    }

    pub(crate) fn over(store: Arc<dyn Store>) -> Self {
        Self::with(store, Arc::new(SimulatedClock::starting_at(START)), |builder| builder)
    }

    pub(crate) fn with(
        store: Arc<dyn Store>,
        clock: Arc<SimulatedClock>,
        settings: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let (listener, connector) = pair();
        let builder = Orchestrator::builder(Arc::clone(&store))
            .listener(listener)
            .clock(Arc::clone(&clock) as Arc<dyn Clock>)
            .lease_ttl(TTL)
            .heartbeat_every(TTL / 3)
            .seed(7);
        let orchestrator = settings(builder).build().unwrap();
        let (stop, stopped) = oneshot::channel();
        let runs = orchestrator.clone();
        let running = tokio::spawn(async move {
            runs.run(async {
                let _ = stopped.await;
            })
            .await
        });
        Self { orchestrator, connector, store, clock, stop: Some(stop), running }
    }

    /// Stops the orchestrator in order.
    pub(crate) async fn stop(mut self) -> (Arc<dyn Store>, Arc<SimulatedClock>) {
        self.stop.take().unwrap().send(()).unwrap();
        self.running.await.unwrap().unwrap();
        (self.store, self.clock)
    }

    /// Ends the orchestrator where it stands.
    pub(crate) async fn kill(self) {
        self.running.abort();
        // The abort is how it ended.
        let _ = self.running.await;
    }

    /// Stops the orchestrator in order, and starts another on the same store.
    pub(crate) async fn restart(self) -> Self {
        let (store, clock) = self.stop().await;
        Self::with(store, clock, |builder| builder)
    }

    /// Papers of a new agent. The same name gives the same agent.
    pub(crate) async fn papers(&self, name: &str) -> Papers {
        let (_, token) = self.orchestrator.create_token(TokenScope::once(TTL)).await.unwrap();
        Papers::new(name, token)
    }

    /// A new agent with slots, connected.
    pub(crate) async fn agent(&self, name: &str, slots: u32) -> TestAgent {
        self.agent_with(name, |profile| profile.slots = slots).await
    }

    pub(crate) async fn agent_with(&self, name: &str, change: impl FnOnce(&mut AgentProfile)) -> TestAgent {
        let mut hello = hello(self.papers(name).await);
        change(&mut hello.profile);
        TestAgent::connect(&self.connector, hello).await
    }
}

/// What an agent proves itself with.
#[derive(Debug, Clone)]
pub(crate) struct Papers {
    pub(crate) pair: Arc<KeyPair>,
    pub(crate) token: Secret,
    pub(crate) is_registered: bool,
    pub(crate) instance: InstanceId,
    pub(crate) previous: Option<InstanceId>,
    pub(crate) number: u64,
}

impl Papers {
    /// Those of an agent that wants to register. The same name gives the same key and life.
    pub(crate) fn new(name: &str, token: Secret) -> Self {
        Self {
            pair: Arc::new(KeyPair::from_seed(Secret::new(name).hash()).unwrap()),
            token,
            is_registered: false,
            instance: InstanceId::from_key(name),
            previous: None,
            number: 1,
        }
    }

    /// Those of the next life of its program.
    pub(crate) fn next_life(mut self, name: &str) -> Self {
        self.previous = Some(self.instance);
        self.instance = InstanceId::from_key(name);
        self.number = 1;
        self
    }

    pub(crate) fn credentials(&self, nonce: &Nonce) -> Credentials {
        let (token, proof) = (self.token.clone(), self.pair.prove(nonce, self.token.expose()));
        if self.is_registered {
            Credentials::Agent { token, proof }
        } else {
            Credentials::Registration { token, key: self.pair.public_key(), proof }
        }
    }
}

/// A hello that waits for the nonce that it must sign.
#[derive(Debug, Clone)]
pub(crate) struct Knock {
    pub(crate) papers: Papers,
    hello: Hello,
}

impl std::ops::Deref for Knock {
    type Target = Hello;

    fn deref(&self) -> &Hello {
        &self.hello
    }
}

impl std::ops::DerefMut for Knock {
    fn deref_mut(&mut self) -> &mut Hello {
        &mut self.hello
    }
}

impl Knock {
    /// Waits for the nonce, and says hello.
    pub(crate) async fn on(&self, link: &OrchestratorLink) {
        let nonce = challenge(link).await;
        self.say(link, self.papers.credentials(&nonce)).await;
    }

    /// Says hello with other credentials.
    pub(crate) async fn say(&self, link: &OrchestratorLink, credentials: Credentials) {
        let hello = Hello { credentials, ..self.hello.clone() };
        link.send(vec![FromAgent::Hello(Box::new(hello))]).await.unwrap();
    }
}

/// The nonce of a new connection.
pub(crate) async fn challenge(link: &OrchestratorLink) -> Nonce {
    let first = link.receive().await.unwrap().unwrap();
    let [ToAgent::Challenge { nonce }] = first[..] else { panic!("expected a challenge, got {first:?}") };
    nonce
}

pub(crate) fn hello(papers: Papers) -> Knock {
    let mut profile = AgentProfile::new(AgentKind::new("test").unwrap(), "scripted");
    profile.kinds = vec![Double::KIND.parse().unwrap()];
    profile.labels = Labels::new([("zone", "eu")]).unwrap();
    let hello = Hello {
        oldest_version: 1,
        version: VERSION,
        credentials: papers.credentials(&Nonce::from_bytes([0; 32])),
        profile,
        instance: papers.instance,
        previous: papers.previous,
        number: papers.number,
        session: None,
        runs: vec![],
        now: START,
    };
    Knock { papers, hello }
}

/// An agent that does just what the test says.
#[derive(Debug)]
pub(crate) struct TestAgent {
    pub(crate) link: OrchestratorLink,
    pub(crate) welcome: Welcome,
    pub(crate) profile: AgentProfile,
    pub(crate) papers: Papers,
    reported: u64,
    waiting: Vec<ToAgent>,
}

impl TestAgent {
    pub(crate) async fn connect(connector: &MemoryConnector, knock: Knock) -> Self {
        Self::try_connect(connector, knock).await.unwrap_or_else(|refused| panic!("refused: {refused}"))
    }

    pub(crate) async fn try_connect(connector: &MemoryConnector, knock: Knock) -> Result<Self, String> {
        let link = OrchestratorLink::new(connector.connect().await.unwrap());
        knock.on(&link).await;
        let (profile, mut papers) = (knock.hello.profile, knock.papers);
        let mut waiting = link.receive().await.unwrap().ok_or("closed")?;
        match waiting.remove(0) {
            ToAgent::Welcome(welcome) => {
                if let Some(token) = welcome.issued.clone() {
                    papers.token = token;
                    papers.is_registered = true;
                }
                papers.number += 1;
                Ok(Self { link, welcome: *welcome, profile, papers, reported: 0, waiting })
            }
            ToAgent::Refused { message, .. } => Err(message),
            other => panic!("expected a welcome, got {other:?}"),
        }
    }

    /// Cuts the link and comes back with what it knows.
    pub(crate) async fn reconnect(
        self,
        connector: &MemoryConnector,
        runs: Vec<RunRef>,
        keeps_session: bool,
    ) -> Self {
        self.link.close().await;
        let mut again = hello(self.papers.clone());
        again.profile = self.profile;
        again.runs = runs;
        again.session = keeps_session.then_some(self.welcome.session);
        Self::connect(connector, again).await
    }

    pub(crate) fn session(&self) -> SessionId {
        self.welcome.session
    }

    /// The next message, or `None` at the end of the link.
    pub(crate) async fn next(&mut self) -> Option<ToAgent> {
        while self.waiting.is_empty() {
            self.waiting = self.link.receive().await.ok()??;
        }
        Some(self.waiting.remove(0))
    }

    /// The next message that fits, skipping others.
    pub(crate) async fn expect<T>(&mut self, mut fits: impl FnMut(ToAgent) -> Option<T>) -> T {
        loop {
            let message = self.next().await.expect("the link ended");
            if let Some(found) = fits(message) {
                return found;
            }
        }
    }

    /// Waits for so many dispatched jobs.
    pub(crate) async fn jobs(&mut self, count: usize) -> Vec<Dispatched> {
        let mut jobs = Vec::new();
        while jobs.len() < count {
            jobs.extend(
                self.expect(|message| match message {
                    ToAgent::Dispatch(jobs) => Some(jobs),
                    _ => None,
                })
                .await,
            );
        }
        assert_eq!(jobs.len(), count, "more than expected");
        jobs
    }

    /// Is there nothing to read once everything has come to rest?
    pub(crate) async fn hears_nothing(&mut self) -> bool {
        self.waiting.is_empty()
            && tokio::time::timeout(Duration::from_millis(500), self.next()).await.is_err()
    }

    pub(crate) async fn report(&mut self, reports: Vec<(RunRef, RunEvent)>) {
        let first = self.reported + 1;
        self.reported += reports.len() as u64;
        let reports = reports.into_iter().map(|(run, event)| RunReport { run, event }).collect();
        self.link.send(vec![FromAgent::Reports { first, reports }]).await.unwrap();
    }

    pub(crate) async fn succeed(&mut self, run: RunRef, output: &'static str) {
        let outcome = Outcome::Succeeded { output: Bytes::from_static(output.as_bytes()) };
        self.report(vec![(run, RunEvent::Ended(outcome))]).await;
    }

    /// Waits until every report is acknowledged, and gives what was not simply applied.
    pub(crate) async fn recorded(&mut self) -> Vec<(RunRef, mamos_core::lease::Verdict)> {
        let reported = self.reported;
        let mut all = Vec::new();
        loop {
            let (through, exceptions) = self
                .expect(|message| match message {
                    ToAgent::Recorded { through, exceptions } => Some((through, exceptions)),
                    _ => None,
                })
                .await;
            all.extend(exceptions);
            if through == reported {
                return all;
            }
        }
    }
}
