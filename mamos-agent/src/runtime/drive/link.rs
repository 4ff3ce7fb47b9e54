//! How the loop comes by a link, what it does with what arrives on it, and how it gives it up.

use futures_util::FutureExt;
use mamos_core::auth::{Binding, Nonce};
use mamos_core::protocol::{FromAgent, Hello, OLDEST_VERSION, ToAgent, VERSION};
use mamos_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::phase::{LinkPhase, Up};
use super::{Driver, INTERVALS};
use crate::journal::Record;
use crate::runtime::StopReason;
use crate::runtime::greeting::{self, Opened};
use crate::runtime::ledger::Turn;

impl Driver {
    pub(super) fn connect(&mut self) {
        let profile = self.setup.agent.profile();
        self.slots = profile.slots;
        self.hellos = self.hellos.saturating_add(1);
        let (number, session, runs) = (self.hellos, self.session, self.ledger.runs());
        let (identity, registration) = (self.keeper.identity(), self.registration.clone());
        let now = self.setup.clock.now();
        let introduce = move |nonce: &Nonce, binding: Option<&Binding>| {
            Box::new(Hello {
                oldest_version: OLDEST_VERSION,
                version: VERSION,
                credentials: identity.credentials(&registration, nonce, binding),
                profile,
                instance: identity.instance(),
                previous: identity.previous(),
                number,
                session,
                runs,
                now,
            })
        };
        let connector = self.setup.connector.clone();
        let opening = greeting::open(connector, introduce, self.setup.connect_timeout);
        self.phase = LinkPhase::Connecting(opening.boxed());
    }

    pub(super) fn opened(&mut self, opened: Opened, now: Instant) -> Result<()> {
        let welcome = *opened.welcome;
        tracing::info!(
            agent = %welcome.agent, session = %welcome.session, is_resumed = welcome.is_resumed, "connected"
        );
        self.keeper.welcomed(&welcome.agent, welcome.issued);
        if self.session.replace(welcome.session) != Some(welcome.session) {
            self.writer.push(Record::Session(welcome.session), false);
        }
        self.agent = Some(welcome.agent);
        self.lease_ttl = welcome.lease_ttl.clamp(INTERVALS.0, INTERVALS.1);
        self.cut_at = None;
        let heartbeat_every = welcome.heartbeat_every.clamp(INTERVALS.0, INTERVALS.1);
        let is_leaving = self.ledger.is_draining();
        self.phase = LinkPhase::Up(Box::new(Up {
            link: opened.link,
            sending: None,
            control: if is_leaving { vec![FromAgent::Slots { total: 0 }] } else { Vec::new() },
            heartbeat_every,
            beat_at: now + self.backoff.spread(heartbeat_every),
            load_at: now,
            since: now,
            owed_since: None,
            is_beat_unanswered: false,
        }));
        self.ledger.linked();
        let mut effects = Vec::new();
        self.ledger.set_slots(self.slots, now, &mut effects);
        self.carry_out(effects);
        self.received(opened.rest, now)
    }

    pub(super) fn received(&mut self, messages: Vec<ToAgent>, now: Instant) -> Result<()> {
        let mut effects = Vec::new();
        let mut result = Ok(());
        for message in messages {
            match message {
                ToAgent::Drain => self.begin_drain(StopReason::Drained, None),
                ToAgent::Refused { is_final, message } => {
                    let kind = if is_final { ErrorKind::Denied } else { ErrorKind::Unavailable };
                    let error = Error::new(kind, "agent.run", message);
                    if is_final {
                        result = Err(error);
                    } else {
                        self.cut(&error, now);
                    }
                    break;
                }
                ToAgent::Token { token } => self.keeper.renewed(token),
                ToAgent::Superseded if !self.was_superseded_lately(now) => {
                    self.superseded_at = Some(now);
                    let message = "another program with the identity of this agent took over";
                    self.cut(&Error::new(ErrorKind::Stale, "agent.run", message), now);
                    break;
                }
                message => match self.ledger.receive(message, now, &mut effects) {
                    Ok(Turn::GoOn) => {}
                    Ok(Turn::Superseded) => {
                        let message = "another program with the identity of this agent took over twice; \
                                       give each agent an identity of its own";
                        result = Err(Error::new(ErrorKind::Stale, "agent.run", message));
                        break;
                    }
                    Err(error) => {
                        self.cut(&error, now);
                        break;
                    }
                },
            }
        }
        self.carry_out(effects);
        result
    }

    /// A program that is superseded comes back once and says who it is. If it was copied, the
    /// orchestrator sees that neither descends from the other, and admits none of them. If it was a hello of
    /// its own that arrived late, it goes on. Twice within a lease is neither: then it gives way.
    fn was_superseded_lately(&self, now: Instant) -> bool {
        self.superseded_at.is_some_and(|at| now.duration_since(at) < self.lease_ttl)
    }

    /// Did this program have a link before? What it found then shows that its settings are good.
    pub(super) fn was_welcomed(&self) -> bool {
        self.agent.is_some()
    }

    /// The link is of no use any more.
    pub(super) fn cut(&mut self, error: &Error, now: Instant) {
        if let LinkPhase::Up(up) = &self.phase {
            if now.duration_since(up.since) >= self.setup.stable_after {
                self.backoff.reset();
            }
            self.cut_at = Some(now);
        }
        self.wait_to_connect(error, now);
    }

    /// Never waits longer than a third of the lease: an orchestrator that comes back gives its agents the time
    /// of a lease to do the same, and one try may fail.
    pub(super) fn wait_to_connect(&mut self, error: &Error, now: Instant) {
        let delay = self.backoff.next_delay(self.lease_ttl / 3);
        tracing::warn!(%error, ?delay, "no link to the orchestrator; trying again");
        self.phase = LinkPhase::Waiting(now + delay);
    }

    /// Whoever answers now is not who welcomed the agent. What runs here goes on; somebody has to look.
    pub(super) fn wait_for_a_match(&mut self, error: &Error, now: Instant) {
        let delay = self.backoff.long_delay();
        tracing::error!(
            %error, ?delay,
            "what answers is not the orchestrator as it was before; check its certificate, address and version, \
             and what lies between; trying again"
        );
        self.phase = LinkPhase::Waiting(now + delay);
    }
}
