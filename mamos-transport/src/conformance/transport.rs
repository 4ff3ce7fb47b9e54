//! What a transport promises, after [`mamos_core::transport`].

mod connecting;
mod ending;
mod frames;
mod pressure;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener};

use super::links::link_delivers;
use super::promise::{Broken, Check, judge, soon};

/// A listener and a connector that reaches it.
pub struct Pair {
    /// The orchestrator's end.
    pub listener: Arc<dyn Listener>,
    /// The agent's end.
    pub connector: Arc<dyn Connector>,
    /// The largest frame that it takes, in bytes; `None` if it has no limit.
    pub max_frame_bytes: Option<usize>,
    /// What must live as long as the two, for example a directory.
    pub guard: Box<dyn Any + Send + Sync>,
}

impl Pair {
    /// A pair without a limit on frames.
    pub fn new(listener: impl Listener, connector: impl Connector) -> Self {
        Self {
            listener: Arc::new(listener),
            connector: Arc::new(connector),
            max_frame_bytes: None,
            guard: Box::new(()),
        }
    }

    /// The largest frame that it takes, in bytes.
    #[must_use]
    pub fn with_max_frame_bytes(mut self, max_frame_bytes: usize) -> Self {
        self.max_frame_bytes = Some(max_frame_bytes);
        self
    }

    /// Keeps something alive as long as the pair.
    #[must_use]
    pub fn keeping(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guard = Box::new(guard);
        self
    }

    /// One connection: the agent's end and the orchestrator's.
    async fn connected(&self) -> Result<(Arc<dyn Connection>, Arc<dyn Connection>), String> {
        let (ours, theirs) =
            soon("connecting", async { tokio::join!(self.connector.connect(), self.listener.accept()) })
                .await?;
        let (ours, theirs) = (ours.map_err(|e| e.to_string())?, theirs.map_err(|e| e.to_string())?);
        if ours.is_reliable() == theirs.is_reliable() {
            Ok((ours, theirs))
        } else {
            Err("one end says that it is reliable and the other that it is not".to_owned())
        }
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({}, {})", self.listener.describe(), self.connector.describe())
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __transport_promises {
    (($($then:tt)+) $arguments:tt) => { $($then)+! { $arguments
        frames_of_every_size_arrive_whole
        ten_thousand_frames_arrive_once_and_in_order_if_it_is_reliable
        binary_and_text_keep_their_encoding
        both_directions_flow_at_once
        an_oversize_frame_is_refused_and_the_connection_goes_on
        a_dropped_receive_loses_nothing
        a_dropped_send_leaves_frames_whole
        a_slow_receiver_slows_the_sender
        a_blocked_send_ends_when_the_connection_does
        an_orderly_close_comes_after_the_frames
        closing_ends_both_sides_and_more_than_once
        an_abrupt_end_is_noticed
        one_connection_ends_without_the_others
        many_connections_live_at_once
        a_dropped_accept_loses_no_connection
        connecting_to_nobody_is_unavailable
        everything_has_a_name
        a_link_delivers_everything_once_and_in_order
    } };
}

macro_rules! list {
    (() $($promise:ident)+) => {
        /// The promises, by name.
        pub const PROMISES: &[&str] = &[$(stringify!($promise)),+];

        fn find(promise: &str) -> Option<(&'static str, Check<Pair>)> {
            match promise {
                $(stringify!($promise) => Some((stringify!($promise), |pair| Box::pin($promise(pair)))),)+
                _ => None,
            }
        }
    };
}
crate::__transport_promises! { (list) () }

use connecting::{
    a_dropped_accept_loses_no_connection, connecting_to_nobody_is_unavailable, everything_has_a_name,
    many_connections_live_at_once, one_connection_ends_without_the_others,
};
use ending::{
    a_blocked_send_ends_when_the_connection_does, an_abrupt_end_is_noticed,
    an_orderly_close_comes_after_the_frames, closing_ends_both_sides_and_more_than_once,
};
use frames::{
    an_oversize_frame_is_refused_and_the_connection_goes_on, binary_and_text_keep_their_encoding,
    both_directions_flow_at_once, frames_of_every_size_arrive_whole,
    ten_thousand_frames_arrive_once_and_in_order_if_it_is_reliable,
};
use pressure::{
    a_dropped_receive_loses_nothing, a_dropped_send_leaves_frames_whole, a_slow_receiver_slows_the_sender,
};

async fn a_link_delivers_everything_once_and_in_order(pair: Pair) -> Result<(), String> {
    let (ours, theirs) = pair.connected().await?;
    link_delivers(ours, theirs, 600).await
}

/// Checks one promise.
///
/// # Errors
///
/// [`Broken`] says what was seen instead, or that there is no such promise.
pub async fn check(promise: &str, fresh: Pair) -> Result<(), Broken> {
    match find(promise) {
        Some((promise, check)) => judge(promise, check, fresh).await,
        None => Err(Broken { promise: "the_promise_exists", why: format!("there is none called {promise}") }),
    }
}

/// Checks every promise, and gives those that are broken.
pub async fn broken_promises<F, Fut>(fresh: F) -> Vec<Broken>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Pair>,
{
    let mut broken = Vec::new();
    for promise in PROMISES {
        broken.extend(check(promise, fresh().await).await.err());
    }
    broken
}

/// 0 to 250, twice, so that a run of 251 can begin anywhere.
const PATTERN: [u8; 502] = {
    let mut pattern = [0; 502];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at % 251) as u8;
        at += 1;
    }
    pattern
};

/// A frame with a number and a size, filled so that any change shows.
fn numbered(number: u64, size: usize) -> Bytes {
    let (start, end) = ((number % 251) as usize, size.max(8));
    let mut bytes = BytesMut::with_capacity(end);
    bytes.put_u64(number);
    // A pattern that begins elsewhere for every number; its period fits no power of two.
    while bytes.len() < end {
        let count = (end - bytes.len()).min(251);
        bytes.extend_from_slice(&PATTERN[start..start + count]);
    }
    bytes.freeze()
}

/// Reads the number back. `None` if anything has changed.
fn number_of(bytes: &Bytes) -> Option<u64> {
    let number = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    (*bytes == numbered(number, bytes.len())).then_some(number)
}

fn into_bytes(frame: Frame) -> Result<(Encoding, Bytes), String> {
    frame.into_bytes(Encoding::Binary, usize::MAX).map_err(|e| e.to_string())
}

/// Sends numbered frames.
async fn send_all(
    connection: &dyn Connection,
    numbers: std::ops::Range<u64>,
    size: fn(u64) -> usize,
) -> Result<(), String> {
    for number in numbers {
        let sent = soon("send", connection.send(Frame::binary(numbered(number, size(number))))).await?;
        sent.map_err(|e| format!("sending frame {number}: {e}"))?;
    }
    Ok(())
}

/// Receives so many numbered frames: all and in order if the connection is reliable, or else any, whole.
async fn receive_all(connection: &dyn Connection, numbers: std::ops::Range<u64>) -> Result<(), String> {
    let mut expected = numbers.clone();
    while !connection.is_reliable() || !expected.is_empty() {
        let received = match connection.is_reliable() {
            true => soon("receive", connection.receive()).await?,
            false => match super::promise::unless_silent(connection.receive()).await {
                Some(received) => received,
                None => return Ok(()),
            },
        };
        let Some(frame) = received.map_err(|e| format!("receive: {e}"))? else {
            return Err(format!("ended before frame {}", expected.start));
        };
        let number = number_of(&into_bytes(frame)?.1);
        if connection.is_reliable() {
            let next = expected.next();
            if number != next {
                return Err(format!("frame {next:?} was expected, and {number:?} came"));
            }
        } else if !number.is_some_and(|number| numbers.contains(&number)) {
            return Err("a frame came that was never sent".to_owned());
        }
    }
    Ok(())
}
