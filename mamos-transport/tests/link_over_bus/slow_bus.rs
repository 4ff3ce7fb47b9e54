//! A bus whose answers take a while: what waits, and what goes on meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::bus::{Bus, Message, Subscribe, Subscription};
use mamos_core::transport::{Encoding, Frame};
use mamos_transport::bus::MemoryBus;

use super::meddler::is_up;
use super::{linked, settings};

/// What the way there takes; the answer takes as long again.
const ONE_WAY: Duration = Duration::from_millis(10);

/// Delivers what agents publish after a while, and says so later still.
#[derive(Default)]
struct SlowBus {
    bus: MemoryBus,
    calls: Mutex<Calls>,
}

/// The calls with frames of agents.
#[derive(Default)]
struct Calls {
    open: VecDeque<usize>,
    most_open: usize,
    sizes: Vec<usize>,
}

impl SlowBus {
    fn calls<T>(&self, look: impl FnOnce(&mut Calls) -> T) -> T {
        look(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Bus for SlowBus {
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        if !messages.first().is_some_and(is_up) {
            return self.bus.publish(messages).await;
        }
        let count = messages.len();
        self.calls(|calls| {
            calls.open.push_back(count);
            calls.most_open = calls.most_open.max(calls.open.len());
            calls.sizes.push(count);
        });
        tokio::time::sleep(ONE_WAY).await;
        let published = self.bus.publish(messages).await;
        tokio::time::sleep(ONE_WAY).await;
        self.calls(|calls| calls.open.pop_front());
        published
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        self.bus.subscribe(subscribe).await
    }

    fn describe(&self) -> String {
        "a slow bus".to_owned()
    }
}

/// Sends so many frames, one every so often, and checks that they arrive in order.
async fn flow(count: u32, pause: Duration) -> Calls {
    let bus = Arc::new(SlowBus::default());
    let linked = linked(bus.clone(), settings()).await;
    // The last message of the handshake may still be on its way.
    tokio::time::sleep(10 * ONE_WAY).await;
    bus.calls(|calls| *calls = Calls::default());
    let sending = async {
        for number in 0..count {
            linked.agent.send(Frame::binary(number.to_be_bytes().to_vec())).await.unwrap();
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    };
    let receiving = async {
        for number in 0..count {
            let frame = linked.orchestrator.receive().await.unwrap().unwrap();
            assert_eq!(frame.into_bytes(Encoding::Binary, 8).unwrap().1, number.to_be_bytes()[..]);
        }
    };
    tokio::join!(sending, receiving);
    bus.calls(std::mem::take)
}

#[tokio::test(start_paused = true)]
async fn a_flood_does_not_wait_for_each_answer() {
    let calls = flow(10_000, Duration::ZERO).await;
    assert_eq!(calls.most_open, 2);
    assert!(calls.sizes.len() < 10_000 / 50, "in {} calls", calls.sizes.len());
}

/// So that it goes together, in one message as soon as the answer is there.
#[tokio::test(start_paused = true)]
async fn little_waits_for_the_answer_to_what_went_before() {
    let calls = flow(200, Duration::from_millis(1)).await;
    assert_eq!(calls.most_open, 1);
    assert!(calls.sizes.len() < 200 / 10, "{:?}", calls.sizes);
    assert!(calls.sizes.iter().all(|messages| *messages == 1), "{:?}", calls.sizes);
}
