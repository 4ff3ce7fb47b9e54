//! Serving agents: one loop that reads and one that writes, after the [`handshake`].

mod handshake;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::engine::Engine;
use super::outbox::Outbox;
use super::registry::LaneNews;
use super::settle;
use crate::agent::state::Liveness;
use crate::clock::Timestamp;
use crate::event::What;
use crate::id::AgentId;
use crate::job::{Outcome, Progress};
use crate::lease::SessionRef;
use crate::protocol::link::AgentLink;
use crate::protocol::{FromAgent, MAX_LOG_PIECE_BYTES, RunEvent, RunReport, ToAgent};
use crate::store::{LogPiece, Report, RunWrite};
use crate::transport::{Connection, Listener};
use crate::{Error, ErrorKind, Result};

/// A refusal or a last message that cannot be sent within this time is not sent.
const FAREWELL_WITHIN: Duration = Duration::from_secs(5);
/// When a token could not be renewed, it is tried again this much later.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The longest name of an operating system, in bytes.
const MAX_OS_BYTES: usize = 256;
/// How many strangers may introduce themselves at once; the others wait to be accepted. Bounds what they can
/// make this process remember before it knows them.
const MAX_STRANGERS: usize = 1024;
/// How often a goodbye is written down before it is left to the lease to run out.
const GOODBYE_TRIES: u32 = 5;

/// Where what agents say goes.
#[derive(Clone)]
pub(crate) struct Inlets {
    pub(crate) reports: mpsc::Sender<settle::Request>,
    pub(crate) renewals: mpsc::Sender<SessionRef>,
}

/// Accepts connections and serves each in a task of its own, until the orchestrator stops or the
/// listener is closed.
pub(crate) async fn accept(engine: Arc<Engine>, listener: Arc<dyn Listener>, inlets: Inlets) {
    let _accepting = Accepting::begin(&engine);
    let room = Arc::new(Semaphore::new(engine.settings.max_connections));
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let mut failures = 0;
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok(stranger) = Arc::clone(&strangers).acquire_owned().await else { return };
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
                    serve(serving, connection, inlets, stranger).await;
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

/// A listener that takes connections; no longer when dropped.
struct Accepting(Arc<Engine>);

impl Accepting {
    fn begin(engine: &Arc<Engine>) -> Self {
        engine.accepting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(engine))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves one connection to its end.
async fn serve(
    engine: Arc<Engine>,
    connection: Arc<dyn Connection>,
    inlets: Inlets,
    stranger: OwnedSemaphorePermit,
) {
    let link = AgentLink::new(connection);
    let welcomed = tokio::select! {
        biased;
        () = engine.stopping.cancelled() => Err(Error::new(ErrorKind::Closed, "session.open", "the orchestrator stops")),
        welcomed = handshake::open(&engine, &link) => welcomed,
    };
    drop(stranger);
    match welcomed {
        Ok(session) => {
            let reason = session.run(&engine, &link, &inlets).await;
            session.end(&engine, reason).await;
        }
        Err(error) => handshake::refuse(&engine, &link, error).await,
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
        let (is_renewal_due, is_token_due) = {
            let mut registry = engine.registry();
            let Some(link) = registry.current(self.session) else { return };
            let was_suspect = link.is_suspect;
            link.heard_at = now;
            let is_due = now.since(link.renewed_at) >= engine.settings.lease_ttl / 3
                || Liveness::of(link.renewed_at, engine.settings.lease_ttl, now) == Liveness::Lost;
            if is_due {
                link.renewed_at = now;
            }
            let is_token_due = link.renew_at.is_some_and(|at| at <= now);
            if was_suspect {
                registry.change(self.session, |link| link.is_suspect = false);
                engine.dispatch.notify_one();
            }
            (is_due, is_token_due)
        };
        if is_token_due {
            self.renew_token(engine, now).await;
        }
        if is_renewal_due {
            // Fails only when the orchestrator is going away.
            let _ = inlets.renewals.send(self.session).await;
        }
    }

    /// Sends the agent a new token. One that may not have one any more is cut off.
    async fn renew_token(&self, engine: &Engine, now: Timestamp) {
        let next = match engine.authenticator.renew(&self.agent, now).await {
            Ok(issued) => issued.map(|issued| {
                self.outbox.order(ToAgent::Token { token: issued.token });
                issued.renew_at
            }),
            Err(error) if error.kind() == ErrorKind::Denied => {
                let message = error.message().to_owned();
                self.outbox.close(Some(ToAgent::Refused { is_final: true, message }));
                None
            }
            Err(error) => {
                tracing::warn!(target: "mamos::session", agent_id = %self.agent, %error, "no new token yet");
                Some(now + RENEW_AGAIN_AFTER)
            }
        };
        if let Some(link) = engine.registry().current(self.session) {
            link.renew_at = next;
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
                if let Some(mut load) = load {
                    load.os.truncate(load.os.floor_char_boundary(MAX_OS_BYTES));
                    let now = engine.now();
                    engine.registry().change(self.session, |link| link.loads.push(now, *load));
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
        let bytes: usize = writes.iter().map(weight).sum();
        let permits = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(1, settle::ROOM_KIB);
        let stopped = || Error::new(ErrorKind::Closed, "session.receive", "the orchestrator has stopped");
        // Waits while the store is slow, and with it the agent: that is the back-pressure.
        let room =
            Arc::clone(&engine.report_room).acquire_many_owned(permits).await.map_err(|_| stopped())?;
        let request = settle::Request {
            room,
            session: self.session,
            agent: self.agent.clone(),
            outbox: Arc::clone(&self.outbox),
            through,
            writes,
        };
        inlets.reports.send(request).await.map_err(|_| stopped())
    }

    async fn detach(&self, engine: &Engine) {
        for failures in 1..=GOODBYE_TRIES {
            match engine.store.detach(self.session, engine.now()).await {
                Ok(verdict) if verdict.is_applied() => {
                    return engine.tell(What::AgentStopped { agent: self.agent.clone() });
                }
                // It is on a newer link already.
                Ok(_) => return,
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
        let link = engine.registry().disconnect(self.session);
        engine.given_up.notify_waiters();
        let agent = self.agent.clone();
        match end {
            End::Bye => {
                // What the agent still held is given back, so late reports are refused, not lost: it
                // says goodbye only after all of them were acknowledged.
                self.detach(engine).await;
                let learned = super::upkeep::learn_lanes(engine, LaneNews::Own).await;
                if let Err(error) = learned {
                    tracing::warn!(target: "mamos::session", %error, "the next sweep looks again");
                }
            }
            End::Cut(mut reason) => {
                reason.truncate(reason.floor_char_boundary(handshake::MAX_REASON_BYTES));
                if let Some(link) = link {
                    // The next sweep can no longer do it. Does it fail, the lease is a little shorter.
                    if link.heard_at > link.renewed_at
                        && !engine.stopping.is_cancelled()
                        && let Err(error) =
                            super::upkeep::renew_from(engine, vec![self.session], link.heard_at).await
                    {
                        tracing::debug!(target: "mamos::session", %error, "a lease was not made up for");
                    }
                    tracing::info!(target: "mamos::session", agent_id = %agent, reason, "an agent's link ended");
                }
                engine.tell(What::AgentDisconnected { agent, session: self.session.id, reason });
            }
        }
    }
}

/// What a report costs in memory until it is on record, in bytes.
fn weight(write: &RunWrite) -> usize {
    /// About what the rest of a report takes.
    const BASE: usize = 128;
    BASE + match &write.report {
        Report::Log(piece) => piece.bytes.len(),
        Report::Progress(progress) => progress.note.len(),
        Report::Settle(Outcome::Succeeded { output }) => output.len(),
        Report::Settle(Outcome::Retry { failure, .. } | Outcome::Bury { failure }) => failure.message.len(),
        Report::Settle(Outcome::Snooze { .. } | Outcome::Cancelled) | Report::Started | Report::Release => 0,
    }
}

/// Ends the link of an agent with a last message, and gives its session, if it has one here.
pub(crate) fn dismiss(engine: &Engine, agent: &AgentId, last: ToAgent) -> Option<SessionRef> {
    let mut registry = engine.registry();
    let session = registry.link_of(agent)?.session;
    registry.disconnect(session)?.outbox.close(Some(last));
    Some(session)
}
