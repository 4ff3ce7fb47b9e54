//! One end of a connection: what is sent waits for the bus, what arrived waits for the receiver.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::auth::Binding;
use mamos_core::bus::{Bus, Message};
use mamos_core::id::TopicName;
use mamos_core::transport::{Connection, Encoding, Frame};
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::Notify;

use super::bundles;
use super::counts::Counts;
use super::lock;
use super::names::LinkName;
use super::outgoing::Outgoing;
use super::parts::Assembly;
use super::pump::FAREWELL_WITHIN;
use super::refusals::Refusals;
use super::secrets::{Dropped, Kind, Opener, Sealer};
use super::settings::LinkSettings;

/// The most frames that wait for the receiver. What comes beyond that is dropped: the sender will send it
/// again, and could not be told to wait.
const MAX_ARRIVED: usize = 1024;
/// The same in bytes. A frame more is kept if it is alone.
const MAX_ARRIVED_BYTES: usize = 16 * 1024 * 1024;

/// One end of a connection over a bus. When it is dropped the other end is told, within a second.
pub(super) struct BusConnection {
    shared: Arc<Shared>,
    name: LinkName,
    refusals: Option<Arc<Refusals>>,
}

impl BusConnection {
    pub(super) fn new(shared: Arc<Shared>, name: LinkName, refusals: Option<Arc<Refusals>>) -> Self {
        Self { shared, name, refusals }
    }
}

impl Drop for BusConnection {
    fn drop(&mut self) {
        self.shared.end(End::Left);
    }
}

#[async_trait]
impl Connection for BusConnection {
    async fn send(&self, frame: Frame) -> Result<()> {
        let (encoding, bytes) = frame.into_bytes(Encoding::Binary, self.shared.max_frame_bytes)?;
        loop {
            // Taken before looking, so that room that is made in between is not missed.
            let room = self.shared.room.notified();
            if self.shared.put(encoding, &bytes)? {
                return Ok(());
            }
            room.await;
        }
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        loop {
            let readable = self.shared.readable.notified();
            if let Some(frame) = lock(&self.shared.incoming).take() {
                return Ok(Some(frame));
            }
            match self.shared.end.get() {
                None => readable.await,
                Some(End::Left | End::PeerLeft) => return Ok(None),
                Some(End::Failed(error)) => return Err(error.duplicate()),
            }
        }
    }

    /// Waits until the bus has the farewell, or a second: a program that ends then may do so.
    async fn close(&self) {
        self.shared.end(End::Left);
        let _ = tokio::time::timeout(FAREWELL_WITHIN, self.shared.pumped_out()).await;
    }

    fn is_reliable(&self) -> bool {
        false
    }

    fn binding(&self) -> Option<Binding> {
        Some(self.shared.binding)
    }

    fn peer(&self) -> String {
        self.shared.peer.clone()
    }

    fn note_refused(&self) {
        if let Some(refusals) = &self.refusals {
            refusals.note(&self.name);
        }
    }
}

impl fmt::Debug for BusConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BusConnection({})", self.shared.peer)
    }
}

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum End {
    /// This side closed it.
    Left,
    /// The other side closed it.
    PeerLeft,
    /// It is of no use any more.
    Failed(Error),
}

/// What an end of a connection and its [pump](super::pump) have in common.
pub(super) struct Shared {
    topic: TopicName,
    peer: String,
    binding: Binding,
    max_frame_bytes: usize,
    counts: Arc<Counts>,
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Incoming>,
    end: OnceLock<End>,
    is_heard: AtomicBool,
    /// The first message of the other side was opened.
    pub(super) heard: Notify,
    pub(super) over: Notify,
    /// There is something to publish, or another pace to keep.
    pub(super) to_write: Notify,
    /// So much waits that it should not wait for what is on the way.
    pub(super) much_to_write: Notify,
    room: Notify,
    readable: Notify,
    is_pumped_out: AtomicBool,
    pumped_out: Notify,
}

struct Incoming {
    opener: Opener,
    assembly: Assembly,
    frames: VecDeque<(Encoding, Bytes)>,
    bytes: usize,
}

impl Shared {
    pub(super) fn new(
        bus: &dyn Bus,
        settings: &LinkSettings,
        topic: TopicName,
        (sealer, opener): (Sealer, Opener),
        binding: Binding,
        counts: Arc<Counts>,
    ) -> Self {
        let outgoing = Outgoing::new(sealer, settings.max_message_bytes);
        let assembly = Assembly::new(settings.max_frame_bytes);
        let incoming = Incoming { opener, assembly, frames: VecDeque::new(), bytes: 0 };
        Self {
            peer: format!("{topic} over {}", bus.describe()),
            topic,
            binding,
            max_frame_bytes: settings.max_frame_bytes,
            counts,
            outgoing: Mutex::new(outgoing),
            incoming: Mutex::new(incoming),
            end: OnceLock::new(),
            is_heard: AtomicBool::new(false),
            heard: Notify::new(),
            over: Notify::new(),
            to_write: Notify::new(),
            much_to_write: Notify::new(),
            room: Notify::new(),
            readable: Notify::new(),
            is_pumped_out: AtomicBool::new(false),
            pumped_out: Notify::new(),
        }
    }

    pub(super) fn ended(&self) -> Option<&End> {
        self.end.get()
    }

    /// Has the other side shown that it has the keys?
    pub(super) fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Acquire)
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Ends the connection, if nothing has ended it yet. The other side is told, unless it has left: also when it was
    /// not heard for long, because it may hear, and would wait for as long again.
    pub(super) fn end(&self, end: End) {
        {
            let mut outgoing = lock(&self.outgoing);
            if self.end.get().is_some() {
                return;
            }
            if !matches!(end, End::PeerLeft) {
                outgoing.sign(Kind::Bye);
            }
            // Nobody else can have set it: that needs the lock.
            let _ = self.end.set(end);
        }
        self.over.notify_waiters();
        self.room.notify_waiters();
        self.readable.notify_one();
        self.to_write.notify_one();
    }

    /// Nothing will be published any more.
    pub(super) fn set_pumped_out(&self) {
        self.is_pumped_out.store(true, Ordering::Release);
        self.pumped_out.notify_waiters();
    }

    async fn pumped_out(&self) {
        loop {
            let pumped_out = self.pumped_out.notified();
            if self.is_pumped_out.load(Ordering::Acquire) {
                return;
            }
            pumped_out.await;
        }
    }

    /// Lets a frame wait for the bus. `false` if there is no room.
    fn put(&self, encoding: Encoding, frame: &Bytes) -> Result<bool> {
        let is_much = {
            let mut outgoing = lock(&self.outgoing);
            match self.end.get() {
                None => {}
                Some(End::Failed(error)) => return Err(error.duplicate()),
                Some(End::Left | End::PeerLeft) => {
                    return Err(Error::new(ErrorKind::Closed, "link.send", "the connection is closed"));
                }
            }
            if !outgoing.has_room_for(frame.len()) {
                return Ok(false);
            }
            let had_much = outgoing.is_much();
            outgoing.frame(encoding, frame.clone());
            !had_much && outgoing.is_much()
        };
        self.to_write.notify_one();
        // Once, not with every frame: each would wake the pump.
        if is_much {
            self.much_to_write.notify_one();
        }
        Ok(true)
    }

    /// Lets a sign of life wait for the bus.
    pub(super) fn ping(&self) {
        {
            let mut outgoing = lock(&self.outgoing);
            if self.end.get().is_some() {
                return;
            }
            outgoing.sign(Kind::Ping);
        }
        self.to_write.notify_one();
    }

    /// Does so much wait that it should not wait for what is on the way?
    pub(super) fn waits_much(&self) -> bool {
        lock(&self.outgoing).is_much()
    }

    /// All that waits for the bus and goes into one call. Nothing, and the end of the connection, if its keys are worn out.
    pub(super) fn take_waiting(&self) -> Vec<Message> {
        let taken = lock(&self.outgoing).take();
        let messages = match taken {
            Ok(messages) => messages,
            Err(error) => {
                self.end(End::Failed(error));
                return Vec::new();
            }
        };
        if !messages.is_empty() {
            self.room.notify_waiters();
        }
        messages.into_iter().map(|payload| Message { topic: self.topic.clone(), payload }).collect()
    }

    /// Takes a message that came on the topic. Gives whether the other side was heard with it.
    pub(super) fn arrived(&self, message: Bytes) -> bool {
        let mut incoming = lock(&self.incoming);
        let (kind, content) = match incoming.opener.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                drop(incoming);
                self.counts.add(|counts| match why {
                    Dropped::Unreadable => counts.unusable += 1,
                    Dropped::Forged => counts.forged += 1,
                    Dropped::Replayed => counts.replayed += 1,
                });
                return false;
            }
        };
        let handled = match kind {
            Kind::Ping => Ok(()),
            Kind::Bye => {
                drop(incoming);
                self.end(End::PeerLeft);
                return true;
            }
            Kind::Binary => self.frame_arrived(&mut incoming, Encoding::Binary, content),
            Kind::Text => self.frame_arrived(&mut incoming, Encoding::Text, content),
            Kind::BinaryPart => self.part_arrived(&mut incoming, Encoding::Binary, content),
            Kind::TextPart => self.part_arrived(&mut incoming, Encoding::Text, content),
            Kind::Bundle => self.bundle_arrived(&mut incoming, content),
        };
        drop(incoming);
        if let Err(error) = handled {
            self.end(End::Failed(error));
        }
        if !self.is_heard.swap(true, Ordering::AcqRel) {
            self.heard.notify_one();
            self.to_write.notify_one();
        }
        true
    }

    fn part_arrived(&self, incoming: &mut Incoming, encoding: Encoding, part: Bytes) -> Result<()> {
        let assembled = incoming.assembly.take(encoding, part)?;
        if assembled.given_up > 0 {
            self.counts.add(|counts| counts.incomplete += assembled.given_up);
        }
        match assembled.frame {
            Some(frame) => self.frame_arrived(incoming, encoding, frame),
            None => Ok(()),
        }
    }

    fn bundle_arrived(&self, incoming: &mut Incoming, mut bundle: Bytes) -> Result<()> {
        let mut overflowed = 0;
        while !bundle.is_empty() {
            let (encoding, frame) = bundles::read(&mut bundle)?;
            if incoming.has_room_for(frame.len()) {
                // Bytes of its own: whoever keeps one frame must not keep them all.
                self.frame_arrived(incoming, encoding, Bytes::copy_from_slice(&frame))?;
            } else {
                overflowed += 1;
            }
        }
        if overflowed > 0 {
            self.counts.add(|counts| counts.overflowed += overflowed);
        }
        Ok(())
    }

    fn frame_arrived(&self, incoming: &mut Incoming, encoding: Encoding, frame: Bytes) -> Result<()> {
        if frame.len() > self.max_frame_bytes {
            let message =
                format!("a frame of {} bytes is over the limit of {}", frame.len(), self.max_frame_bytes);
            return Err(Error::new(ErrorKind::LimitExceeded, "link.receive", message));
        }
        if encoding == Encoding::Text && std::str::from_utf8(&frame).is_err() {
            return Err(Error::new(ErrorKind::Corrupt, "link.receive", "a text frame is not UTF-8"));
        }
        if !incoming.has_room_for(frame.len()) {
            self.counts.add(|counts| counts.overflowed += 1);
            return Ok(());
        }
        incoming.bytes += frame.len();
        incoming.frames.push_back((encoding, frame));
        self.readable.notify_one();
        Ok(())
    }
}

impl Incoming {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.frames.is_empty() || (self.frames.len() < MAX_ARRIVED && self.bytes + bytes <= MAX_ARRIVED_BYTES)
    }

    fn take(&mut self) -> Option<Frame> {
        let (encoding, bytes) = self.frames.pop_front()?;
        self.bytes -= bytes.len();
        Some(match encoding {
            Encoding::Binary => Frame::binary(bytes),
            Encoding::Text => Frame::text(bytes),
        })
    }
}
