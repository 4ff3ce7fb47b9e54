//! The loop around the ledger: waits for something to happen, tells the ledger, carries out the effects,
//! sends what there is to say.

mod attempts;
mod link;
mod phase;
mod stop;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use mamos_core::agent::HostLoad;
use mamos_core::auth::Secret;
use mamos_core::lease::RunRef;
use mamos_core::protocol::{FromAgent, ToAgent};
use mamos_core::{AgentId, Error, ErrorKind, Result, SessionId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::attempts::Attempts;
use self::phase::LinkPhase;
use self::stop::Stop;
use super::backoff::Backoff;
use super::greeting::{Failed, Opened};
use super::keeper::Keeper;
use super::ledger::{Effect, Ledger, Rules};
use super::mailbox::Mailbox;
use super::metronome::Metronome;
use super::writer::Writer;
use super::{AgentStatus, Setup, StopReason, Stopped, WhenCutOff};
use crate::journal::Journal;

/// The wait after the first failed connect, and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How long the last reports may take to be on record once a shutdown has given everything back.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// An orchestrator that owes an answer for this part of the lease is not there any more. The question came up to
/// a heartbeat after the last sign that it had from here, and the lease must last until it is back on another
/// link: a half-open link, of which only the other side knows, must not cost the lease.
const SILENCE_PART: u32 = 3;
/// Whatever a peer says: no faster heartbeats, no shorter leases, and neither longer than an hour.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3600));

pub(super) struct Driver {
    setup: Setup,
    ledger: Ledger,
    mailbox: Arc<Mailbox>,
    attempts: Attempts,
    writer: Writer,
    backoff: Backoff,
    phase: LinkPhase,
    session: Option<SessionId>,
    agent: Option<AgentId>,
    slots: u32,
    lease_ttl: Duration,
    keeper: Keeper,
    /// Shown until the agent is registered; empty if it is.
    registration: Secret,
    /// The number of the last `Hello`.
    ///
    /// It only grows for as long as a life lasts, over restarts too: it begins at what the identity was given
    /// at the start of this program, which is above all that the one before has used. The orchestrator
    /// takes a number that does not grow for a hello that is late, or for one of a copy.
    hellos: u64,
    superseded_at: Option<Instant>,
    /// Since when there is no link, if there was one, until the policy was carried out.
    cut_at: Option<Instant>,
    stop: Option<Stop>,
    sampling: Option<JoinHandle<HostLoad>>,
    drain: Arc<Notify>,
    status: watch::Sender<AgentStatus>,
}

enum Event {
    Shutdown,
    Drain,
    Mail,
    Time,
    Written(Vec<RunRef>, bool),
    Kept,
    Sample(Option<HostLoad>),
    Connect,
    Opened(Result<Opened, Failed>),
    Sent(Result<()>),
    Received(Result<Option<Vec<ToAgent>>>),
}

impl Driver {
    pub(super) fn new(
        setup: Setup,
        mut journal: Option<Journal>,
        keeper: Keeper,
        registration: Secret,
        drain: Arc<Notify>,
        status: watch::Sender<AgentStatus>,
    ) -> Self {
        let rules = Rules {
            has_journal: journal.is_some(),
            cancel_grace: setup.cancel_grace,
            announce_after: setup.announce_after,
            max_queued: setup.max_queued,
            max_queued_bytes: setup.max_queued_bytes,
        };
        let mut ledger = Ledger::new(rules, 0);
        let mut session = None;
        if let Some(journal) = &mut journal {
            let remembered = journal.recall();
            if !remembered.interrupted.is_empty() {
                let runs = remembered.interrupted.len();
                tracing::warn!(runs, "attempts were interrupted by the end of the last process");
            }
            session = remembered.session;
            for (run, outcome) in remembered.ended {
                ledger.restore(run, outcome);
            }
        }
        Self {
            ledger,
            mailbox: Arc::new(Mailbox::new(setup.max_unsent_log_bytes)),
            attempts: Attempts::default(),
            writer: Writer::new(journal),
            backoff: Backoff::new(RECONNECT.0, RECONNECT.1, setup.seed),
            phase: LinkPhase::Waiting(Instant::now()),
            session,
            agent: None,
            slots: 0,
            lease_ttl: INTERVALS.1,
            hellos: keeper.identity().hellos(),
            keeper,
            registration,
            superseded_at: None,
            cut_at: None,
            stop: None,
            sampling: None,
            drain,
            status,
            setup,
        }
    }

    pub(super) async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Stopped> {
        let mut shutdown = pin!(shutdown.fuse());
        let mut is_shutdown = false;
        let metronome = Metronome::start();
        let mut beat = Duration::ZERO;
        loop {
            let wake_at = self.wake_at();
            let event = tokio::select! {
                biased;
                () = &mut shutdown, if !is_shutdown => Event::Shutdown,
                () = self.drain.notified() => Event::Drain,
                (runs, is_written) = self.writer.written() => Event::Written(runs, is_written),
                () = self.keeper.written() => Event::Kept,
                event = self.phase.next() => event,
                () = self.mailbox.arrived() => Event::Mail,
                () = metronome.tick() => Event::Time,
                sample = sampled(&mut self.sampling) => Event::Sample(sample),
                () = tokio::time::sleep_until(wake_at) => Event::Time,
            };
            is_shutdown |= matches!(event, Event::Shutdown);
            if let Err(error) = self.handle(event) {
                self.show_status();
                return Err(error);
            }
            self.pass();
            if let LinkPhase::Up(up) = &self.phase
                && up.heartbeat_every != beat
            {
                beat = up.heartbeat_every;
                // Twice as often, so that a beat that is due is late by half an interval at most.
                metronome.set(beat / 2);
            }
            self.show_status();
            if let Some(stopped) = self.leave().await {
                return Ok(stopped);
            }
        }
    }

    /// Handles one event. An error ends the runtime.
    fn handle(&mut self, event: Event) -> Result<()> {
        let now = Instant::now();
        match event {
            Event::Shutdown => {
                let give_back_at = later(now, self.setup.drain_timeout);
                let leave_at = later(later(give_back_at, self.setup.cancel_grace), FLUSH_TIMEOUT);
                self.begin_drain(StopReason::Shutdown, Some((give_back_at, leave_at)));
            }
            Event::Drain => self.begin_drain(StopReason::Drained, None),
            Event::Mail | Event::Time | Event::Kept => {}
            Event::Written(runs, is_written) => {
                let mut effects = Vec::new();
                for run in runs {
                    self.ledger.written(run, is_written, now, &mut effects);
                }
                self.carry_out(effects);
            }
            Event::Sample(load) => {
                if let (LinkPhase::Up(up), Some(load)) = (&mut self.phase, load) {
                    up.control.push(FromAgent::Heartbeat { load: Some(Box::new(load)) });
                }
            }
            Event::Connect => self.connect(),
            Event::Opened(Ok(opened)) => return self.opened(opened, now),
            Event::Opened(Err(Failed::ForNow(error))) => self.wait_to_connect(&error, now),
            Event::Opened(Err(Failed::Mismatch(error))) if self.was_welcomed() => {
                self.wait_for_a_match(&error, now);
            }
            Event::Opened(Err(Failed::Mismatch(error) | Failed::ForGood(error))) => return Err(error),
            Event::Sent(Ok(())) => {}
            Event::Sent(Err(error)) => {
                if error.kind() == ErrorKind::LimitExceeded {
                    let mut effects = Vec::new();
                    self.ledger.batch_was_too_large(&mut effects);
                    self.carry_out(effects);
                }
                self.cut(&error, now);
            }
            Event::Received(Ok(Some(messages))) => {
                if let LinkPhase::Up(up) = &mut self.phase {
                    up.owed_since = None;
                    up.is_beat_unanswered = false;
                }
                return self.received(messages, now);
            }
            Event::Received(Ok(None)) => {
                let message = "the orchestrator closed the link";
                self.cut(&Error::new(ErrorKind::Closed, "link.receive", message), now);
            }
            Event::Received(Err(error)) => self.cut(&error, now),
        }
        Ok(())
    }

    /// What is done after every event: takes what attempts said, does what is due, writes and sends.
    fn pass(&mut self) {
        let now = Instant::now();
        let mut effects = Vec::new();
        let mail = self.mailbox.take();
        for piece in mail.logs {
            self.ledger.log(piece.run, piece.stream, piece.offset, piece.bytes, &mut effects);
        }
        for (run, progress) in mail.progress {
            self.ledger.progress(run, progress);
        }
        for (run, outcome) in mail.ended {
            self.attempts.0.remove(&run);
            self.ledger.finished(run, outcome, now, &mut effects);
        }
        self.ledger.tick(now);
        if let Some(stop) = &mut self.stop
            && stop.give_back_at.is_some_and(|at| at <= now)
        {
            stop.give_back_at = None;
            self.ledger.give_back(self.setup.cancel_grace, &mut effects);
        }
        if self.setup.when_cut_off == WhenCutOff::Stop && self.cut_off_at().is_some_and(|at| at <= now) {
            tracing::warn!("the lease ran out while the link was down; attempts are stopped");
            self.cut_at = None;
            self.ledger.give_back(self.setup.cancel_grace, &mut effects);
        }
        self.carry_out(effects);
        self.write(now);
        self.keeper.begin();
        self.send(now);
    }

    fn write(&mut self, now: Instant) {
        let is_last = self.stop.is_some() && !self.ledger.is_busy();
        let lost = self.writer.begin(is_last);
        if !lost.is_empty() {
            let mut effects = Vec::new();
            for run in lost {
                self.ledger.written(run, false, now, &mut effects);
            }
            self.carry_out(effects);
        }
    }

    /// Starts to send what there is to say, unless something is being sent.
    fn send(&mut self, now: Instant) {
        let LinkPhase::Up(up) = &mut self.phase else { return };
        if up.sending.is_none() {
            let mut messages = std::mem::take(&mut up.control);
            if let Some((first, reports)) = self.ledger.take_batch() {
                messages.push(FromAgent::Reports { first, reports });
            }
            // One that is slow to record answers a heartbeat all the same.
            let is_in_doubt = up.doubt_at(self.lease_ttl / SILENCE_PART / 2).is_some_and(|at| at <= now);
            if messages.is_empty() && (up.beat_at <= now || is_in_doubt) {
                messages.push(FromAgent::Heartbeat { load: None });
                up.is_beat_unanswered = true;
            }
            if !messages.is_empty() {
                up.beat_at = now + self.backoff.spread(up.heartbeat_every);
                // Counted from a question on: before it, an orchestrator that is slow owes no sign.
                up.owed_since.get_or_insert(now);
                let link = up.link.clone();
                up.sending = Some(async move { link.send(messages).await }.boxed());
            }
        }
        if up.load_at <= now
            && self.sampling.is_none()
            && let Some(source) = self.setup.load.clone()
        {
            up.load_at = later(now, up.heartbeat_every.saturating_mul(self.setup.load_every));
            self.sampling = Some(tokio::task::spawn_blocking(move || source.sample()));
        }
        if up.sending.is_none() && !self.ledger.is_unanswered() && !up.is_beat_unanswered {
            up.owed_since = None;
        } else if up
            .owed_since
            .is_some_and(|since| now.duration_since(since) >= self.lease_ttl / SILENCE_PART)
        {
            let message = "the orchestrator answered nothing for a third of the lease";
            self.cut(&Error::new(ErrorKind::Unavailable, "link.send", message), now);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(dispatched) => self.start(*dispatched),
                Effect::Cancel(run, grace) => {
                    if let Some((_, cancellation)) = self.attempts.0.get(&run) {
                        cancellation.cancel(grace);
                    }
                }
                Effect::Abort(run) => {
                    if let Some((abort, _)) = self.attempts.0.get(&run) {
                        abort.abort();
                    }
                }
                Effect::Write { record, durably } => self.writer.push(record, durably),
                Effect::FreeLog(weight) => self.mailbox.free_log(weight),
            }
        }
    }

    fn cut_off_at(&self) -> Option<Instant> {
        let policy_at = self.cut_at.map(|at| at + self.lease_ttl);
        policy_at.filter(|_| self.setup.when_cut_off == WhenCutOff::Stop)
    }

    /// When something is due, whatever happens until then.
    fn wake_at(&mut self) -> Instant {
        let mut times = vec![self.ledger.next_tick(), self.cut_off_at()];
        if let Some(stop) = &self.stop {
            times.extend([stop.give_back_at, stop.leave_at]);
        }
        if let LinkPhase::Up(up) = &self.phase {
            let has_source = self.setup.load.is_some() && self.sampling.is_none();
            times.extend([
                up.sending.is_none().then_some(up.beat_at),
                has_source.then_some(up.load_at),
                up.owed_since.map(|since| since + self.lease_ttl / SILENCE_PART),
                up.doubt_at(self.lease_ttl / SILENCE_PART / 2).filter(|_| up.sending.is_none()),
            ]);
        }
        // Far enough to cost nothing.
        let latest = Instant::now() + INTERVALS.1;
        times.into_iter().flatten().min().unwrap_or(latest).min(latest)
    }

    fn show_status(&self) {
        let counts = self.ledger.counts();
        let status = AgentStatus {
            is_connected: matches!(self.phase, LinkPhase::Up(_)),
            is_draining: self.ledger.is_draining(),
            agent: self.agent.clone(),
            session: self.session,
            running: counts.running,
            queued: counts.queued,
            unsent: counts.unsent,
        };
        self.status.send_if_modified(|shown| {
            let is_news = *shown != status;
            *shown = status;
            is_news
        });
    }
}

/// `None` if the source panicked.
async fn sampled(sampling: &mut Option<JoinHandle<HostLoad>>) -> Option<HostLoad> {
    let Some(handle) = sampling else { return std::future::pending().await };
    let sample = handle.await;
    *sampling = None;
    sample.ok()
}

/// Ten years later at most, so that no setting can overflow.
fn later(at: Instant, duration: Duration) -> Instant {
    at + duration.min(Duration::from_secs(10 * 365 * 24 * 3600))
}
