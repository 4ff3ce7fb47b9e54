//! Serving agents: the handshake, and then one loop that reads and one that writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use super::engine::Engine;
use super::outbox::Outbox;
use super::registry::NewLink;
use super::{dispatch, settle};
use crate::agent::AgentProfile;
use crate::agent::state::Liveness;
use crate::auth::Admitted;
use crate::event::What;
use crate::id::{AgentId, SessionId};
use crate::job::Progress;
use crate::lease::SessionRef;
use crate::protocol::link::AgentLink;
use crate::protocol::{self, FromAgent, Hello, MAX_LOG_PIECE_BYTES, RunEvent, RunReport, ToAgent, Welcome};
use crate::store::{Attach, Attached, LogPiece, Report, RunWrite};
use crate::transport::{Connection, Listener};
use crate::{Error, ErrorKind, Result};

/// A stranger has this long to introduce itself.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// A refusal or a last message that cannot be sent within this time is not sent.
const FAREWELL_WITHIN: Duration = Duration::from_secs(5);
/// How often a goodbye is written down before it is left to the lease to run out.
const GOODBYE_TRIES: u32 = 5;
/// A clock that is off by more than this is worth a warning.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// The most runs that an agent may claim to know: all its slots and more prefetch than is ever sent.
const MAX_KNOWN_RUNS: usize = 200_000;

/// Where what agents say goes.
#[derive(Clone)]
pub(crate) struct Inlets {
    pub(crate) reports: mpsc::Sender<settle::Request>,
    pub(crate) renewals: mpsc::Sender<SessionRef>,
}

/// Accepts connections and serves each in a task of its own, until the orchestrator stops or the
/// listener is closed.
pub(crate) async fn accept(engine: Arc<Engine>, listener: Arc<dyn Listener>, inlets: Inlets) {
    let room = Arc::new(Semaphore::new(engine.settings.max_connections));
    let mut failures = 0;
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            () = engine.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(connection) => {
                failures = 0;
                let (serving, inlets) = (Arc::clone(&engine), inlets.clone());
                engine.spawn(engine.tasks.track_future(async move {
                    serve(serving, connection, inlets).await;
                    drop(place);
                }));
            }
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => {
                failures += 1;
                tracing::warn!(target: "mamos::session", %error, listener = listener.describe(), "a connection failed");
                engine.back_off(failures).await;
            }
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(engine: Arc<Engine>, connection: Arc<dyn Connection>, inlets: Inlets) {
    let link = AgentLink::new(connection);
    let welcomed = tokio::select! {
        biased;
        () = engine.stopping.cancelled() => Err(Error::new(ErrorKind::Closed, "session.open", "the orchestrator stops")),
        welcomed = open(&engine, &link) => welcomed,
    };
    match welcomed {
        Ok(session) => {
            let reason = session.run(&engine, &link, &inlets).await;
            session.end(&engine, reason).await;
        }
        Err(error) => refuse(&engine, &link, error).await,
    }
    link.close().await;
}

/// A served agent.
struct Session {
    session: SessionRef,
    agent: AgentId,
    outbox: Arc<Outbox>,
}

/// Why a link ended.
enum End {
    /// The agent said goodbye.
    Bye,
    /// The link is gone, or was ended from here.
    Cut(String),
}

/// The handshake: who is it, may it work, and what does it hold?
async fn open(engine: &Engine, link: &AgentLink) -> Result<Session> {
    let hello = tokio::time::timeout(HELLO_WITHIN, first_message(link))
        .await
        .map_err(|_| Error::new(ErrorKind::Denied, "session.open", "no hello within 10 s"))??;
    let version = protocol::negotiate(hello.oldest_version, hello.version)?;
    hello.profile.check()?;
    if hello.runs.len() > MAX_KNOWN_RUNS {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            "session.open",
            "it claims to know over 200000 runs",
        ));
    }
    let now = engine.now();
    let off = now.since(hello.now).max(hello.now.since(now));
    let Admitted { agent, issued } =
        engine.authenticator.admit(&hello.credentials, &hello.profile, now).await?;
    if off > CLOCK_TOLERANCE {
        // A warning only: nothing depends on an agent's clock.
        tracing::warn!(target: "mamos::session", agent_id = %agent, ?off, "the clock of an agent is off");
    }
    if matches!(hello.credentials, crate::auth::Credentials::Registration { .. }) {
        engine.tell(What::AgentRegistered { agent: agent.clone() });
    }
    // From here on nothing is sent on an earlier link of this agent: what it does not name in its hello
    // and was claimed for it before, it never got.
    supersede(engine, &agent, hello.session);
    let attached = attach(engine, &agent, &hello).await?;
    let welcome = Welcome {
        version,
        agent: agent.clone(),
        issued,
        session: attached.session.id,
        is_resumed: attached.is_resumed,
        heartbeat_every: engine.settings.heartbeat_every,
        lease_ttl: engine.settings.lease_ttl,
    };
    let is_resumed = attached.is_resumed;
    let session = attached.session;
    let outbox = enter(engine, &agent, hello, attached, welcome).await?;
    engine.tell(What::AgentConnected { agent: agent.clone(), session: session.id, is_resumed });
    tracing::info!(target: "mamos::session", agent_id = %agent, peer = link.peer(), is_resumed, "an agent connected");
    Ok(Session { session, agent, outbox })
}

async fn first_message(link: &AgentLink) -> Result<Hello> {
    loop {
        let messages = link.receive().await?.ok_or_else(|| {
            Error::new(ErrorKind::Closed, "session.open", "it closed the connection without a hello")
        })?;
        let mut messages = messages.into_iter();
        match (messages.next(), messages.next()) {
            (None, _) => {}
            (Some(FromAgent::Hello(hello)), None) => return Ok(*hello),
            _ => {
                let message = "a stranger may send one hello and nothing else";
                return Err(Error::new(ErrorKind::Denied, "session.open", message));
            }
        }
    }
}

/// Ends earlier links of the agent. One of another session belongs to another process: that one must
/// not come back.
fn supersede(engine: &Engine, agent: &AgentId, resumes: Option<SessionId>) {
    let mut registry = engine.registry();
    let earlier: Vec<SessionRef> =
        registry.links().filter(|link| link.agent == *agent).map(|link| link.session).collect();
    for session in earlier {
        if let Some(link) = registry.disconnect(session) {
            let is_same_process = resumes == Some(session.id);
            link.outbox.close((!is_same_process).then_some(ToAgent::Superseded));
        }
    }
}

async fn attach(engine: &Engine, agent: &AgentId, hello: &Hello) -> Result<Attached> {
    let now = engine.now();
    let request = Attach {
        agent: agent.clone(),
        profile: hello.profile.clone(),
        resume: hello.session,
        fresh: SessionId::from_parts(now, engine.entropy().id()),
        known: hello.runs.clone(),
        ttl: engine.settings.lease_ttl,
        orchestrator: engine.settings.name.clone(),
    };
    engine.store.attach(request, now).await
}

/// Puts the agent into the registry, with what it holds.
async fn enter(
    engine: &Engine,
    agent: &AgentId,
    hello: Hello,
    attached: Attached,
    welcome: Welcome,
) -> Result<Arc<Outbox>> {
    let record = engine.store.agent(agent).await?;
    let record =
        record.ok_or_else(|| Error::new(ErrorKind::NotFound, "session.open", "the agent is gone"))?;
    let now = engine.now();
    let outbox = Arc::new(Outbox::default());
    outbox.greet(ToAgent::Welcome(Box::new(welcome)));
    if !attached.unknown.is_empty() {
        outbox.order(ToAgent::Kill { runs: attached.unknown });
    }
    if record.is_draining {
        outbox.order(ToAgent::Drain);
    }
    for held in &attached.held {
        if let Some(cancel) = &held.cancel {
            outbox.cancel(held.claimed.run, cancel.grace);
        }
    }
    let link = NewLink {
        session: attached.session,
        agent: agent.clone(),
        outbox: Arc::clone(&outbox),
        labels: record.effective_labels(),
        prefetch: prefetch(engine, &hello.profile),
        profile: hello.profile,
        is_draining: record.is_draining,
        held: attached
            .held
            .iter()
            .map(|held| (held.claimed.run, held.claimed.lane, held.is_started))
            .collect(),
        now,
    };
    let mut registry = engine.registry();
    let replaced = registry.connect(link);
    for (_, lane, _) in &attached.returned {
        registry.lane_ready_by_id(*lane);
    }
    drop(registry);
    for link in replaced {
        link.outbox.close(None);
    }
    for (run, _, state) in attached.returned {
        settle::taken_away(engine, run, state, now);
    }
    engine.dispatch.notify_one();
    Ok(outbox)
}

/// A small agent gets a small prefetch: no more than it has slots.
fn prefetch(engine: &Engine, profile: &AgentProfile) -> u32 {
    engine.settings.prefetch.min(profile.slots)
}

async fn refuse(engine: &Engine, link: &AgentLink, error: Error) {
    let (peer, reason) = (link.peer(), error.to_string());
    if error.kind() == ErrorKind::Closed {
        return;
    }
    tracing::warn!(target: "mamos::session", peer, reason, "a peer was refused");
    let is_final = !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Closed);
    let refused = ToAgent::Refused { is_final, message: error.message().to_owned() };
    // Whoever does not read does not learn why.
    let _ = tokio::time::timeout(FAREWELL_WITHIN, link.send(vec![refused])).await;
    engine.tell(What::AgentRefused { peer, reason });
}

impl Session {
    /// Reads and writes until the link ends.
    async fn run(&self, engine: &Engine, link: &AgentLink, inlets: &Inlets) -> End {
        tokio::select! {
            biased;
            () = engine.stopping.cancelled() => End::Cut("the orchestrator stops".to_owned()),
            reason = self.write(link) => End::Cut(reason),
            () = self.overdue_farewell() => End::Cut("it was ended from here, and read nothing any more".to_owned()),
            end = self.read(engine, link, inlets) => end,
        }
    }

    /// An agent that does not read its last message is not waited for.
    async fn overdue_farewell(&self) {
        self.outbox.closed().await;
        tokio::time::sleep(FAREWELL_WITHIN).await;
    }

    async fn write(&self, link: &AgentLink) -> String {
        loop {
            let batch = self.outbox.next().await;
            for frame in batch.frames {
                if let Err(error) = link.send(frame).await {
                    return error.to_string();
                }
            }
            if batch.is_last {
                return "it was ended from here".to_owned();
            }
        }
    }

    async fn read(&self, engine: &Engine, link: &AgentLink, inlets: &Inlets) -> End {
        let mut next_report = 1;
        loop {
            let messages = match link.receive().await {
                Ok(Some(messages)) => messages,
                Ok(None) => return End::Cut("it closed the connection".to_owned()),
                Err(error) => return End::Cut(error.to_string()),
            };
            self.heard(engine, inlets).await;
            for message in messages {
                match self.handle(engine, inlets, message, &mut next_report).await {
                    Ok(false) => {}
                    Ok(true) => return End::Bye,
                    Err(error) => {
                        tracing::warn!(target: "mamos::session", agent_id = %self.agent, %error, "cut off");
                        return End::Cut(error.to_string());
                    }
                }
            }
        }
    }

    /// Any message counts as a heartbeat. The lease is renewed at most every third of its length.
    async fn heard(&self, engine: &Engine, inlets: &Inlets) {
        let now = engine.now();
        let is_renewal_due = {
            let mut registry = engine.registry();
            let Some(link) = registry.current(self.session) else { return };
            let was_suspect = link.is_suspect;
            link.heard_at = now;
            let is_due = now.since(link.renewed_at) >= engine.settings.lease_ttl / 3
                || Liveness::of(link.renewed_at, engine.settings.lease_ttl, now) == Liveness::Lost;
            if is_due {
                link.renewed_at = now;
            }
            if was_suspect {
                registry.change(self.session, |link| link.is_suspect = false);
                engine.dispatch.notify_one();
            }
            is_due
        };
        if is_renewal_due {
            // Fails only when the orchestrator is going away.
            let _ = inlets.renewals.send(self.session).await;
        }
    }

    /// Does what one message asks. True if it was the last.
    async fn handle(
        &self,
        engine: &Engine,
        inlets: &Inlets,
        message: FromAgent,
        next_report: &mut u64,
    ) -> Result<bool> {
        match message {
            FromAgent::Hello(_) => {
                Err(Error::new(ErrorKind::Corrupt, "session.receive", "a second hello on one link"))
            }
            FromAgent::Reports { first, reports } => {
                if first != *next_report {
                    let message = format!("reports begin at {first} where {next_report} was next");
                    return Err(Error::new(ErrorKind::Corrupt, "session.receive", message));
                }
                *next_report += reports.len() as u64;
                self.report(engine, inlets, reports, *next_report - 1).await?;
                Ok(false)
            }
            FromAgent::Slots { total } => {
                let total = total.min(crate::agent::MAX_SLOTS);
                engine.registry().change(self.session, |link| link.slots = total);
                engine.dispatch.notify_one();
                Ok(false)
            }
            FromAgent::Heartbeat { load } => {
                self.outbox.echo();
                if let Some(load) = load {
                    engine.registry().change(self.session, |link| link.load = Some(load));
                }
                Ok(false)
            }
            FromAgent::Bye => Ok(true),
        }
    }

    async fn report(
        &self,
        engine: &Engine,
        inlets: &Inlets,
        reports: Vec<RunReport>,
        through: u64,
    ) -> Result<()> {
        let settings = &engine.settings;
        let mut writes = Vec::with_capacity(reports.len());
        for RunReport { run, event } in reports {
            let report = match event {
                RunEvent::Started => Report::Started,
                RunEvent::Progress(Progress { percent, note }) => {
                    Report::Progress(Progress::new(percent, note))
                }
                RunEvent::Log { offset, stream, bytes } => {
                    if bytes.len() > MAX_LOG_PIECE_BYTES {
                        let message = "a piece of a log is over 64 KiB";
                        return Err(Error::new(ErrorKind::LimitExceeded, "session.receive", message));
                    }
                    if offset.saturating_add(bytes.len() as u64) > settings.max_log_bytes {
                        continue;
                    }
                    Report::Log(LogPiece { offset, stream, bytes })
                }
                RunEvent::Ended(outcome) => {
                    Report::Settle(settle::bounded(outcome, settings.max_payload_bytes))
                }
                RunEvent::Released => Report::Release,
            };
            writes.push(RunWrite { session: self.session.id, run, report });
        }
        let request = settle::Request {
            session: self.session,
            agent: self.agent.clone(),
            outbox: Arc::clone(&self.outbox),
            through,
            writes,
        };
        // Waits while the store is slow, and with it the agent: that is the back-pressure.
        inlets
            .reports
            .send(request)
            .await
            .map_err(|_| Error::new(ErrorKind::Closed, "session.receive", "the orchestrator has stopped"))
    }

    async fn detach(&self, engine: &Engine) {
        for failures in 1..=GOODBYE_TRIES {
            match engine.store.detach(self.session, engine.now()).await {
                Ok(_) => return engine.tell(What::AgentStopped { agent: self.agent.clone() }),
                Err(error) if error.is_retryable() && !engine.stopping.is_cancelled() => {
                    tracing::warn!(target: "mamos::session", %error, failures, "a goodbye is not on record yet");
                    engine.back_off(failures).await;
                }
                Err(error) => {
                    tracing::warn!(target: "mamos::session", %error, "a goodbye is not on record; its lease runs out");
                    return;
                }
            }
        }
    }

    /// The link is gone. The session goes on until it expires, unless the agent said goodbye.
    async fn end(&self, engine: &Engine, end: End) {
        let was_current = engine.registry().disconnect(self.session).is_some();
        let agent = self.agent.clone();
        match end {
            End::Bye => {
                // What the agent still held is given back, so late reports are refused, not lost: it
                // says goodbye only after all of them were acknowledged.
                self.detach(engine).await;
                let learned = super::upkeep::learn_lanes(engine).await;
                if let Err(error) = learned {
                    tracing::warn!(target: "mamos::session", %error, "the next sweep looks again");
                }
            }
            End::Cut(reason) => {
                if was_current {
                    tracing::info!(target: "mamos::session", agent_id = %agent, reason, "an agent's link ended");
                }
                engine.tell(What::AgentDisconnected { agent, session: self.session.id, reason });
            }
        }
    }
}

/// Ends a link, and tells the agent why if there is something to tell.
pub(crate) fn close(engine: &Engine, run_of: &AgentId, last: Option<ToAgent>) {
    let session = engine.registry().links().find(|link| link.agent == *run_of).map(|link| link.session);
    if let Some(session) = session {
        match last {
            Some(last) => {
                if let Some(link) = engine.registry().disconnect(session) {
                    link.outbox.close(Some(last));
                }
            }
            None => dispatch::cut(engine, session),
        }
    }
}
