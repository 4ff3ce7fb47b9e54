//! A bus that a stranger has a hand in: sees everything, and publishes what it likes instead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::Result;
use mamos_core::bus::{Bus, Message, Subscribe, Subscription};
use mamos_transport::bus::MemoryBus;

type Rule = Box<dyn FnMut(Message) -> Vec<Message> + Send>;

/// Clones are the same bus.
#[derive(Clone)]
pub(crate) struct Meddler {
    bus: MemoryBus,
    state: Arc<Mutex<State>>,
}

struct State {
    rule: Rule,
    seen: Vec<Message>,
}

impl Meddler {
    /// Only looks.
    pub(crate) fn new() -> Self {
        let state = State { rule: Box::new(|message| vec![message]), seen: Vec::new() };
        Self { bus: MemoryBus::new(), state: Arc::new(Mutex::new(state)) }
    }

    /// A tenth is lost, a tenth comes twice, and a fifth is overtaken by the next message.
    pub(crate) fn bad(seed: u64) -> Self {
        Self::bad_to(seed, |_| true)
    }

    /// The same for frames only: making connections takes its time over a bad bus, and so does noticing that the other
    /// side left whose goodbye was lost; the kit is impatient.
    pub(crate) fn bad_to_frames(seed: u64) -> Self {
        Self::bad_to(seed, |message| !matches!(message.payload.first(), Some(b'A' | b'B' | 1 | 2)))
    }

    fn bad_to(seed: u64, is_meant: impl Fn(&Message) -> bool + Send + 'static) -> Self {
        let meddler = Self::new();
        let (mut random, mut held) = (fastrand::Rng::with_seed(seed), None::<Message>);
        meddler.set(move |message| {
            if !is_meant(&message) {
                return vec![message];
            }
            let mut out = match random.u8(..10) {
                0 => vec![],
                1 => vec![message.clone(), message],
                2 | 3 => return held.replace(message).into_iter().collect(),
                _ => vec![message],
            };
            out.extend(held.take());
            out
        });
        meddler
    }

    /// What becomes of each message from now on.
    pub(crate) fn set(&self, rule: impl FnMut(Message) -> Vec<Message> + Send + 'static) {
        self.lock().rule = Box::new(rule);
    }

    /// What was published so far, in order.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.lock().seen.clone()
    }

    /// Publishes as a stranger, past its own rule.
    pub(crate) async fn inject(&self, messages: Vec<Message>) {
        self.bus.publish(messages).await.unwrap();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for Meddler {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        let mut out = Vec::new();
        {
            let mut state = self.lock();
            for message in messages {
                // Small ones only: a test that sends much is not interested in them.
                if message.payload.len() < 1000 && state.seen.len() < 10_000 {
                    state.seen.push(message.clone());
                }
                out.extend((state.rule)(message));
            }
        }
        self.bus.publish(out).await
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        self.bus.subscribe(subscribe).await
    }

    fn describe(&self) -> String {
        "a bus with a stranger".to_owned()
    }
}

pub(crate) fn is_up(message: &Message) -> bool {
    message.topic.as_str().ends_with(".up")
}

pub(crate) fn is_down(message: &Message) -> bool {
    message.topic.as_str().ends_with(".down")
}

/// The same with one bit changed, in the middle.
pub(crate) fn tampered(message: Message) -> Message {
    let mut payload = message.payload.to_vec();
    let middle = payload.len() / 2;
    payload[middle] ^= 4;
    Message { payload: Bytes::from(payload), ..message }
}
