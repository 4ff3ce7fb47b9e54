//! The other end, scripted by a test: a connection in memory and a peer that checks the numbering.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::agent::AgentProfile;
use mamos_core::auth::keys::proof_message;
use mamos_core::auth::{Credentials, Nonce, PublicKey, Secret};
use mamos_core::id::{AgentId, AgentKind, JobKind, SessionId};
use mamos_core::job::{Counters, Outcome};
use mamos_core::lease::{Epoch, RunRef, Verdict};
use mamos_core::protocol::link::AgentLink;
use mamos_core::protocol::{Dispatched, FromAgent, Hello, RunEvent, RunReport, ToAgent, Welcome};
use mamos_core::transport::{Connection, Connector, Frame};
use mamos_core::{Error, ErrorKind, JobId, Result, Timestamp};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

#[derive(Debug)]
struct Pipe {
    out: Mutex<Option<mpsc::Sender<Frame>>>,
    into: Mutex<mpsc::Receiver<Frame>>,
}

fn pipe_pair() -> (Arc<Pipe>, Arc<Pipe>) {
    let (left_out, right_into) = mpsc::channel(8);
    let (right_out, left_into) = mpsc::channel(8);
    let pipe = |out, into| Arc::new(Pipe { out: Mutex::new(Some(out)), into: Mutex::new(into) });
    (pipe(left_out, left_into), pipe(right_out, right_into))
}

#[async_trait]
impl Connection for Pipe {
    async fn send(&self, frame: Frame) -> Result<()> {
        let out = self.out.lock().await.clone();
        let closed = || Error::new(ErrorKind::Closed, "pipe.send", "closed");
        out.ok_or_else(closed)?.send(frame).await.map_err(|_| closed())
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        Ok(self.into.lock().await.recv().await)
    }

    async fn close(&self) {
        self.out.lock().await.take();
    }

    fn is_reliable(&self) -> bool {
        true
    }

    fn peer(&self) -> String {
        "pipe".to_owned()
    }
}

pub(crate) struct PipeConnector {
    arrivals: mpsc::UnboundedSender<Arc<Pipe>>,
    fault: watch::Receiver<Option<ErrorKind>>,
    failures: mpsc::UnboundedSender<Instant>,
}

#[async_trait]
impl Connector for PipeConnector {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        let fault = *self.fault.borrow();
        if let Some(kind) = fault {
            // Nobody counts them after the test.
            let _ = self.failures.send(Instant::now());
            return Err(Error::new(kind, "pipe.connect", "something is in the way"));
        }
        let (ours, theirs) = pipe_pair();
        let gone = |_| Error::new(ErrorKind::Unavailable, "pipe.connect", "nobody listens");
        self.arrivals.send(theirs).map_err(gone)?;
        Ok(ours)
    }

    fn describe(&self) -> String {
        "pipe".to_owned()
    }
}

/// Where agents arrive.
pub(crate) struct Orchestrator {
    arrivals: mpsc::UnboundedReceiver<Arc<Pipe>>,
    /// Whose proofs are right.
    pub(crate) key: Option<PublicKey>,
    challenges: u8,
    fault: watch::Sender<Option<ErrorKind>>,
    failures: mpsc::UnboundedReceiver<Instant>,
}

pub(crate) fn orchestrator() -> (Arc<PipeConnector>, Orchestrator) {
    let (sender, arrivals) = mpsc::unbounded_channel();
    let (failing, failures) = mpsc::unbounded_channel();
    let (fault, shown) = watch::channel(None);
    let connector = PipeConnector { arrivals: sender, fault: shown, failures: failing };
    (Arc::new(connector), Orchestrator { arrivals, key: None, challenges: 0, fault, failures })
}

impl Orchestrator {
    /// From now on connecting fails like this; `None` for not any more.
    pub(crate) fn fail_with(&self, fault: Option<ErrorKind>) {
        self.fault.send_replace(fault);
    }

    /// Waits until connecting has failed so often, and gives when.
    pub(crate) async fn failures(&mut self, count: usize) -> Vec<Instant> {
        let mut times = Vec::new();
        while times.len() < count {
            times.push(self.failures.recv().await.unwrap());
        }
        times
    }

    /// Waits for a link, and says nothing yet.
    pub(crate) async fn arrival(&mut self) -> Peer {
        Peer {
            link: AgentLink::new(self.arrivals.recv().await.unwrap()),
            messages: VecDeque::new(),
            reports: VecDeque::new(),
            next: 1,
            recorded: AtomicU64::new(0),
        }
    }

    /// Waits for a link and its `Hello`, whose proof must be right, and does not answer yet.
    pub(crate) async fn accept(&mut self) -> (Peer, Hello) {
        let mut peer = self.arrival().await;
        self.challenges += 1;
        let nonce = Nonce::from_bytes([self.challenges; 32]);
        peer.say(vec![ToAgent::Challenge { nonce }]).await;
        let FromAgent::Hello(hello) = peer.message().await else { panic!("no hello") };
        let known = self.key.unwrap();
        let (token, proof) = match &hello.credentials {
            Credentials::Registration { token, key, proof } => {
                assert_eq!(*key, known);
                (token, proof)
            }
            Credentials::Agent { token, proof } => (token, proof),
            other => panic!("{other:?}"),
        };
        assert!(known.verifies(&proof_message(&nonce, None, token.expose()), proof), "the proof is wrong");
        (peer, *hello)
    }

    /// Waits for a link, and welcomes the agent.
    pub(crate) async fn welcome(&mut self) -> (Peer, Hello) {
        let (peer, hello) = self.accept().await;
        peer.say(vec![ToAgent::Welcome(Box::new(welcome()))]).await;
        (peer, hello)
    }

    /// The same, when it has its token already.
    pub(crate) async fn welcome_again(&mut self) -> (Peer, Hello) {
        let (peer, hello) = self.accept().await;
        let welcome = Welcome { issued: None, ..welcome() };
        peer.say(vec![ToAgent::Welcome(Box::new(welcome))]).await;
        (peer, hello)
    }
}

pub(crate) struct Peer {
    link: AgentLink,
    messages: VecDeque<FromAgent>,
    reports: VecDeque<RunReport>,
    next: u64,
    recorded: AtomicU64,
}

impl Peer {
    pub(crate) async fn say(&self, messages: Vec<ToAgent>) {
        self.link.send(messages).await.unwrap();
    }

    pub(crate) async fn dispatch(&self, jobs: &[(u64, &'static str)]) {
        self.say(vec![ToAgent::Dispatch(jobs.iter().map(|(n, what)| dispatched(*n, what)).collect())]).await;
    }

    /// The next message; panics when the link is closed.
    pub(crate) async fn message(&mut self) -> FromAgent {
        self.try_message().await.expect("the agent closed the link")
    }

    pub(crate) async fn try_message(&mut self) -> Option<FromAgent> {
        while self.messages.is_empty() {
            self.messages.extend(self.link.receive().await.ok().flatten()?);
            if self.messages.iter().any(|message| matches!(message, FromAgent::Heartbeat { .. })) {
                let through = self.recorded.load(Ordering::SeqCst);
                // As any orchestrator: a heartbeat is answered.
                let _ = self.link.send(vec![ToAgent::Recorded { through, exceptions: Vec::new() }]).await;
            }
        }
        self.messages.pop_front()
    }

    /// The next message that is not a heartbeat.
    pub(crate) async fn word(&mut self) -> FromAgent {
        loop {
            match self.message().await {
                FromAgent::Heartbeat { .. } => {}
                other => return other,
            }
        }
    }

    /// The next report. Checks that numbers have no gaps; other messages are skipped.
    pub(crate) async fn report(&mut self) -> (u64, RunEvent) {
        while self.reports.is_empty() {
            if let FromAgent::Reports { first, reports } = self.message().await {
                assert_eq!(first, self.next, "numbers must have no gaps");
                self.next += reports.len() as u64;
                self.reports.extend(reports);
            }
        }
        let report = self.reports.pop_front().unwrap();
        (report.run.epoch.number(), report.event)
    }

    pub(crate) async fn reports(&mut self, count: usize) -> Vec<(u64, RunEvent)> {
        let mut reports = Vec::new();
        while reports.len() < count {
            reports.push(self.report().await);
        }
        reports
    }

    /// Nothing is reported for a while; `while_` is in virtual time.
    pub(crate) async fn stays_silent(&mut self, while_: Duration) {
        if let Ok(report) = tokio::time::timeout(while_, self.report()).await {
            panic!("unexpected: {report:?}");
        }
    }

    /// Everything that arrived is on record.
    pub(crate) async fn record(&self) {
        self.record_with(Vec::new()).await;
    }

    pub(crate) async fn record_with(&self, exceptions: Vec<(RunRef, Verdict)>) {
        self.recorded.store(self.next - 1, Ordering::SeqCst);
        self.say(vec![ToAgent::Recorded { through: self.next - 1, exceptions }]).await;
    }
}

pub(crate) fn run(n: u64) -> RunRef {
    RunRef { job: JobId::from_key("job"), epoch: Epoch::from_number(n) }
}

pub(crate) fn session() -> SessionId {
    SessionId::from_key("session")
}

pub(crate) fn agent_id() -> AgentId {
    AgentId::from_parts(AgentKind::new("test").unwrap(), Timestamp::EPOCH, 1)
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        version: 1,
        agent: agent_id(),
        issued: Some(Secret::new("issued")),
        session: session(),
        is_resumed: false,
        heartbeat_every: Duration::from_secs(10),
        lease_ttl: Duration::from_secs(30),
    }
}

pub(crate) fn dispatched(n: u64, what: &'static str) -> Dispatched {
    let kind = if what.starts_with("command") { "command:x" } else { "test" };
    Dispatched {
        run: run(n),
        kind: JobKind::new(kind).unwrap(),
        payload: what.as_bytes().into(),
        counters: Counters::default(),
        timeout: None,
        deadline_in: None,
        traceparent: None,
    }
}

pub(crate) fn succeeded(what: &str) -> RunEvent {
    RunEvent::Ended(Outcome::Succeeded { output: what.as_bytes().to_vec().into() })
}

pub(crate) fn profile(slots: u32) -> AgentProfile {
    AgentProfile { slots, ..AgentProfile::new(AgentKind::new("test").unwrap(), "test") }
}
