//! The handshake: who an agent is, whether it may work, and what it holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::agents;
use super::super::engine::Engine;
use super::super::outbox::Outbox;
use super::super::registry::{Held, NewLink};
use super::super::settle;
use super::{FAREWELL_WITHIN, Session};
use crate::agent::state::AgentState;
use crate::agent::{AgentProfile, AgentRecord};
use crate::audit::AuditEntry;
use crate::auth::{Admission, Admitted, Challenge};
use crate::clock::Timestamp;
use crate::event::What;
use crate::id::{AgentId, SessionId};
use crate::lease::{RunRef, SessionRef};
use crate::protocol::link::AgentLink;
use crate::protocol::{self, FromAgent, Hello, ToAgent, Welcome};
use crate::store::{Attach, Attached, HeldJob};
use crate::{Error, ErrorKind, Result};

/// The longest reason of a refusal or of the end of a link, in bytes.
pub(super) const MAX_REASON_BYTES: usize = 512;
/// A stranger has this long to introduce itself.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// A clock that is off by more than this is worth a warning.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// The most runs that an agent may claim to know: all its slots and more prefetch than is ever sent.
const MAX_KNOWN_RUNS: usize = 200_000;

/// The handshake: who is it, may it work, and what does it hold?
pub(super) async fn open(engine: &Engine, link: &AgentLink) -> Result<Session> {
    let challenge = Challenge { nonce: engine.nonce(), binding: link.binding(), sent_at: engine.now() };
    let introduced = async {
        link.send(vec![ToAgent::Challenge { nonce: challenge.nonce }]).await?;
        first_message(link).await
    };
    let hello = tokio::time::timeout(HELLO_WITHIN, introduced)
        .await
        .map_err(|_| Error::new(ErrorKind::Unavailable, "session.open", "no hello within 10 s"))??;
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
    let admitted = admit(engine, &hello, &challenge, now).await?;
    let agent = admitted.agent;
    if off > CLOCK_TOLERANCE {
        // A warning only: nothing depends on an agent's clock.
        tracing::warn!(target: "mamos::session", agent_id = %agent, ?off, "the clock of an agent is off");
    }
    if admitted.is_new {
        engine.tell(What::AgentRegistered { agent: agent.clone() });
        let mut entry = AuditEntry::done(format!("agent:{agent}"), "agent.register", agent.to_string());
        entry.peer = link.peer();
        record(engine, entry, now).await;
    }
    // From here on nothing is sent on an earlier link of this agent: what it does not name in its hello
    // and was claimed for it before, it never got.
    let was_here = supersede(engine, &agent, &hello);
    let attached = attach(engine, &agent, &hello).await.map_err(undecided)?;
    if !was_here && (attached.is_resumed || !attached.superseded.is_empty()) {
        // Its link may hang half open at another orchestrator.
        let moved = attached.is_resumed.then_some(attached.session.id);
        engine.neighbours.sessions(attached.superseded.iter().copied().chain(moved).collect());
    }
    let welcome = Welcome {
        version,
        agent: agent.clone(),
        issued: admitted.issued,
        session: attached.session.id,
        is_resumed: attached.is_resumed,
        heartbeat_every: engine.settings.heartbeat_every,
        lease_ttl: engine.settings.lease_ttl,
    };
    let is_resumed = attached.is_resumed;
    let session = attached.session;
    let outbox = enter(engine, &agent, hello, attached, welcome, admitted.renew_at).await?;
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

async fn admit(engine: &Engine, hello: &Hello, challenge: &Challenge, now: Timestamp) -> Result<Admitted> {
    match engine.authenticator.admit(hello, challenge, now).await.map_err(undecided)? {
        Admission::Admitted(admitted) => match standing(engine, &admitted.agent, hello, challenge) {
            Standing::Next => Ok(admitted),
            Standing::Late => {
                let message = "a later hello of this agent has come";
                Err(Error::new(ErrorKind::Unavailable, "session.open", message))
            }
            Standing::Copied => Err(lock_out(engine, &admitted.agent, now).await),
        },
        Admission::Copied(agent) => Err(lock_out(engine, &agent, now).await),
    }
}

/// How a hello stands to the link that its agent has.
enum Standing {
    /// It is the next one.
    Next,
    /// It was sent before, and took its time.
    Late,
    /// A program that counts its hellos cannot have sent it: another one has the same life.
    Copied,
}

fn standing(engine: &Engine, agent: &AgentId, hello: &Hello, challenge: &Challenge) -> Standing {
    let registry = engine.registry();
    match registry.link_of(agent) {
        Some(link) if link.instance == hello.instance && link.hello_number >= hello.number => {
            if challenge.sent_at > link.entered_at { Standing::Copied } else { Standing::Late }
        }
        _ => Standing::Next,
    }
}

/// An identity was copied, and it cannot be told which one is the copy: neither may go on.
async fn lock_out(engine: &Engine, agent: &AgentId, now: Timestamp) -> Error {
    let reason = "two programs showed its identity: it was copied";
    engine.tell(What::IdentityCopied { agent: agent.clone() });
    if let Err(error) = agents::revoke(engine, agent, reason).await {
        return undecided(error);
    }
    let entry = AuditEntry {
        detail: reason.to_owned(),
        ..AuditEntry::done("orchestrator", "agent.revoke", agent.to_string())
    };
    record(engine, entry, now).await;
    let message = format!("{reason}; register a new agent with a key of its own");
    Error::new(ErrorKind::Denied, "session.open", message)
}

/// Writes to the audit log what the engine decided itself.
async fn record(engine: &Engine, entry: AuditEntry, now: Timestamp) {
    let action = entry.action.clone();
    if let Err(error) = engine.audit.append(vec![entry], now).await {
        tracing::error!(target: "mamos::audit", %error, action, "what was decided is not on record");
    }
}

/// Ends an earlier link of the agent. One of another session belongs to another process: that one must
/// not come back. Gives whether there was one.
fn supersede(engine: &Engine, agent: &AgentId, hello: &Hello) -> bool {
    let mut registry = engine.registry();
    let Some(session) = registry.link_of(agent).map(|link| link.session) else { return false };
    if let Some(link) = registry.disconnect(session) {
        let is_same_process = hello.session == Some(session.id);
        link.outbox.close((!is_same_process).then_some(ToAgent::Superseded));
    }
    true
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
    renew_at: Option<Timestamp>,
) -> Result<Arc<Outbox>> {
    let record = agent_record(engine, agent).await?;
    let now = engine.now();
    let outbox = Arc::new(Outbox::default());
    outbox.greet(ToAgent::Welcome(Box::new(welcome)));
    if !attached.unknown.is_empty() {
        outbox.order(ToAgent::Kill { runs: attached.unknown });
    }
    let link = NewLink {
        session: attached.session,
        agent: agent.clone(),
        outbox: Arc::clone(&outbox),
        labels: record.effective_labels(),
        prefetch: prefetch(engine, &hello.profile),
        profile: hello.profile,
        is_draining: record.is_draining,
        held: attached.held.iter().map(held).collect(),
        instance: hello.instance,
        hello_number: hello.number,
        renew_at,
        now,
    };
    {
        let mut registry = engine.registry();
        if registry.link(attached.session.id).is_some_and(|other| other.session.link > attached.session.link)
        {
            return Err(Error::new(ErrorKind::Unavailable, "session.open", "a later link took over"));
        }
        for link in registry.connect(link) {
            link.outbox.close(None);
        }
        for (_, lane, _) in &attached.returned {
            registry.lane_ready_by_id(*lane);
        }
    }
    for (run, _, state) in attached.returned {
        settle::taken_away(engine, run, state, now);
    }
    let caught_up = catch_up(engine, agent, attached.session, &attached.held, &outbox).await;
    if let Err(error) = caught_up {
        engine.registry().disconnect(attached.session);
        return Err(error);
    }
    engine.dispatch.notify_one();
    Ok(outbox)
}

/// Does what was decided about the agent while it was in no registry: between leaving its earlier link
/// and entering with this one, nobody could reach it.
async fn catch_up(
    engine: &Engine,
    agent: &AgentId,
    session: SessionRef,
    attached: &[HeldJob],
    outbox: &Outbox,
) -> Result<()> {
    let record = agent_record(engine, agent).await?;
    let dismissed = if record.state == AgentState::Decommissioned {
        Some(agents::decommissioned_message())
    } else {
        record.revocation.as_ref().map(agents::revoked_message)
    };
    if let Some(message) = dismissed {
        engine.store.detach(session, engine.now()).await.map_err(undecided)?;
        return Err(Error::new(ErrorKind::Denied, "session.open", message));
    }
    {
        let mut registry = engine.registry();
        if registry.link(session.id).is_some_and(|link| link.labels != record.effective_labels()) {
            registry.relabel(agent, record.effective_labels());
        }
        registry.change(session, |link| link.is_draining = record.is_draining);
    }
    if record.is_draining {
        outbox.order(ToAgent::Drain);
    }
    if attached.is_empty() {
        return Ok(());
    }
    let now_held = engine.store.held(session.id).await.map_err(undecided)?;
    for job in &now_held {
        if let Some(cancel) = &job.cancel {
            outbox.cancel(job.claimed.run, cancel.grace);
        }
    }
    let still: BTreeSet<RunRef> = now_held.iter().map(|job| job.claimed.run).collect();
    let taken = attached.iter().map(|job| job.claimed.run).filter(|run| !still.contains(run));
    let taken: Vec<RunRef> = taken.collect();
    if !taken.is_empty() {
        let mut registry = engine.registry();
        for run in &taken {
            registry.ended(session.id, *run);
        }
        drop(registry);
        outbox.order(ToAgent::Kill { runs: taken });
    }
    Ok(())
}

fn held(job: &HeldJob) -> (RunRef, Held) {
    let claimed = &job.claimed;
    let bytes = u32::try_from(claimed.payload.len()).unwrap_or(u32::MAX);
    (
        claimed.run,
        Held {
            epoch: claimed.run.epoch,
            lane: claimed.lane,
            is_started: job.is_started,
            started_at: None,
            bytes,
        },
    )
}

async fn agent_record(engine: &Engine, agent: &AgentId) -> Result<AgentRecord> {
    let record = engine.store.agent(agent).await.map_err(undecided)?;
    record
        .ok_or_else(|| Error::new(ErrorKind::Denied, "session.open", "the agent is gone; register it again"))
}

/// What the peer did is told to the peer. A fault on this side is not its business and no refusal for
/// good: it may try again.
fn undecided(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Denied | ErrorKind::Invalid | ErrorKind::LimitExceeded | ErrorKind::Unsupported => error,
        ErrorKind::Unavailable | ErrorKind::Closed => {
            tracing::warn!(target: "mamos::session", %error, "an agent cannot be admitted now");
            later()
        }
        _ => {
            tracing::error!(target: "mamos::session", %error, "an agent cannot be admitted");
            later()
        }
    }
}

fn later() -> Error {
    let message = "the orchestrator cannot decide now; try again later";
    Error::new(ErrorKind::Unavailable, "session.open", message)
}

/// A small agent gets a small prefetch: no more than it has slots.
fn prefetch(engine: &Engine, profile: &AgentProfile) -> u32 {
    engine.settings.prefetch.min(profile.slots)
}

pub(super) async fn refuse(engine: &Engine, link: &AgentLink, error: Error) {
    let (peer, mut reason) = (link.peer(), error.to_string());
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    if error.kind() == ErrorKind::Closed {
        return;
    }
    tracing::warn!(target: "mamos::session", peer, reason, "a peer was refused");
    // What is the peer's own fault: neither a doubt here nor a slow road.
    if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Closed) {
        link.note_refused();
    }
    let is_final = !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Closed);
    let refused = ToAgent::Refused { is_final, message: error.message().to_owned() };
    // Whoever does not read does not learn why.
    let _ = tokio::time::timeout(FAREWELL_WITHIN, link.send(vec![refused])).await;
    // Strangers cannot push everything else out of the events that are kept.
    if engine.refusals.admits(engine.now()) {
        engine.tell(What::AgentRefused { peer, reason });
    }
}
