//! Makes any connection reliable: messages arrive once and in order while the link lives.
//!
//! A connection that [is reliable](Connection::is_reliable) by itself is used as it is. Over others,
//! frames are numbered, acknowledged cumulatively, and sent again when no acknowledgement comes; what
//! arrives twice is dropped, what arrives early waits. [`Window`] holds the rules, as plain functions
//! over plain state; [`Link`] is the loop around it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Envelope, FromAgent, ToAgent};
use crate::auth::Binding;
use crate::transport::{Connection, Frame};
use crate::{Error, ErrorKind, Result};

/// A frame that was not acknowledged for this long is sent again.
const RESEND_AFTER: Duration = Duration::from_millis(300);
/// The most frames on their way. Enough to fill a link; few enough to bound memory.
const MAX_UNACKNOWLEDGED: usize = 64;
/// The most early frames that wait for the ones before them.
const MAX_EARLY: usize = 64;

/// A message that travels in an [`Envelope`], in one of the two directions.
pub trait Wire: Clone + Send + 'static {
    /// Wraps an envelope of this direction.
    fn into_frame(envelope: Envelope<Self>) -> Frame;

    /// Reads a frame of this direction.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if it is not one.
    fn from_frame(frame: Frame) -> Result<Envelope<Self>>;
}

impl Wire for ToAgent {
    fn into_frame(envelope: Envelope<Self>) -> Frame {
        envelope.into()
    }

    fn from_frame(frame: Frame) -> Result<Envelope<Self>> {
        frame.into_to_agent()
    }
}

impl Wire for FromAgent {
    fn into_frame(envelope: Envelope<Self>) -> Frame {
        envelope.into()
    }

    fn from_frame(frame: Frame) -> Result<Envelope<Self>> {
        frame.into_from_agent()
    }
}

/// One side of a link: sends messages of one direction and receives those of the other.
///
/// `send` and `receive` may be called by two tasks at once. Over a connection that is not reliable,
/// `receive` also does the acknowledging and resending, so it must be called all the time. It goes on
/// receiving while it sends: two sides that send at once cannot block each other for good.
#[derive(Debug)]
pub struct Link<Out, In> {
    connection: Arc<dyn Connection>,
    window: Option<Mutex<Window<Out, In>>>,
    sending: tokio::sync::Mutex<()>,
    acknowledged: Notify,
    /// A frame is on its way that may have to be sent again.
    numbered: Notify,
}

/// An orchestrator's side of a link.
pub type AgentLink = Link<ToAgent, FromAgent>;
/// An agent's side of a link.
pub type OrchestratorLink = Link<FromAgent, ToAgent>;

impl<Out: Wire, In: Wire> Link<Out, In> {
    /// A link over a new connection.
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        let window = (!connection.is_reliable()).then(|| Mutex::new(Window::default()));
        let (acknowledged, numbered) = (Notify::new(), Notify::new());
        Self { connection, window, sending: tokio::sync::Mutex::default(), acknowledged, numbered }
    }

    /// Tells the transport that the other side could not prove who it is.
    pub fn note_refused(&self) {
        self.connection.note_refused();
    }

    /// What the connection alone has in common with the other end; see [`Connection::binding`].
    pub fn binding(&self) -> Option<Binding> {
        self.connection.binding()
    }

    /// Sends messages. Waits while the other side is slow.
    ///
    /// # Errors
    ///
    /// As [`Connection::send`]. After any error but [`ErrorKind::LimitExceeded`] the link is of no use.
    pub async fn send(&self, messages: Vec<Out>) -> Result<()> {
        let Some(window) = &self.window else {
            let _one_at_a_time = self.sending.lock().await;
            return self.connection.send(Out::into_frame(Envelope::unnumbered(messages))).await;
        };
        let envelope = loop {
            // Taken before looking, so that an acknowledgement in between is not missed.
            let acknowledged = self.acknowledged.notified();
            {
                let mut window = lock(window);
                if window.is_ended {
                    return Err(Error::new(ErrorKind::Closed, "link.send", "the connection is gone"));
                }
                if window.has_room() {
                    break window.number(messages, Instant::now());
                }
            }
            acknowledged.await;
        };
        self.numbered.notify_one();
        let seq = envelope.seq;
        let sent = self.transmit(envelope).await;
        if let Err(error) = &sent
            && error.kind() == ErrorKind::LimitExceeded
        {
            let emptied = lock(window).forget(seq);
            if let Some(emptied) = emptied {
                self.transmit(emptied).await?;
            }
        }
        sent
    }

    /// Waits for messages. `None` once the other side has closed the connection. Safe to drop and call
    /// again.
    ///
    /// # Errors
    ///
    /// As [`Connection::receive`], or [`ErrorKind::Corrupt`] if a frame is not of the protocol.
    pub async fn receive(&self) -> Result<Option<Vec<In>>> {
        let Some(window) = &self.window else {
            let frame = self.connection.receive().await?;
            return frame.map(|frame| In::from_frame(frame).map(|envelope| envelope.messages)).transpose();
        };
        let received = self.receive_in_order(window).await;
        if !matches!(received, Ok(Some(_))) {
            // Whoever waits for an acknowledgement would wait for ever.
            lock(window).is_ended = true;
            self.acknowledged.notify_waiters();
        }
        received
    }

    async fn receive_in_order(&self, window: &Mutex<Window<Out, In>>) -> Result<Option<Vec<In>>> {
        loop {
            let (resend_at, owes_ack) = {
                let window = lock(window);
                (window.resend_at(), window.owes_acknowledgement)
            };
            // All sending is a branch beside receiving: were it awaited alone, two sides with full
            // connections would each wait for the other to receive.
            tokio::select! {
                biased;
                frame = self.connection.receive() => {
                    let Some(frame) = frame? else { return Ok(None) };
                    let messages = lock(window).arrived(In::from_frame(frame)?)?;
                    self.acknowledged.notify_waiters();
                    if !messages.is_empty() {
                        return Ok(Some(messages));
                    }
                }
                sent = self.acknowledge(window), if owes_ack => sent?,
                sent = self.resend(window, resend_at) => sent?,
            }
        }
    }

    /// Closes the connection.
    pub async fn close(&self) {
        if let Some(window) = &self.window {
            lock(window).is_ended = true;
            self.acknowledged.notify_waiters();
        }
        self.connection.close().await;
    }

    /// Who is at the other end, for people and logs.
    pub fn peer(&self) -> String {
        self.connection.peer()
    }

    async fn acknowledge(&self, window: &Mutex<Window<Out, In>>) -> Result<()> {
        let envelope = lock(window).acknowledgement();
        self.transmit(envelope).await?;
        // Only now: this may have been dropped while it waited.
        lock(window).owes_acknowledgement = false;
        Ok(())
    }

    /// Waits until a frame is to be sent again, and sends all that are. Without any, until there is one
    /// on its way.
    async fn resend(&self, window: &Mutex<Window<Out, In>>, at: Option<Instant>) -> Result<()> {
        match at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => self.numbered.notified().await,
        }
        loop {
            let now = Instant::now();
            let late = lock(window).next_due_again(now);
            let Some(envelope) = late else { return Ok(()) };
            let seq = envelope.seq;
            match self.transmit(envelope).await {
                Err(error) if error.kind() == ErrorKind::LimitExceeded => drop(lock(window).forget(seq)),
                sent => sent?,
            }
        }
    }

    async fn transmit(&self, envelope: Envelope<Out>) -> Result<()> {
        let _one_at_a_time = self.sending.lock().await;
        self.connection.send(Out::into_frame(envelope)).await
    }
}

/// The rules of a link over a connection that may lose, duplicate and reorder frames.
#[derive(Debug)]
pub struct Window<Out, In> {
    numbered: u64,
    unacknowledged: VecDeque<(Instant, Envelope<Out>)>,
    arrived_through: u64,
    early: BTreeMap<u64, Vec<In>>,
    owes_acknowledgement: bool,
    is_ended: bool,
}

impl<Out, In> Default for Window<Out, In> {
    fn default() -> Self {
        Self {
            numbered: 0,
            unacknowledged: VecDeque::new(),
            arrived_through: 0,
            early: BTreeMap::new(),
            owes_acknowledgement: false,
            is_ended: false,
        }
    }
}

impl<Out: Clone, In> Window<Out, In> {
    /// May another frame be sent now?
    pub fn has_room(&self) -> bool {
        self.unacknowledged.len() < MAX_UNACKNOWLEDGED
    }

    /// Gives messages the next number, and keeps them until they are acknowledged.
    pub fn number(&mut self, messages: Vec<Out>, now: Instant) -> Envelope<Out> {
        self.numbered += 1;
        self.owes_acknowledgement = false;
        let envelope = Envelope { seq: self.numbered, ack: self.arrived_through, messages };
        self.unacknowledged.push_back((now, envelope.clone()));
        envelope
    }

    /// Takes a frame, and gives the messages that can be handled now, in order.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if it acknowledges what was never sent.
    pub fn arrived(&mut self, envelope: Envelope<In>) -> Result<Vec<In>> {
        if envelope.ack > self.numbered {
            let message = "the other side acknowledges frames that were never sent";
            return Err(Error::new(ErrorKind::Corrupt, "link.receive", message));
        }
        while self.unacknowledged.front().is_some_and(|(_, sent)| sent.seq <= envelope.ack) {
            self.unacknowledged.pop_front();
        }
        if envelope.seq == 0 {
            return Ok(envelope.messages);
        }
        // A repeat too: its acknowledgement may have been lost.
        self.owes_acknowledgement = true;
        if envelope.seq <= self.arrived_through {
            return Ok(Vec::new());
        }
        if envelope.seq > self.arrived_through + 1 {
            // Beyond the bound it is dropped, and comes again.
            if self.early.len() < MAX_EARLY {
                self.early.insert(envelope.seq, envelope.messages);
            }
            return Ok(Vec::new());
        }
        let mut messages = envelope.messages;
        self.arrived_through += 1;
        while let Some(next) = self.early.remove(&(self.arrived_through + 1)) {
            self.arrived_through += 1;
            messages.extend(next);
        }
        Ok(messages)
    }

    /// A frame that only acknowledges.
    pub fn acknowledgement(&self) -> Envelope<Out> {
        Envelope { seq: 0, ack: self.arrived_through, messages: Vec::new() }
    }

    /// When the next of the frames on their way is to be sent again.
    pub fn resend_at(&self) -> Option<Instant> {
        self.unacknowledged.iter().map(|(sent_at, _)| *sent_at + RESEND_AFTER).min()
    }

    /// A frame that is to be sent again now, the oldest first. It counts as sent from here on.
    pub fn next_due_again(&mut self, now: Instant) -> Option<Envelope<Out>> {
        let ack = self.arrived_through;
        let due = self.unacknowledged.iter_mut().find(|(sent_at, _)| *sent_at + RESEND_AFTER <= now);
        due.map(|(sent_at, envelope)| {
            *sent_at = now;
            Envelope { ack, ..envelope.clone() }
        })
    }

    /// Empties a frame that cannot be sent. Its number is taken, and the other side waits for it.
    pub fn forget(&mut self, seq: u64) -> Option<Envelope<Out>> {
        let (_, envelope) = self.unacknowledged.iter_mut().find(|(_, sent)| sent.seq == seq)?;
        envelope.messages.clear();
        Some(envelope.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state is consistent between statements, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Side = Window<u32, u32>;

    proptest! {
        /// Whatever a network loses, duplicates or reorders, all messages arrive once and in order.
        #[test]
        fn everything_arrives_once_and_in_order(fates in proptest::collection::vec(0u8..8, 0..400)) {
            let start = Instant::now();
            let (mut sender, mut receiver) = (Side::default(), Side::default());
            let mut network: VecDeque<Envelope<u32>> = VecDeque::new();
            let (mut next, mut received) = (0u32, Vec::new());
            let mut now = start;
            // After the chosen fates, a benign network lets everything through.
            for fate in fates.into_iter().chain(std::iter::repeat_n(3, 400)) {
                now += Duration::from_millis(40);
                if next < 100 && sender.has_room() {
                    network.push_back(sender.number(vec![next, next + 1], now));
                    next += 2;
                }
                network.extend(std::iter::from_fn(|| sender.next_due_again(now)));
                match (fate, network.pop_front()) {
                    (0, _) | (_, None) => {}
                    (1, Some(frame)) => network.push_back(frame),
                    (2, Some(frame)) => {
                        network.push_back(frame.clone());
                        received.extend(receiver.arrived(frame).unwrap());
                    }
                    (_, Some(frame)) => received.extend(receiver.arrived(frame).unwrap()),
                }
                // The way back loses acknowledgements as well.
                if fate % 3 == 0 {
                    sender.arrived(receiver.acknowledgement()).unwrap();
                }
            }
            prop_assert_eq!(received, (0..next).collect::<Vec<_>>());
            prop_assert!(sender.unacknowledged.is_empty());
        }
    }

    #[test]
    fn an_acknowledgement_of_nothing_is_refused() {
        let mut side = Side::default();
        assert!(side.arrived(Envelope { seq: 0, ack: 1, messages: vec![] }).is_err());
    }

    #[test]
    fn early_frames_are_bounded() {
        let mut side = Side::default();
        for seq in 2..10_000 {
            assert!(side.arrived(Envelope { seq, ack: 0, messages: vec![0] }).unwrap().is_empty());
        }
        assert_eq!(side.early.len(), MAX_EARLY);
    }
}
