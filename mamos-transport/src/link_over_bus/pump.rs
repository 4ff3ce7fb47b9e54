//! Moves a connection's messages between its queues and the bus, and notices when it is dead.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use mamos_core::bus::{Bus, Subscription};
use mamos_core::{Error, ErrorKind};
use tokio::time::Instant;

use super::connection::{End, Shared};

/// How long the last messages of a connection may take.
pub(super) const FAREWELL_WITHIN: Duration = Duration::from_secs(1);
/// A bus that could not take or give something is asked again after this long.
pub(super) const BUS_PAUSE: Duration = Duration::from_millis(100);
/// An agent says that it lives this often until it is heard: its first messages may be lost, and until one
/// arrives the orchestrator does not begin.
const EAGER: Duration = Duration::from_millis(200);

/// The most calls of a connection that publish at the same time.
const CALLS_AT_ONCE: usize = 2;

/// How many messages are opened before anything else is looked at.
const AT_ONCE: usize = 32;

/// How a connection is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The longest silence of the other side, once it was heard.
    pub(super) silence: Duration,
    /// The longest silence until it is heard first.
    pub(super) first_within: Duration,
    /// Something is sent at least this often.
    pub(super) ping_every: Duration,
    /// Is it this side that must be heard first?
    pub(super) is_eager: bool,
}

/// Runs until the connection is over, and a second longer at most.
pub(super) async fn run(
    bus: Arc<dyn Bus>,
    subscription: Box<dyn Subscription>,
    shared: Arc<Shared>,
    pace: Pace,
) {
    let _pumped_out = PumpedOut(&shared);
    let mut writing = std::pin::pin!(write(&*bus, &shared, pace));
    tokio::select! {
        () = &mut writing => return,
        () = read(subscription, &shared, pace) => {}
    }
    // As `select!` drops the reader only, what is half written goes on.
    if !matches!(shared.ended(), Some(End::PeerLeft)) {
        // Whoever does not learn it notices the silence.
        let _ = tokio::time::timeout(FAREWELL_WITHIN, writing).await;
    }
}

/// Says that nothing more is published, however the pump ends.
struct PumpedOut<'a>(&'a Shared);

impl Drop for PumpedOut<'_> {
    fn drop(&mut self) {
        self.0.set_pumped_out();
    }
}

/// Publishes what waits, as much at once as there is. Ends when the connection is over and nothing waits.
///
/// While a bus is asked, and a broker's confirm may take a while, more is published as soon as much waits:
/// the broker has work then while its answer is on the way back. Little waits for the answer, and grows.
async fn write(bus: &dyn Bus, shared: &Shared, pace: Pace) {
    let mut wrote_at = Instant::now();
    // Polled in this order, so that messages do not overtake each other on a bus that takes calls in turn.
    let mut on_the_way = FuturesOrdered::new();
    loop {
        while on_the_way.is_empty() || (on_the_way.len() < CALLS_AT_ONCE && shared.waits_much()) {
            let messages = shared.take_waiting();
            if messages.is_empty() {
                break;
            }
            let count = messages.len() as u64;
            on_the_way.push_back(async move { (count, bus.publish(messages).await) });
        }
        if on_the_way.is_empty() {
            if shared.ended().is_some() {
                return;
            }
            let every = if pace.is_eager && !shared.is_heard() {
                pace.ping_every.min(EAGER)
            } else {
                pace.ping_every
            };
            tokio::select! {
                () = shared.to_write.notified() => {}
                () = tokio::time::sleep_until(wrote_at + every) => {
                    wrote_at = Instant::now();
                    shared.ping();
                }
            }
            continue;
        }
        tokio::select! {
            () = shared.much_to_write.notified(), if on_the_way.len() < CALLS_AT_ONCE => {}
            Some((count, published)) = on_the_way.next() => {
                wrote_at = Instant::now();
                let Err(error) = published else { continue };
                shared.counts().add(|counts| counts.unpublished += count);
                if error.kind() != ErrorKind::Unavailable {
                    shared.end(End::Failed(gone("the bus does not take its messages", error)));
                    return;
                }
                // What was not taken is lost, as it may be on any bus. If that lasts, the silence ends the
                // connection.
                tracing::debug!(target: "mamos::link", %error, "the bus does not take messages now");
                tokio::time::sleep(BUS_PAUSE).await;
            }
        }
    }
}

/// Takes what comes. Ends when the connection is over.
async fn read(mut subscription: Box<dyn Subscription>, shared: &Shared, pace: Pace) {
    let mut heard_at = Instant::now();
    let mut timer = std::pin::pin!(tokio::time::sleep(pace.first_within));
    loop {
        // Taken before looking, so that an end in between is not missed.
        let over = shared.over.notified();
        if shared.ended().is_some() {
            return;
        }
        tokio::select! {
            () = over => {}
            () = timer.as_mut() => {
                let limit = if shared.is_heard() { pace.silence } else { pace.first_within };
                if heard_at.elapsed() >= limit {
                    let message = format!("nothing was heard from the other side for {limit:?}");
                    shared.end(End::Failed(Error::new(ErrorKind::Unavailable, "link.receive", message)));
                } else {
                    timer.as_mut().reset(heard_at + limit);
                }
            }
            received = subscription.receive() => {
                let (mut next, mut left) = (Some(received), AT_ONCE);
                while let Some(received) = next.take() {
                    match received {
                        Ok(Some(received)) => {
                            let was_heard = shared.is_heard();
                            if shared.arrived(received.payload) {
                                heard_at = Instant::now();
                                if !was_heard {
                                    timer.as_mut().reset(heard_at + pace.silence);
                                }
                            }
                            left -= 1;
                            // What came with it: to wait for each anew costs more than to open it.
                            if left > 0 && shared.ended().is_none() {
                                next = subscription.receive().now_or_never();
                            }
                        }
                        Ok(None) => {
                            let message = "the bus is closed";
                            let error = Error::new(ErrorKind::Unavailable, "link.receive", message);
                            shared.end(End::Failed(error));
                        }
                        Err(error) if error.kind() == ErrorKind::Unavailable => {
                            tokio::time::sleep(BUS_PAUSE).await;
                        }
                        Err(error) => shared.end(End::Failed(gone("the bus gives no messages", error))),
                    }
                }
                // A flood must not keep the thread from others.
                tokio::task::consume_budget().await;
            }
        }
    }
}

fn gone(what: &str, error: Error) -> Error {
    Error::new(ErrorKind::Unavailable, "link.run", what.to_owned()).with_source(error)
}
